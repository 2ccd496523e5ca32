//! Rewriting a function: operands of contractions in the formats that were decided.

use cranelift_entity::SecondaryMap;
use indexmap::IndexMap;
use lacuna_ir::{ConstId, Constant, ElemType, Function, Module, NodeData, Op, OriginId, Picked, Value};
use lacuna_isa::format::{Format, GroupFormat, ScalarType};

use super::{Assignment, weights};
use crate::constants::{constant_values, weight_operands};
use crate::emit::Emitter;
use crate::error::Broken;
use crate::module::summed_dims;
use crate::options::{INT4_BLOCK, Precision};
use crate::weights::WeightOptions;

/// The least number of input channels of a convolution that is grouped.
const MIN_CHANNELS: u64 = 16;
/// The least extent of a summed dimension that is grouped: below it, scales outweigh what elements save.
const MIN_SUMMED: u64 = 16;

/// Stands for codes of four bits with a scale for each block along the summed dimension.
const INT4: Format = Format::Scalar(ScalarType::I4);

/// What becomes of the operands of one contraction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Forms {
    /// The format of each operand; `None` keeps it.
    pub operands: [Option<Format>; 2],
    /// Whether weights stay dense although their zeros follow a pattern.
    pub dense: bool,
}

/// What one precision for all makes of a contraction, and why it keeps its formats if it does.
pub fn uniform(
    func: &Function,
    node: &NodeData,
    constant: [bool; 2],
    precision: Precision,
) -> (Forms, Option<&'static str>) {
    let keep = |reason| (Forms::default(), reason);
    let both = |operands: [Format; 2]| (Forms { operands: operands.map(Some), dense: false }, None);
    match precision {
        Precision::F32 | Precision::Auto => keep(None),
        Precision::Bf16 => match castable(func, node) {
            Ok(()) => both([Format::Scalar(ScalarType::Bf16); 2]),
            Err(reason) => keep(Some(reason)),
        },
        // What is quantised is not quantised again.
        Precision::Mx { .. } | Precision::Int4 { .. }
            if node.args.iter().any(|&a| func.blocked(a).is_some()) =>
        {
            let (forms, reason) = uniform(func, node, constant, precision.without_groups());
            (forms, reason.or(Some("its weights are stored in blocks of their own")))
        }
        Precision::Mx { weights, activations: Format::Scalar(to) } => {
            weights_alone(func, node, constant, Format::Grouped(weights), to)
        }
        Precision::Int4 { activations } => weights_alone(func, node, constant, INT4, activations),
        Precision::Mx { weights, activations } => match grouped_axes(func, node) {
            Ok(_) => both(constant.map(|c| if c { Format::Grouped(weights) } else { activations })),
            Err(reason) => keep(Some(reason)),
        },
    }
}

/// Narrow weights, and activations cast to a scalar type, or why the contraction keeps its formats.
fn weights_alone(
    func: &Function,
    node: &NodeData,
    constant: [bool; 2],
    weights: Format,
    to: ScalarType,
) -> (Forms, Option<&'static str>) {
    let narrow = match grouped_axes(func, node) {
        Ok(_) if constant[0] != constant[1] => Some(weights),
        Ok(_) => None,
        Err(reason) => return (Forms::default(), Some(reason)),
    };
    // Operands in the model's own narrow type are no wider.
    let cast = (to != ScalarType::F32 && castable(func, node).is_ok()).then_some(Format::Scalar(to));
    (Forms { operands: constant.map(|c| if c { narrow.or(cast) } else { cast }), dense: false }, None)
}

/// Whether both operands are f32, one of them but for groups that it has already, or why the contraction is not narrowed.
pub fn castable(func: &Function, node: &NodeData) -> Result<(), &'static str> {
    let elems: Vec<ElemType> = node.args.iter().map(|&a| func.ty(a).elem).collect();
    let is_f32 = |elem: &ElemType| *elem == ElemType::Scalar(ScalarType::F32);
    let f32s = elems.iter().all(|e| is_f32(e) || e.scalar().is_none()) && elems.iter().any(is_f32);
    if f32s { Ok(()) } else { Err("an operand is not f32") }
}

/// Whether the operands of attention can become narrower: queries, keys and values are all f32.
pub fn narrows(func: &Function, node: &NodeData) -> bool {
    node.args[..3].iter().all(|&a| func.ty(a).elem == ElemType::Scalar(ScalarType::F32))
}

/// The dimension of each operand along which groups run, or why the contraction stays ungrouped.
pub fn grouped_axes(func: &Function, node: &NodeData) -> Result<[u8; 2], &'static str> {
    let is_grouped = |&arg: &Value| func.ty(arg).elem.scalar().is_none();
    if node.args.iter().all(is_grouped) {
        return Err("its operands are grouped already");
    }
    for &arg in &node.args {
        if func.blocked(arg).is_some() {
            return Err("an operand is stored in blocks of its own");
        }
        match func.ty(arg).elem {
            ElemType::Grouped { .. } => {}
            ElemType::Scalar(ScalarType::F32 | ScalarType::F16 | ScalarType::Bf16) => {}
            ElemType::Scalar(_) => return Err("an operand is not f32, f16 or bf16"),
        }
    }
    if let Op::Conv { attrs, .. } = &node.op {
        if attrs.groups != 1 {
            return Err("the convolution has groups");
        }
        if func.ty(node.args[0]).shape[attrs.x[1] as usize] < MIN_CHANNELS {
            return Err("the convolution has few input channels");
        }
        return Ok([attrs.x[1], attrs.w[1]]);
    }
    let [(0, a), (1, b)] = summed_dims(&node.op)[..] else {
        return Err("not exactly one dimension is summed over");
    };
    if func.ty(node.args[0]).shape[a] < MIN_SUMMED {
        return Err("the summed dimension is short");
    }
    Ok([a as u8, b as u8])
}

/// A conversion that several contractions may share.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Conversion {
    Cast(ScalarType),
    Group(GroupFormat, u8),
    /// Codes with scales along an axis, widened to a type in the product.
    Block(u8, ScalarType),
}

/// Weights that were quantised before, by their number in the module: choices among the same formats share them.
pub type Quantised = IndexMap<(ConstId, GroupFormat, u8), Constant>;

/// A function on its way to other formats.
pub struct Converter<'a> {
    module: &'a mut Module,
    source: &'a Function,
    weights: WeightOptions,
    /// Whether attention gets operands in bf16.
    pub narrows_attention: bool,
    constant: SecondaryMap<Value, bool>,
    /// The new function.
    pub out: Emitter,
    values: SecondaryMap<Value, Option<Value>>,
    converted: IndexMap<(Value, Conversion), Value>,
    /// Weights with groups.
    pub quantised: Quantised,
}

impl<'a> Converter<'a> {
    /// Nothing but the parameters of `source`, a function of `module`.
    pub fn new(module: &'a mut Module, source: &'a Function, weights: WeightOptions) -> Converter<'a> {
        let mut this = Converter {
            module,
            source,
            weights,
            narrows_attention: false,
            constant: constant_values(source),
            out: Emitter::new(source),
            values: SecondaryMap::new(),
            converted: IndexMap::new(),
            quantised: Quantised::new(),
        };
        for (&old, new) in source.params.iter().zip(this.out.params.clone()) {
            this.values[old] = Some(new);
        }
        this
    }

    /// The whole function, each contraction by `plan`, which is told the node and which operands are constant.
    ///
    /// # Errors
    /// What contradicts, if a conversion does not fit; never for a verified module.
    pub fn all(
        &mut self,
        mut plan: impl FnMut(&NodeData, [bool; 2]) -> (Forms, Option<&'static str>),
        assignments: &mut Vec<Assignment>,
    ) -> Result<Function, Broken> {
        let source = self.source;
        for node in source.nodes.values() {
            let mut args = self.known(&node.args)?;
            if node.op.is_product() {
                let (forms, kept) = plan(node, self.weight_operands(node));
                args = self.operands(node, forms)?;
                assignments.push(Assignment {
                    function: source.name.clone(),
                    origins: node.origins.clone(),
                    formats: [0, 1].map(|i| {
                        let codes = forms.operands[i]
                            .filter(|f| *f == INT4 && self.out.func().blocked(args[i]).is_some());
                        codes.unwrap_or_else(|| self.out.func().ty(args[i]).elem.format())
                    }),
                    kept,
                    dense: forms.dense,
                });
            }
            if self.narrows_attention && matches!(node.op, Op::Attention { .. }) {
                // Its weights stay in the PE, in the type of the values: groups along keys would have to be made there.
                self.narrow(node, &mut args[..3])?;
            }
            self.copy(node, &args)?;
        }
        self.results()
    }

    /// Converts operands to bf16 where all of them are f32.
    fn narrow(&mut self, node: &NodeData, args: &mut [Value]) -> Result<(), Broken> {
        let olds = &node.args[..args.len()];
        if !narrows(self.source, node) {
            return Ok(());
        }
        for (arg, &old) in args.iter_mut().zip(olds) {
            let to = Conversion::Cast(ScalarType::Bf16);
            *arg = self.convert(*arg, to, self.constant[old], &node.origins)?;
        }
        Ok(())
    }

    /// Which operands of a contraction are weights.
    pub fn weight_operands(&self, node: &NodeData) -> [bool; 2] {
        weight_operands(self.source, node, &self.constant)
    }

    /// The operands of a contraction in other forms.
    ///
    /// # Errors
    /// As [`Converter::all`].
    pub fn operands(&mut self, node: &NodeData, forms: Forms) -> Result<Vec<Value>, Broken> {
        let form = |why: &str| Broken::Form(why.to_owned());
        let mut args = self.known(&node.args)?;
        for (i, format) in forms.operands.into_iter().enumerate() {
            // A weight that the model stores in groups keeps them.
            if self.out.func().ty(args[i]).elem.scalar().is_none() {
                continue;
            }
            let conversion = match format {
                Some(INT4) => {
                    let other = match forms.operands[1 - i] {
                        Some(Format::Scalar(to)) => Some(to),
                        Some(Format::Grouped(_)) | None => self.source.ty(node.args[1 - i]).elem.scalar(),
                    };
                    let to = other.ok_or(Broken::Form("int4 weights meet groups".into()))?;
                    Conversion::Block(grouped_axes(self.source, node).map_err(form)?[i], to)
                }
                Some(Format::Scalar(to)) if self.out.func().ty(args[i]).elem == ElemType::Scalar(to) => {
                    continue;
                }
                Some(Format::Scalar(to)) => Conversion::Cast(to),
                Some(Format::Grouped(format)) => {
                    Conversion::Group(format, grouped_axes(self.source, node).map_err(form)?[i])
                }
                None => continue,
            };
            args[i] = match self.source.picked(node).filter(|p| p.operand == i && self.constant[p.table]) {
                Some(picked) => self.convert_table(args[i], &picked, conversion, &node.origins)?,
                None => self.convert(args[i], conversion, self.constant[node.args[i]], &node.origins)?,
            };
        }
        Ok(args)
    }

    /// Rows `x` of a constant table in another form: those of the table in that form.
    fn convert_table(
        &mut self,
        x: Value,
        picked: &Picked,
        to: Conversion,
        origins: &[OriginId],
    ) -> Result<Value, Broken> {
        let of_table = match to {
            Conversion::Cast(elem) => Some(Conversion::Cast(elem)),
            Conversion::Group(format, axis) => {
                picked.table_dim(axis.into()).map(|axis| Conversion::Group(format, axis as u8))
            }
            // Codes with scales are not picked.
            Conversion::Block(..) => None,
        };
        let Some(of_table) = of_table else { return self.convert(x, to, false, origins) };
        if let Some(&known) = self.converted.get(&(x, to.clone())) {
            return Ok(known);
        }
        let old = self.known(&[picked.table, picked.indices])?;
        let table = self.convert(old[0], of_table, true, origins)?;
        let gather = &self.source.nodes[picked.gather];
        let new = self.emit(gather.op.clone(), &[table, old[1]], &gather.origins)?;
        self.converted.insert((x, to), new[0]);
        Ok(new[0])
    }

    /// Appends a copy of a node of the source with new operands.
    ///
    /// # Errors
    /// As [`Converter::all`].
    pub fn copy(&mut self, node: &NodeData, args: &[Value]) -> Result<(), Broken> {
        let new = self.emit(node.op.clone(), args, &node.origins)?;
        for (&old, &new) in node.results.iter().zip(&new) {
            self.values[old] = Some(new);
            self.out.name(new, &self.source.values[old].name);
        }
        Ok(())
    }

    /// Appends a node.
    ///
    /// # Errors
    /// As [`Converter::all`].
    pub fn emit(&mut self, op: Op, args: &[Value], origins: &[OriginId]) -> Result<Vec<Value>, Broken> {
        Ok(self.out.emit_all(self.module, op, args, origins)?)
    }

    /// The new values for those of the source.
    ///
    /// # Errors
    /// As [`Converter::all`].
    pub fn known(&self, values: &[Value]) -> Result<Vec<Value>, Broken> {
        let find = |v: &Value| {
            self.values[*v].ok_or_else(|| Broken::Missing(format!("{v} is used before its definition")))
        };
        values.iter().map(find).collect()
    }

    /// The function with the results of the source.
    ///
    /// # Errors
    /// As [`Converter::all`].
    pub fn results(&mut self) -> Result<Function, Broken> {
        let results = self.known(&self.source.results)?;
        let out = std::mem::replace(&mut self.out, Emitter::new(self.source));
        let mut func = out.finish();
        func.results = results;
        Ok(func)
    }

    fn convert(
        &mut self,
        x: Value,
        to: Conversion,
        constant: bool,
        origins: &[OriginId],
    ) -> Result<Value, Broken> {
        if let Some(&known) = self.converted.get(&(x, to.clone())) {
            return Ok(known);
        }
        let new = match (&to, self.out.func().as_const(x)) {
            // Techniques take the place of plain rounding later, where all of the function is known.
            (&Conversion::Group(format, axis), Some(weight)) if self.weights.is_plain() => {
                let grouped = match self.quantised.get(&(weight, format, axis)) {
                    Some(known) => known.clone(),
                    None => {
                        let dense = &self.module.constants[weight];
                        let new = weights::quantized(dense, format, axis, &self.weights)?;
                        self.quantised.insert((weight, format, axis), new.clone());
                        new
                    }
                };
                let value = self.module.constants.push(grouped);
                self.emit(Op::Const { value }, &[], origins)?
            }
            (&Conversion::Group(format, axis), _) => {
                // A constant that is still a recipe, such as a repeated row, is computed with its groups.
                let modes = self.weights.scale_modes;
                let mode = if constant { modes.weights } else { modes.activations };
                self.emit(Op::MxQuantize { format, axis, mode }, &[x], origins)?
            }
            (&Conversion::Block(axis, to), Some(weight)) => {
                let (codes, scales) = weights::blocked(&self.module.constants[weight], axis, to)?;
                let mut blocks = vec![1; codes.ty.shape.rank()];
                blocks[usize::from(axis)] = INT4_BLOCK;
                let mut args = Vec::new();
                for constant in [codes, scales] {
                    let value = self.module.constants.push(constant);
                    args.extend(self.emit(Op::Const { value }, &[], origins)?);
                }
                self.emit(Op::Dequantize { blocks, to }, &args, origins)?
            }
            // A constant that is still a recipe keeps its digits.
            (&Conversion::Cast(to) | &Conversion::Block(_, to), _) => {
                self.emit(Op::Cast { to, saturate: true }, &[x], origins)?
            }
        };
        self.converted.insert((x, to), new[0]);
        Ok(new[0])
    }
}

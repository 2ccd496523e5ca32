//! The selection phase for one precision: which contractions get operands in which format.
//!
//! An approximation is a choice made once on the extracted function, never a union in the e-graph, where congruence
//! would compose errors untracked.

use cranelift_entity::SecondaryMap;
use indexmap::IndexMap;
use lacuna_ir::infer::TypeError;
use lacuna_ir::{ElemType, Function, Module, NodeData, Op, OriginId, Value};
use lacuna_isa::format::{Format, GroupFormat, ScalarType, ScaleMode};

use crate::constants::{constant_values, fold};
use crate::emit::Emitter;
use crate::exact::{Error, functions};
use crate::options::{Options, Precision};
use crate::weights::{ScaleModes, WeightReport, refine};
use crate::zeros::summed_dims;

/// The least number of input channels of a convolution that is grouped.
const MIN_CHANNELS: u64 = 32;
/// The least extent of a summed dimension that is grouped: below it, scales outweigh what elements save.
const MIN_SUMMED: u64 = 16;

/// What a contraction got.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Assignment {
    /// Name of the function.
    pub function: String,
    /// ONNX nodes that the contraction implements.
    pub origins: Vec<OriginId>,
    /// Formats of its operands.
    pub formats: [Format; 2],
    /// Why it kept its formats, if the precision asked for others.
    pub kept: Option<&'static str>,
}

/// A module after the selection phase.
#[derive(Debug)]
pub struct Selected {
    /// The module, with conversions as nodes and quantised weights in the pool.
    pub module: Module,
    /// What each contraction got, in order.
    pub assignments: Vec<Assignment>,
    /// What became of weights that more was done to than plain rounding, in order.
    pub refined: Vec<WeightReport>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Converts the operands of contractions to the chosen precision.
///
/// # Errors
/// When a constant cannot be converted; never for a verified module.
pub fn select(mut module: Module, options: &Options) -> Result<Selected, Error> {
    let mut assignments = Vec::new();
    for func in functions(&module) {
        let source = module.functions[func].clone();
        let converted = Converter::run(&module, &source, options, &mut assignments)
            .map_err(|e| Error::Contradiction { function: source.name.clone(), message: e.to_string() })?;
        module.functions[func] = converted;
    }
    let (mut module, refined) = refine(module, options)?;
    if options.precision != Precision::F32 {
        fold(&mut module)?;
    }
    Ok(Selected { module, assignments, refined, warnings: options.warnings() })
}

/// A conversion that several contractions may share.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Conversion {
    Cast,
    Group(GroupFormat, u8, ScaleMode),
}

struct Converter<'a> {
    module: &'a Module,
    source: &'a Function,
    scale_modes: ScaleModes,
    constant: SecondaryMap<Value, bool>,
    out: Emitter,
    values: SecondaryMap<Value, Option<Value>>,
    converted: IndexMap<(Value, Conversion), Value>,
}

impl<'a> Converter<'a> {
    fn run(
        module: &'a Module,
        source: &'a Function,
        options: &Options,
        assignments: &mut Vec<Assignment>,
    ) -> Result<Function, TypeError> {
        let precision = options.precision;
        let mut this = Converter {
            scale_modes: options.weights.scale_modes,
            module,
            source,
            constant: constant_values(source),
            out: Emitter::new(source),
            values: SecondaryMap::new(),
            converted: IndexMap::new(),
        };
        for (&old, new) in source.params.iter().zip(this.out.params.clone()) {
            this.values[old] = Some(new);
        }
        for node in source.nodes.values() {
            let mut args = this.known(&node.args)?;
            if node.op.is_product() {
                let kept = match precision {
                    Precision::F32 => Ok(()),
                    Precision::Bf16 => this.narrow(node, &mut args),
                    Precision::Mx { weights, activations } => {
                        this.group(node, &mut args, weights, activations)
                    }
                };
                let kept = kept.err();
                if let Some(Refused::Type(error)) = kept {
                    return Err(error);
                }
                assignments.push(Assignment {
                    function: source.name.clone(),
                    origins: node.origins.clone(),
                    formats: [0, 1].map(|i| this.out.func().ty(args[i]).elem.format()),
                    kept: kept.and_then(Refused::reason),
                });
            }
            let new = this.out.emit_all(module, node.op.clone(), &args, &node.origins)?;
            for (&old, &new) in node.results.iter().zip(&new) {
                this.values[old] = Some(new);
                this.out.name(new, &source.values[old].name);
            }
        }
        this.out.results = this.known(&source.results)?;
        Ok(this.out.finish())
    }

    fn known(&self, values: &[Value]) -> Result<Vec<Value>, TypeError> {
        let find = |v: &Value| {
            self.values[*v].ok_or_else(|| TypeError(format!("{v} is used before its definition")))
        };
        values.iter().map(find).collect()
    }

    fn narrow(&mut self, node: &NodeData, args: &mut [Value]) -> Result<(), Refused> {
        let f32s = node.args.iter().all(|&a| self.source.ty(a).elem == ElemType::Scalar(ScalarType::F32));
        if !f32s {
            return Err(Refused::Kept("an operand is not f32"));
        }
        for arg in args {
            *arg = self.convert(*arg, Conversion::Cast, node)?;
        }
        Ok(())
    }

    fn group(
        &mut self,
        node: &NodeData,
        args: &mut [Value],
        weights: GroupFormat,
        activations: GroupFormat,
    ) -> Result<(), Refused> {
        let axes = grouped_axes(self.source, node).map_err(Refused::Kept)?;
        for (i, axis) in axes.into_iter().enumerate() {
            let (format, mode) = if self.constant[node.args[i]] {
                (weights, self.scale_modes.weights)
            } else {
                (activations, self.scale_modes.activations)
            };
            args[i] = self.convert(args[i], Conversion::Group(format, axis, mode), node)?;
        }
        Ok(())
    }

    fn convert(&mut self, x: Value, to: Conversion, node: &NodeData) -> Result<Value, Refused> {
        if let Some(&known) = self.converted.get(&(x, to.clone())) {
            return Ok(known);
        }
        let op = match to {
            Conversion::Cast => Op::Cast { to: ScalarType::Bf16, saturate: true },
            Conversion::Group(format, axis, mode) => Op::MxQuantize { format, axis, mode },
        };
        let new = self.out.emit_all(self.module, op, &[x], &node.origins).map_err(Refused::Type)?;
        self.converted.insert((x, to), new[0]);
        Ok(new[0])
    }
}

/// Why a contraction keeps its formats.
enum Refused {
    Kept(&'static str),
    Type(TypeError),
}

impl Refused {
    fn reason(self) -> Option<&'static str> {
        match self {
            Refused::Kept(reason) => Some(reason),
            Refused::Type(_) => None,
        }
    }
}

/// The dimension of each operand along which groups run, or why the contraction stays ungrouped.
fn grouped_axes(func: &Function, node: &NodeData) -> Result<[u8; 2], &'static str> {
    for &arg in &node.args {
        match func.ty(arg).elem {
            ElemType::Grouped { .. } => return Err("an operand is grouped already"),
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

//! The walk over a function that replaces constant operands of products.

use std::sync::Arc;

use cranelift_entity::SecondaryMap;
use indexmap::IndexMap;
use lacuna_ir::dead::dead_code;
use lacuna_ir::eval::{EvalError, Groups, Mode, Tensor, TensorData, eval_op};
use lacuna_ir::op::ContractMap;
use lacuna_ir::types::MAX_RANK;
use lacuna_ir::{
    ConstId, Constant, ConstantData, ElemType, FuncId, Function, Module, NodeData, Op, OriginId, Shape,
    TensorType, Value,
};
use lacuna_isa::format::{GroupFormat, ScalarType, ScaleMode};

use super::factor::Factor;
use super::gram::{Gram, Loss, MAX_K, Operand};
use super::hadamard;
use super::matrix::{Layout, Matrix};
use super::narrow::{Narrowed, Plan, Storage, narrow};
use super::options::{PruneBy, Rounding, WeightOptions};
use crate::constants::constant_values;
use crate::emit::Emitter;
use crate::error::Error;
use crate::module::functions;
use crate::options::Options;

/// Rows of weights whose error is estimated, at most.
const ESTIMATED_ROWS: usize = 64;

/// What became of the weights of one product.
#[derive(Clone, PartialEq, Debug)]
pub struct WeightReport {
    /// Name of the function.
    pub function: String,
    /// ONNX nodes that the product implements.
    pub origins: Vec<OriginId>,
    /// Part of the weights that is not zero, in percent.
    pub density_percent: f64,
    /// Signal of the product's result over the noise that pruning and rounding of the weights add to it, in dB: on
    /// the calibration inputs if there are any, else on inputs without correlation.
    pub sqnr_db: f64,
    /// Whether operands are rotated.
    pub rotated: bool,
    /// What was asked for and could not be done.
    pub notes: Vec<&'static str>,
}

/// Applies [`Options::weights`] to every product with a constant operand, in a module whose products have their formats
/// (as `mx_quantize` and `cast` nodes, not computed yet) with [`Options::calibration`] as inputs of the one entry.
///
/// # Errors
/// When the calibration inputs do not fit, or the function cannot be evaluated on them.
pub fn refine(mut module: Module, options: &Options) -> Result<Refined, Error> {
    let (mut reports, mut warnings) = (Vec::new(), Vec::new());
    if options.weights.is_plain() {
        return Ok(Refined { module, reports, warnings });
    }
    for func in functions(&module) {
        let source = module.functions[func].clone();
        let entry = <[FuncId; 1]>::try_from(module.entries.iter().map(|e| e.func).collect::<Vec<_>>());
        let batches: &[Vec<Tensor>] = if entry == Ok([func]) { &options.calibration } else { &[] };
        let mut refiner = Refiner::new(&mut module, &source, options, batches)
            .map_err(|e| Error::Calibration { function: source.name.clone(), message: e.into() })?;
        let refined = refiner
            .run()
            .map_err(|e| Error::Calibration { function: source.name.clone(), message: e.into() })?;
        reports.append(&mut refiner.reports);
        warnings.extend(source.nodes.values().filter_map(|node| refiner.unpruned(node)));
        module.functions[func] = refined;
    }
    dead_code(&mut module);
    warnings.extend(without_effect(options.weights, &reports));
    Ok(Refined { module, reports, warnings })
}

/// What [`refine`] gives.
pub struct Refined {
    /// The module with new weights.
    pub module: Module,
    /// What became of the weights that were looked at.
    pub reports: Vec<WeightReport>,
    /// What was asked for and has no effect, beside the notes of the reports.
    pub warnings: Vec<String>,
}

/// Which techniques no weights got.
fn without_effect(asked: WeightOptions, reports: &[WeightReport]) -> Vec<String> {
    let mut all = Vec::new();
    // Notes say of each product with weights in groups why it is not rotated.
    if asked.hadamard && reports.iter().all(|w| !w.rotated && w.notes.is_empty()) {
        all.push("--hadamard has no effect: no product has both operands in groups".to_owned());
    }
    if reports.is_empty() {
        let search = asked.scale_search.then(|| "--scale-search".to_owned());
        let rounding =
            (asked.rounding != Rounding::Nearest).then(|| format!("--rounding {}", asked.rounding));
        let named: Vec<String> = [rounding, search].into_iter().flatten().collect();
        if !named.is_empty() {
            all.push(format!("{} has no effect: no weights are in groups, or pruned", named.join(" and ")));
        }
    }
    all
}

/// A value on every calibration batch.
type Batches = Vec<Tensor>;

struct Refiner<'a> {
    module: &'a mut Module,
    source: &'a Function,
    options: &'a Options,
    constant: SecondaryMap<Value, bool>,
    uses: SecondaryMap<Value, usize>,
    out: Emitter,
    values: SecondaryMap<Value, Option<Value>>,
    n_batches: usize,
    /// Computed values of the source, as the refined function gives them, until their last use.
    live: SecondaryMap<Value, Option<Batches>>,
    /// The same values in the function without any rounding, where the difference is asked for.
    exact: SecondaryMap<Value, Option<Batches>>,
    /// New weights by old ones and the dimension that is summed.
    weights: IndexMap<(Value, usize, bool), (Value, ConstId)>,
    /// Rotated and quantised values by quantised ones.
    rotated: IndexMap<Value, (Value, Batches)>,
    /// The Hadamard matrix, once something is rotated.
    hadamard: Option<(Value, Tensor)>,
    reports: Vec<WeightReport>,
}

/// A product whose weights are refined.
struct Product<'n> {
    node: &'n NodeData,
    /// Which operand is constant.
    operand: usize,
    layout: Layout,
    /// The constant before it is narrowed.
    inner: Value,
    storage: Storage,
}

impl<'a> Refiner<'a> {
    fn new(
        module: &'a mut Module,
        source: &'a Function,
        options: &'a Options,
        batches: &[Vec<Tensor>],
    ) -> Result<Refiner<'a>, EvalError> {
        let mut this = Refiner {
            constant: constant_values(source),
            uses: SecondaryMap::with_capacity(source.values.len()),
            out: Emitter::new(source),
            values: SecondaryMap::new(),
            n_batches: batches.len(),
            live: SecondaryMap::with_capacity(source.values.len()),
            exact: SecondaryMap::new(),
            weights: IndexMap::new(),
            rotated: IndexMap::new(),
            hadamard: None,
            reports: Vec::new(),
            module,
            source,
            options,
        };
        for node in source.nodes.values() {
            for arg in this.reads(node) {
                this.uses[arg] += 1;
            }
        }
        for (i, (&old, new)) in source.params.iter().zip(this.out.params.clone()).enumerate() {
            this.values[old] = Some(new);
            let mut given = Vec::with_capacity(batches.len());
            for batch in batches {
                let tensor = batch.get(i).ok_or_else(|| EvalError::Input(format!("input {i} is missing")))?;
                if tensor.ty != *source.ty(old) {
                    return Err(EvalError::Input(format!(
                        "input {i} is {}, not {}",
                        tensor.ty,
                        source.ty(old)
                    )));
                }
                given.push(tensor.clone());
            }
            if this.corrects() {
                this.exact[old] = Some(given.clone());
            }
            this.live[old] = Some(given);
        }
        Ok(this)
    }

    fn run(&mut self) -> Result<Function, EvalError> {
        for node in self.source.nodes.values() {
            let mut args = self.known(&node.args)?;
            let product = self.product(node);
            let mut inputs = Vec::new();
            if self.n_batches > 0 && !node.results.iter().all(|&r| self.constant[r]) {
                inputs = node.args.iter().map(|&a| self.batches(a)).collect::<Result<Vec<_>, _>>()?;
            }
            if let Some(product) = product {
                self.refine(&product, &mut args, &mut inputs)?;
            }
            let new = self.out.emit_all(self.module, node.op.clone(), &args, &node.origins)?;
            for (&old, &new) in node.results.iter().zip(&new) {
                self.values[old] = Some(new);
                self.out.name(new, &self.source.values[old].name);
            }
            let mut exact = Vec::new();
            if self.corrects() && !inputs.is_empty() {
                exact = node.args.iter().map(|&a| self.exact(a)).collect::<Result<Vec<_>, _>>()?;
            }
            self.forget(node);
            if !inputs.is_empty() {
                let results = self.evaluate(&node.op, &inputs)?;
                self.keep(node, results, |this| &mut this.live);
            }
            if !exact.is_empty() {
                let results = if let Op::MxQuantize { .. } = node.op {
                    exact
                } else {
                    self.evaluate(&node.op, &exact)?
                };
                self.keep(node, results, |this| &mut this.exact);
            }
        }
        self.out.results = self.known(&self.source.results)?;
        Ok(std::mem::replace(&mut self.out, Emitter::new(self.source)).finish())
    }

    fn known(&self, values: &[Value]) -> Result<Vec<Value>, EvalError> {
        values.iter().map(|&v| self.values[v].ok_or(EvalError::Undefined(v))).collect()
    }

    /// A value of the source on every batch; a constant is there once.
    fn batches(&self, value: Value) -> Result<Batches, EvalError> {
        if self.constant[value] {
            return Ok(vec![self.recipe(value)?]);
        }
        self.live[value].clone().ok_or(EvalError::Undefined(value))
    }

    /// Whether values without any rounding are wanted too.
    fn corrects(&self) -> bool {
        self.n_batches > 0 && self.options.weights.rounding == Rounding::Corrected
    }

    /// A value of the source without any rounding on every batch; a constant is there once.
    fn exact(&self, value: Value) -> Result<Batches, EvalError> {
        let def = self.source.def(value).map(|node| &self.source.nodes[node]);
        match def {
            Some(NodeData { op: Op::MxQuantize { .. }, args, .. }) if self.constant[value] => {
                self.exact(args[0])
            }
            _ if self.constant[value] => Ok(vec![self.recipe(value)?]),
            _ => self.exact[value].clone().ok_or(EvalError::Undefined(value)),
        }
    }

    /// What a constant recipe of the source computes.
    fn recipe(&self, value: Value) -> Result<Tensor, EvalError> {
        let node = self.source.def(value).ok_or(EvalError::Undefined(value))?;
        let data = &self.source.nodes[node];
        let args = data.args.iter().map(|&a| self.recipe(a)).collect::<Result<Vec<_>, _>>()?;
        let mut all = eval_op(self.module, &data.op, &args.iter().collect::<Vec<_>>(), Mode::Typed)?;
        all.pop().ok_or(EvalError::Undefined(value))
    }

    /// Drops batches of values that nothing after this node uses.
    fn forget(&mut self, node: &NodeData) {
        for arg in self.reads(node) {
            self.uses[arg] -= 1;
            if self.uses[arg] == 0 {
                self.live[arg] = None;
                self.exact[arg] = None;
                self.rotated.shift_remove(&arg);
            }
        }
    }

    /// Results of an operator on every batch.
    fn evaluate(&self, op: &Op, inputs: &[Batches]) -> Result<Vec<Batches>, EvalError> {
        let mut results: Vec<Batches> = Vec::new();
        for batch in 0..self.n_batches {
            let args: Vec<&Tensor> = inputs.iter().map(|b| &b[batch.min(b.len() - 1)]).collect();
            let tensors = eval_op(self.module, op, &args, Mode::Typed)?;
            results.resize_with(tensors.len(), Vec::new);
            results.iter_mut().zip(tensors).for_each(|(result, tensor)| result.push(tensor));
        }
        Ok(results)
    }

    /// Remembers the results of a node that something uses.
    fn keep(
        &mut self,
        node: &NodeData,
        results: Vec<Batches>,
        of: impl Fn(&mut Self) -> &mut SecondaryMap<Value, Option<Batches>>,
    ) {
        for (&result, tensors) in node.results.iter().zip(results) {
            if self.uses[result] > 0 {
                of(self)[result] = Some(tensors);
            }
        }
    }

    /// The values that a node of the source needs: its operands, and what a rotation takes instead of one.
    fn reads(&self, node: &NodeData) -> Vec<Value> {
        let rotation = self.product(node).and_then(|product| self.rotation(&product));
        node.args.iter().copied().chain(rotation.map(|r| r.inner)).collect()
    }

    /// The product that a node is, if it has one constant operand that can be narrowed.
    fn product<'n>(&self, node: &'n NodeData) -> Option<Product<'n>> {
        if !node.op.is_product() {
            return None;
        }
        let operand = match [0, 1].map(|i| self.constant[node.args[i]]) {
            [true, false] => 0,
            [false, true] => 1,
            [true, true] | [false, false] => return None,
        };
        let value = node.args[operand];
        let layout = Layout::of(&node.op, operand, &self.source.ty(value).shape)?;
        let def = &self.source.nodes[self.source.def(value)?];
        let (inner, storage) = if let Op::MxQuantize { format, mode, .. } = def.op {
            (def.args[0], Storage::Grouped(format, mode))
        } else {
            (value, Storage::Scalar(self.source.ty(value).elem.scalar()?))
        };
        // Integers, and codes that the model brings itself, stay what they are.
        if self.source.blocked(value).is_some() {
            return None;
        }
        let fits = match storage {
            Storage::Scalar(ty) => is_real(ty) && self.options.weights.prune.is_some(),
            Storage::Grouped(..) => self.source.ty(inner).elem.scalar().is_some_and(is_real),
        };
        fits.then_some(Product { node, operand, layout, inner, storage })
    }

    /// That the weights of a product cannot be pruned, if that is asked for and its form is why.
    fn unpruned(&self, node: &NodeData) -> Option<String> {
        self.options.weights.prune?;
        let [a, b] = node.args[..] else { return None };
        let operand = match (node.op.is_product(), self.constant[a], self.constant[b]) {
            (true, true, false) => 0,
            (true, false, true) => 1,
            _ => return None,
        };
        let weights = node.args[operand];
        let ty = self.source.ty(weights);
        if ty.elem.scalar().is_some_and(|elem| !is_real(elem)) || self.source.blocked(weights).is_some() {
            return None;
        }
        if Layout::of(&node.op, operand, &ty.shape).is_some() {
            return None;
        }
        let why = match node.op {
            Op::Conv { .. } => "the convolution has groups",
            _ => "not exactly one dimension is summed",
        };
        let names: Vec<&str> = node.origins.iter().map(|&o| self.module.origins[o].node.as_str()).collect();
        Some(format!("the weights of {} are not pruned: {why}", names.join(", ")))
    }

    /// Replaces the weights of a product, and with rotation also its other operand.
    fn refine(
        &mut self,
        product: &Product<'_>,
        args: &mut [Value],
        inputs: &mut [Batches],
    ) -> Result<(), EvalError> {
        let Product { node, operand, layout, .. } = product;
        let (weight, other) = (node.args[*operand], 1 - operand);
        let rotation = self.rotation(product);
        if let Some(rotation) = &rotation {
            let calibrated = !inputs.is_empty();
            let (value, batches) = self.rotate(node, node.args[other], rotation, calibrated)?;
            args[other] = value;
            if let Some(input) = inputs.get_mut(other) {
                *input = batches;
            }
        }
        let key = (weight, layout.axis, rotation.is_some());
        let (value, constant) = match self.weights.get(&key) {
            Some(&known) => known,
            None => {
                let made = self.narrowed(product, rotation.as_ref(), inputs.get(other))?;
                self.weights.insert(key, made);
                made
            }
        };
        args[*operand] = value;
        if let Some(input) = inputs.get_mut(*operand) {
            *input = vec![Tensor::from_constant(&self.module.constants[constant])?];
        }
        Ok(())
    }

    /// Makes the new constant of a product, and says what became of it.
    fn narrowed(
        &mut self,
        product: &Product<'_>,
        rotation: Option<&Rotation>,
        inputs: Option<&Batches>,
    ) -> Result<(Value, ConstId), EvalError> {
        let rotated = rotation.is_some();
        let weights = self.options.weights;
        let source = self.recipe(product.inner)?;
        let mut matrix = Matrix::new(&product.layout, &source.to_f64());
        if rotated {
            matrix.values.chunks_exact_mut(matrix.segment.max(1)).for_each(hadamard::rotate_weights);
        }
        // A segment too short for the pattern would be pruned to less than the pattern says.
        let prune = weights.prune.filter(|p| matrix.segment >= usize::from(p.pattern.m));
        let gram = inputs.and_then(|inputs| self.gram(product, inputs, matrix.k));
        let compensated = weights.rounding != Rounding::Nearest;
        let factor = gram.as_ref().filter(|_| compensated).and_then(Factor::new);
        let mut wanted = matrix.clone();
        if let (Some(inputs), Some(factor), true) = (inputs, &factor, self.corrects()) {
            let exact = self.exact_operand(product, rotation)?;
            if let Some(loss) = self.loss(product, &exact, inputs, matrix.k) {
                wanted.values = loss.corrected(&matrix.values, factor);
            }
        }
        let by_calibration = prune.is_some_and(|p| p.by == PruneBy::Calibration);
        let mut notes = Vec::new();
        if weights.prune.is_some() && prune.is_none() {
            notes.push("not pruned: the summed dimension is shorter than the pattern");
        }
        if matrix.k > MAX_K && weights.needs_calibration() {
            notes.push("not calibrated: the sum is too long");
        } else if (compensated && factor.is_none()) || (by_calibration && gram.is_none()) {
            notes.push("not calibrated: its inputs are unknown, zero or not finite");
        }
        if weights.hadamard
            && let (Storage::Grouped(..), Err(why)) = (product.storage, self.rotation_of(product))
        {
            notes.push(why);
        }
        let plan = Plan {
            storage: product.storage,
            scale_search: weights.scale_search,
            prune,
            gram: gram.as_ref(),
            factor: factor.as_ref(),
        };
        let narrowed = narrow(&wanted, &plan);
        let n = narrowed.values.len().max(1) as f64;
        self.reports.push(WeightReport {
            function: self.source.name.clone(),
            origins: product.node.origins.clone(),
            density_percent: 100.0 * narrowed.values.iter().filter(|&&v| v != 0.0).count() as f64 / n,
            sqnr_db: sqnr(&matrix, &narrowed, gram.as_ref()),
            rotated,
            notes,
        });
        let tensor = constant(product, &source.ty.shape, &narrowed)?;
        let name = self.constant_name(product.inner);
        let id = self.module.constants.push(Constant::dense(tensor.ty.clone(), tensor.to_bytes(), name));
        let new = self.out.emit_all(self.module, Op::Const { value: id }, &[], &product.node.origins)?;
        Ok((new[0], id))
    }

    /// The name of the constant that a recipe starts from.
    fn constant_name(&self, value: Value) -> String {
        let name = self.source.as_const(value).map(|c| self.module.constants[c].name.clone());
        name.unwrap_or_else(|| self.source.values[value].name.clone())
    }

    /// Second moments of the computed operand on all batches.
    fn gram(&self, product: &Product<'_>, inputs: &Batches, k: usize) -> Option<Gram> {
        let Product { node, operand, .. } = product;
        let weights = &self.source.ty(node.args[*operand]).shape;
        let result = &self.source.ty(node.results[0]).shape;
        let mut gram = Gram::new(k)?;
        for x in inputs {
            let values = x.to_f64();
            let x = Operand::of(&node.op, 1 - operand, x, &values, weights, result)?;
            if x.k != k {
                return None;
            }
            gram.add(&x);
        }
        gram.is_sound().then_some(gram)
    }

    /// The computed operand of a product without any rounding, rotated as the product takes it.
    fn exact_operand(
        &self,
        product: &Product<'_>,
        rotation: Option<&Rotation>,
    ) -> Result<Batches, EvalError> {
        let exact = self.exact(product.node.args[1 - product.operand])?;
        match rotation {
            Some(rotation) => exact.into_iter().map(|x| self.rotated_exact(x, rotation)).collect(),
            None => Ok(exact),
        }
    }

    fn rotated_exact(&self, x: Tensor, rotation: &Rotation) -> Result<Tensor, EvalError> {
        let (split, map) = blocks(&x.ty.shape, usize::from(rotation.axis));
        let shape = x.ty.shape.clone();
        let matrix =
            self.hadamard.as_ref().map(|(_, matrix)| matrix).ok_or(EvalError::Undefined(rotation.inner))?;
        let one = |op: &Op, args: &[&Tensor]| -> Result<Tensor, EvalError> {
            eval_op(self.module, op, args, Mode::Typed)?.pop().ok_or(EvalError::Undefined(rotation.inner))
        };
        let x = one(&Op::Reshape { shape: split }, &[&x])?;
        let x = one(&Op::Contract { map, elem: ScalarType::F32 }, &[&x, matrix])?;
        one(&Op::Reshape { shape }, &[&x])
    }

    /// What the product loses through its computed operand, on all batches.
    fn loss(&self, product: &Product<'_>, before: &Batches, after: &Batches, k: usize) -> Option<Loss> {
        let Product { node, operand, .. } = product;
        let weights = &self.source.ty(node.args[*operand]).shape;
        let result = &self.source.ty(node.results[0]).shape;
        let mut loss = Loss::new(k)?;
        for (before, after) in before.iter().zip(after) {
            let (x, y) = (before.to_f64(), after.to_f64());
            let x = Operand::of(&node.op, 1 - operand, before, &x, weights, result)?;
            let y = Operand::of(&node.op, 1 - operand, after, &y, weights, result)?;
            loss.add(&x, &y);
        }
        loss.is_sound().then_some(loss)
    }

    /// How the computed operand of a product is rotated, if that is asked for and possible.
    fn rotation(&self, product: &Product<'_>) -> Option<Rotation> {
        if !self.options.weights.hadamard {
            return None;
        }
        self.rotation_of(product).ok()
    }

    /// How the computed operand of a product can be rotated: it is quantised in groups of a dimension that is whole
    /// blocks, and so are the weights.
    ///
    /// # Errors
    /// Why it cannot.
    fn rotation_of(&self, product: &Product<'_>) -> Result<Rotation, &'static str> {
        let value = product.node.args[1 - product.operand];
        let def = self.source.def(value).map(|node| &self.source.nodes[node]);
        let Some(NodeData { op: Op::MxQuantize { format, axis, mode }, args, .. }) = def else {
            return Err("not rotated: what they are multiplied by is not in groups");
        };
        let Storage::Grouped(..) = product.storage else {
            return Err("not rotated: they are not in groups");
        };
        if !product.layout.segment().is_multiple_of(hadamard::ORDER) {
            return Err("not rotated: the summed dimension is no multiple of 32");
        }
        let ty = self.source.ty(args[0]);
        if ty.elem != ElemType::Scalar(ScalarType::F32) {
            return Err("not rotated: what they are multiplied by is not f32 before it is quantised");
        }
        if ty.shape.rank() >= MAX_RANK {
            return Err("not rotated: what they are multiplied by has too many dimensions");
        }
        Ok(Rotation { inner: args[0], format: *format, axis: *axis, mode: *mode })
    }

    /// A quantised value rotated before it is quantised, with its batches.
    fn rotate(
        &mut self,
        node: &NodeData,
        quantised: Value,
        rotation: &Rotation,
        calibrated: bool,
    ) -> Result<(Value, Batches), EvalError> {
        if let Some(known) = self.rotated.get(&quantised) {
            return Ok(known.clone());
        }
        let Rotation { inner, format, axis, mode } = *rotation;
        let ty = self.source.ty(inner).clone();
        let matrix = self.hadamard(&node.origins)?;
        let (split, map) = blocks(&ty.shape, usize::from(axis));
        let x = self.values[inner].ok_or(EvalError::Undefined(inner))?;
        let ops = [
            (Op::Reshape { shape: split }, false),
            (Op::Contract { map, elem: ScalarType::F32 }, true),
            (Op::Reshape { shape: ty.shape.clone() }, false),
            (Op::MxQuantize { format, axis, mode }, false),
        ];
        let mut batches = if calibrated { self.batches(inner)? } else { Vec::new() };
        let mut value = x;
        for (op, with_matrix) in ops {
            let args = if with_matrix { vec![value, matrix.0] } else { vec![value] };
            value = self.out.emit_all(self.module, op.clone(), &args, &node.origins)?[0];
            for batch in &mut batches {
                let mut args = vec![&*batch];
                args.extend(with_matrix.then_some(&matrix.1));
                let made = eval_op(self.module, &op, &args, Mode::Typed)?.pop();
                *batch = made.ok_or(EvalError::Undefined(inner))?;
            }
        }
        self.rotated.insert(quantised, (value, batches.clone()));
        Ok((value, batches))
    }
}

impl Refiner<'_> {
    /// The Hadamard matrix of ones and minus ones.
    fn hadamard(&mut self, origins: &[OriginId]) -> Result<(Value, Tensor), EvalError> {
        if let Some(known) = &self.hadamard {
            return Ok(known.clone());
        }
        let n = hadamard::ORDER;
        let values: Vec<f64> = (0..n * n).map(|i| f64::from(hadamard::sign(i / n, i % n))).collect();
        let tensor = Tensor::from_f64(ScalarType::F32, vec![n as u64, n as u64], &values)?;
        let constant = Constant::dense(tensor.ty.clone(), tensor.to_bytes(), "hadamard");
        let value = self.module.constants.push(constant);
        let new = self.out.emit_all(self.module, Op::Const { value }, &[], origins)?;
        Ok(self.hadamard.insert((new[0], tensor)).clone())
    }
}

/// Whether elements of a type can be pruned and rounded.
fn is_real(ty: ScalarType) -> bool {
    matches!(ty, ScalarType::F32 | ScalarType::F16 | ScalarType::Bf16)
}

/// Whether a product is the rotation of an operand, which [`refine`] put before another product.
pub fn is_rotation(module: &Module, func: &Function, node: &NodeData) -> bool {
    let n = hadamard::ORDER;
    let Some(matrix) = node.args.last().and_then(|&arg| func.as_const(arg)) else { return false };
    let matrix = &module.constants[matrix];
    let signs = || (0..n * n).flat_map(|i| hadamard::sign(i / n, i % n).to_le_bytes());
    let ConstantData::Dense(blob) = &matrix.data else { return false };
    matrix.ty == TensorType::new(ScalarType::F32, vec![n as u64; 2])
        && blob.bytes().iter().copied().eq(signs())
}

/// The operand that is rotated, and how it is quantised afterwards.
struct Rotation {
    inner: Value,
    format: GroupFormat,
    axis: u8,
    mode: ScaleMode,
}

/// A shape with `axis` split into blocks, and the product of such a value by the matrix.
fn blocks(shape: &Shape, axis: usize) -> (Shape, ContractMap) {
    let mut split = shape.0.clone();
    split[axis] /= hadamard::ORDER as u64;
    split.insert(axis + 1, hadamard::ORDER as u64);
    let rank = split.len() as u8;
    let a: Vec<u8> = (0..rank).collect();
    let mut out = a.clone();
    out[axis + 1] = rank;
    let b = vec![axis as u8 + 1, rank];
    (split.into(), ContractMap { a, b, out })
}

/// The constant that a narrowed matrix is.
fn constant(product: &Product<'_>, shape: &Shape, matrix: &Narrowed) -> Result<Tensor, EvalError> {
    let layout = &product.layout;
    match product.storage {
        Storage::Scalar(ty) => {
            let values: Vec<f64> = layout.scatter(&matrix.values).into_iter().map(f64::from).collect();
            Tensor::from_f64(ty, shape.clone(), &values)
        }
        Storage::Grouped(format, _) => {
            let codes = layout.scatter(&matrix.codes);
            let scales = layout.scales(usize::from(format.size)).scatter(&matrix.scales);
            let ty = TensorType::grouped(format, layout.axis, shape.clone());
            Tensor::new(ty, TensorData::Grouped(Arc::new(Groups { codes, scales })))
        }
    }
}

/// Signal over noise of the product's result in dB, over some rows of the weights spread evenly.
fn sqnr(matrix: &Matrix, narrowed: &Narrowed, gram: Option<&Gram>) -> f64 {
    let energy = |row: &[f64]| match gram {
        Some(gram) => gram.energy(0, row),
        None => row.iter().map(|v| v * v).sum(),
    };
    let n_rows = matrix.values.len() / matrix.k.max(1);
    let (mut signal, mut noise) = (0.0, 0.0);
    for row in (0..n_rows).step_by(n_rows.div_ceil(ESTIMATED_ROWS).max(1)) {
        let range = row * matrix.k..(row + 1) * matrix.k;
        let exact: Vec<f64> = matrix.values[range.clone()].iter().map(|&v| f64::from(v)).collect();
        let errors: Vec<f64> =
            exact.iter().zip(&narrowed.values[range]).map(|(&a, &b)| a - f64::from(b)).collect();
        signal += energy(&exact);
        noise += energy(&errors);
    }
    10.0 * (signal / noise).log10()
}

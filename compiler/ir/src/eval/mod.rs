//! The evaluator: what a function means. It is the float oracle of every test and the constant folder.
//!
//! Two modes ([`Mode`]). In *typed* mode each operator rounds its result to its type; contractions, reductions, softmax,
//! norm and attention accumulate in f64 and round once. In *real* mode floats stay f64 throughout; integers and quantised codes
//! are exact in both. The code shared with the machine are the number formats, in one module of this folder;
//! transcendental functions are those of the `libm` crate, which are the machine's in f64 too.
//!
//! What the operator table leaves open:
//! - integers wrap in two's complement; division, remainder and modulo by zero give 0; a shift by the width or more, or
//!   by a negative amount, gives 0; a negative power of an integer truncates to 0 (but for 1 and -1);
//! - arithmetic on `bool` is that of 0 and 1, a non-zero result is true;
//! - functions of reals on integers are taken in f64, truncated and saturated; means of integers truncate, and those of
//!   64 bits are of the wrapped sum;
//! - conversion between integers keeps the low bits;
//! - an empty reduction gives the neutral element (an infinity, or the type's extreme), a mean NaN or 0;
//! - `min` and `max` order -0 below +0; `arg_reduce` takes NaN as extreme, and gives 0 on an empty axis;
//! - a sum in a contraction includes products by zeros of the padding.
//!
//! A verified function never panics here. What cannot be evaluated is an [`EvalError`].

mod attention;
mod blocks;
mod codec;
mod contract;
mod elementwise;
mod movement;
mod reduce;
mod tensor;

use std::sync::Arc;

use cranelift_entity::SecondaryMap;
use lacuna_isa::format::ScalarType;

pub use tensor::{Groups, Tensor, TensorData};

use crate::infer::{TypeError, infer};
use crate::module::{Constant, ConstantData, FuncId, Module, Value};
use crate::op::Op;
use crate::types::{ElemType, Shape, TensorType};

/// The most elements that a value may have to be evaluated.
pub const MAX_ELEMENTS: u64 = 1 << 30;

/// The deepest nesting of calls; the verifier holds modules to it.
pub const MAX_CALL_DEPTH: usize = 64;

/// How floats are computed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mode {
    /// Each operator rounds its result to its type.
    Typed,
    /// Floats stay f64.
    Real,
}

/// Why a function cannot be evaluated.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EvalError {
    /// An operator does not fit its operands.
    #[error(transparent)]
    Type(#[from] TypeError),
    /// An input or a constant does not fit.
    #[error("{0}")]
    Input(String),
    /// An index of `gather` or `scatter` is out of range; the machine traps.
    #[error("index {index} is not in 0..{extent}")]
    Index {
        /// The index.
        index: i64,
        /// Size of the indexed dimension.
        extent: u64,
    },
    /// More than [`MAX_ELEMENTS`].
    #[error("{0} is too large to evaluate")]
    TooLarge(TensorType),
    /// More than [`MAX_CALL_DEPTH`].
    #[error("calls nest too deeply")]
    Depth,
    /// A value is used before its definition.
    #[error("{0} is used before it is defined")]
    Undefined(Value),
}

/// Results of a function on `inputs`. Each intermediate value lives until its last use.
///
/// # Errors
/// When the inputs do not fit the parameters, an index is out of range, or a value is too large.
pub fn eval(module: &Module, func: FuncId, inputs: &[Tensor], mode: Mode) -> Result<Vec<Tensor>, EvalError> {
    call(module, func, inputs, mode, 0)
}

/// Every value of a function on `inputs`, parameters included.
///
/// # Errors
/// As [`eval`].
pub fn eval_all(
    module: &Module,
    func: FuncId,
    inputs: &[Tensor],
    mode: Mode,
) -> Result<SecondaryMap<Value, Tensor>, EvalError> {
    let mut all = SecondaryMap::new();
    run(module, func, inputs, mode, 0, |value, tensor| all[value] = tensor.clone())?;
    Ok(all)
}

/// Results of one operator on `args`.
///
/// # Errors
/// When the operator does not fit the operands, an index is out of range, or a result is too large.
pub fn eval_op(module: &Module, op: &Op, args: &[&Tensor], mode: Mode) -> Result<Vec<Tensor>, EvalError> {
    apply(module, op, args, mode, 0)
}

/// The result of an element-wise operator on constants each of which repeats one element: another such constant, whatever its size.
/// `None` for other operators and constants, and where the operator does not fit.
pub fn eval_splats(module: &Module, op: &Op, args: &[&Constant]) -> Option<Constant> {
    let is_splat = |c: &&Constant| matches!(c.data, ConstantData::Splat(_));
    if !op.is_elementwise() || !args.iter().all(is_splat) {
        return None;
    }
    let types: Vec<&TensorType> = args.iter().map(|c| &c.ty).collect();
    let ty = infer(module, op, &types).ok()?.pop()?;
    let one = |c: &&Constant| {
        let ty = TensorType { elem: c.ty.elem, shape: Shape::default() };
        Tensor::from_constant(&Constant::new(ty, c.data.clone(), "")).ok()
    };
    let ones: Vec<Tensor> = args.iter().map(one).collect::<Option<_>>()?;
    let result = eval_op(module, op, &ones.iter().collect::<Vec<_>>(), Mode::Typed).ok()?.pop()?;
    let code = result.to_bytes().iter().rev().fold(0, |code, &byte| code << 8 | u64::from(byte));
    Some(Constant::new(ty, ConstantData::Splat(code), args.first()?.name.clone()))
}

fn call(
    module: &Module,
    func: FuncId,
    inputs: &[Tensor],
    mode: Mode,
    depth: usize,
) -> Result<Vec<Tensor>, EvalError> {
    run(module, func, inputs, mode, depth, |_, _| {})
}

/// Evaluates a function, showing every value to `see` as it is defined.
fn run(
    module: &Module,
    id: FuncId,
    inputs: &[Tensor],
    mode: Mode,
    depth: usize,
    mut see: impl FnMut(Value, &Tensor),
) -> Result<Vec<Tensor>, EvalError> {
    if depth > MAX_CALL_DEPTH {
        return Err(EvalError::Depth);
    }
    let func =
        module.functions.get(id).ok_or_else(|| EvalError::Input(format!("there is no function {id}")))?;
    if inputs.len() != func.params.len() {
        return Err(EvalError::Input(format!(
            "{} inputs for {} parameters",
            inputs.len(),
            func.params.len()
        )));
    }
    let mut live: SecondaryMap<Value, Option<Tensor>> = SecondaryMap::with_capacity(func.values.len());
    for (i, (input, &param)) in inputs.iter().zip(&func.params).enumerate() {
        if input.ty != *func.ty(param) {
            return Err(EvalError::Input(format!("input {i} is {}, not {}", input.ty, func.ty(param))));
        }
        Tensor::new(input.ty.clone(), input.data.clone())?;
        see(param, input);
        live[param] = Some(input.clone());
    }
    let mut uses: SecondaryMap<Value, usize> = SecondaryMap::with_capacity(func.values.len());
    for &value in func.nodes.values().flat_map(|node| &node.args).chain(&func.results) {
        uses[value] += 1;
    }
    let get = |live: &SecondaryMap<Value, Option<Tensor>>, value: Value| {
        live[value].clone().ok_or(EvalError::Undefined(value))
    };
    for node in func.nodes.values() {
        let args = node.args.iter().map(|&a| get(&live, a)).collect::<Result<Vec<_>, _>>()?;
        let results = apply(module, &node.op, &args.iter().collect::<Vec<_>>(), mode, depth)?;
        drop(args);
        for &arg in &node.args {
            uses[arg] -= 1;
            if uses[arg] == 0 {
                live[arg] = None;
            }
        }
        for (&value, tensor) in node.results.iter().zip(results) {
            see(value, &tensor);
            if uses[value] > 0 {
                live[value] = Some(tensor);
            }
        }
    }
    func.results.iter().map(|&r| get(&live, r)).collect()
}

fn apply(
    module: &Module,
    op: &Op,
    args: &[&Tensor],
    mode: Mode,
    depth: usize,
) -> Result<Vec<Tensor>, EvalError> {
    let types: Vec<&TensorType> = args.iter().map(|a| &a.ty).collect();
    let result_types = infer(module, op, &types)?;
    for ty in &result_types {
        tensor::elements(ty)?;
    }
    if let Op::Call { func } = op {
        let inputs: Vec<Tensor> = args.iter().map(|&a| a.clone()).collect();
        return call(module, *func, &inputs, mode, depth + 1);
    }
    let [ty] = <[TensorType; 1]>::try_from(result_types)
        .map_err(|_| EvalError::Input(format!("`{}` has not one result", op.name())))?;
    let data = match op {
        Op::Const { value } => Tensor::from_constant(&module.constants[*value])?.data,
        Op::Iota { elem, shape: _, axis } => movement::iota(&ty, *elem, usize::from(*axis), mode),
        Op::Unary { op } => elementwise::unary(*op, args[0], mode),
        Op::Binary { op } => elementwise::binary(*op, args[0], args[1], mode),
        Op::Compare { op } => elementwise::compare(*op, args[0], args[1]),
        Op::Select {} => elementwise::select(args[0], args[1], args[2]),
        Op::Cast { to, saturate } => elementwise::cast(*to, *saturate, args[0], mode),
        Op::BitCast { .. } => Tensor::from_bytes(ty.clone(), &args[0].to_bytes())?.data,
        Op::Reshape { .. } => args[0].data.clone(),
        Op::Permute { perm } => movement::permute(args[0], perm),
        Op::Broadcast { dims, shape } => movement::broadcast(args[0], dims, shape),
        Op::Slice { starts, shape, steps } => movement::slice(args[0], starts, shape, steps),
        Op::Pad { low, high: _ } => movement::pad(args[0], args[1], low, &ty.shape),
        Op::Concat { axis } => movement::concat(args, usize::from(*axis)),
        Op::Window { axes, sizes: _, strides, dilations } => {
            movement::window(args[0], axes, strides, dilations, &ty.shape)
        }
        Op::Gather { axis, batch } => {
            movement::gather(args[0], args[1], usize::from(*axis), usize::from(*batch))?
        }
        Op::Reduce { op, axes } => reduce::reduce(*op, axes, args[0], mode),
        Op::ArgReduce { max, axis, last } => reduce::arg_reduce(*max, *last, usize::from(*axis), args[0]),
        Op::Sort { k, descending } => reduce::sort(*k, *descending, args[0]),
        Op::Scatter { combine } => reduce::scatter(*combine, args, mode)?,
        Op::Cumulate { op, axis, exclusive, reverse } => {
            reduce::cumulate(*op, usize::from(*axis), (*exclusive, *reverse), args[0], mode)
        }
        Op::Contract { map, elem } => contract::contract(map, *elem, args[0], args[1], mode),
        Op::Conv { attrs, elem } => contract::conv(attrs, *elem, args[0], args[1], &ty.shape, mode),
        Op::Softmax { axis, log } => reduce::softmax(usize::from(*axis), *log, args[0], mode),
        Op::Norm { axes, centre, eps } => reduce::norm(axes, *centre, eps.0, args, mode),
        Op::Attention { scale, softcap, causal, shift, window, empty_row, elem } => {
            let rule = attention::Rule {
                scale: scale.0,
                softcap: softcap.0,
                causal: *causal,
                shift: *shift,
                window: *window,
                empty_row: *empty_row,
                round: args[2].ty.elem.scalar().filter(|ty| mode == Mode::Typed && ty.bits() < 32),
            };
            floats(*elem, attention::attention(&rule, args), mode)
        }
        Op::MxQuantize { format, axis, mode } => {
            let (codes, scales) = codec::quantize(
                *format,
                *mode,
                usize::from(*axis),
                &ty.shape,
                ty.scales() as usize,
                &args[0].to_f64(),
            );
            TensorData::Grouped(Arc::new(Groups { codes, scales }))
        }
        Op::MxDecode { to } => floats(*to, args[0].to_f64().to_vec(), mode),
        Op::Dequantize { blocks, to } => floats(*to, blocks::dequantize(blocks, args, mode), mode),
        Op::Call { .. } => unreachable!("calls return above"),
    };
    Ok(vec![Tensor { ty, data }])
}

/// Elements of a floating-point result, rounded in typed mode.
fn floats(elem: ScalarType, mut values: Vec<f64>, mode: Mode) -> TensorData {
    if mode == Mode::Typed {
        codec::round_slice(elem, &mut values);
    }
    TensorData::F(Arc::new(values))
}

/// The scalar type of an operand that the type rule holds to scalars.
fn scalar_of(x: &Tensor) -> ScalarType {
    match x.ty.elem {
        ElemType::Scalar(s) => s,
        ElemType::Grouped { format, .. } => format.element,
    }
}

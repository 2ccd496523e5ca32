//! Before kernels: composite operators that no kernel takes in their form become their parts.

use std::ops::Range;

use cranelift_entity::SecondaryMap;
use lacuna_ir::expand::{self, Attention};
use lacuna_ir::infer::TypeError;
use lacuna_ir::{ConstId, FuncId, Function, FunctionBuilder, Module, Node, NodeData, Op, TensorType, Value};
use lacuna_isa::target::Target;
use lacuna_isa::view::VIEW_DIMS;

use crate::fuse::is_wide;
use crate::kernels::attention_plan::Plan;
use crate::kernels::norm::{norm_bytes, softmax_bytes};
use crate::kernels::rows::{operand_bytes, row_limit};
use crate::kernels::sort::{MOST_SORTED, sort_bytes};
use crate::kernels::sparse::ProductZeros;
use crate::sinks::Quantised;

pub mod integers;
mod rows;

/// A module whose entry is rewritten.
pub struct Legal {
    /// The module. Constants of the one before keep their numbers.
    pub module: Module,
    /// What is known of the zeros of its entry's products.
    pub zeros: SecondaryMap<Node, ProductZeros>,
    /// Of constants that were cut from others, the ones that these come from.
    pub cut_from: SecondaryMap<ConstId, Option<ConstId>>,
}

/// The module with the entry's function rewritten, its nodes renumbered in `zeros`; `None` where all is well.
///
/// # Errors
/// When a part does not fit its operands; never for a verified module.
pub fn legalize(
    module: &Module,
    func: FuncId,
    zeros: &SecondaryMap<Node, ProductZeros>,
    target: &Target,
) -> Result<Option<Legal>, TypeError> {
    let source = &module.functions[func];
    let quantised = Quantised::of(source);
    let mut integers: SecondaryMap<Node, Option<integers::Parts>> = SecondaryMap::new();
    let known = integers::Intervals::of(module, source);
    for (node, data) in &source.nodes {
        integers[node] = of_integers(&known, data);
    }
    let whole =
        |node: Node, data: &NodeData| integers[node].is_none() && whole(source, &quantised, data, target);
    if source.nodes.iter().all(|(node, data)| whole(node, data)) {
        return Ok(None);
    }
    let mut rewritten = module.clone();
    let mut moved = SecondaryMap::new();
    let mut b = FunctionBuilder::new(&mut rewritten, source.name.clone());
    let mut values: SecondaryMap<Value, Option<Value>> = SecondaryMap::new();
    for &param in &source.params {
        values[param] = Some(b.param(source.ty(param).clone(), source.values[param].name.clone()));
    }
    let mut cuts = integers::Cuts::new();
    let missing = |v: Value| TypeError(format!("{v} is used before its definition"));
    for (node, data) in &source.nodes {
        let args =
            data.args.iter().map(|&a| values[a].ok_or_else(|| missing(a))).collect::<Result<Vec<_>, _>>()?;
        b.set_origins(data.origins.clone());
        let parts = match &integers[node] {
            Some(of_floats) => Some(integers::emit(&mut b, &mut cuts, &data.op, of_floats, &args)?),
            None if whole(node, data) => None,
            None => parts(&mut b, &data.op, &args, target)?,
        };
        let results = match parts {
            Some(result) => vec![result],
            None => {
                let results = b.emit_all(data.op.clone(), &args)?;
                if let Some(last) = b.func().nodes.keys().next_back() {
                    moved[last] = zeros[node];
                }
                results
            }
        };
        for (&old, &new) in data.results.iter().zip(&results) {
            values[old] = Some(new);
            b.func_mut().values[new].name.clone_from(&source.values[old].name);
        }
    }
    let results =
        source.results.iter().map(|&r| values[r].ok_or_else(|| missing(r))).collect::<Result<Vec<_>, _>>()?;
    b.results(&results);
    let id = b.id();
    for entry in rewritten.entries.iter_mut().filter(|entry| entry.func == func) {
        entry.func = id;
    }
    // The parts of attention have a softmax, and those of a convolution are products.
    let again = legalize(&rewritten, id, &moved, target)?;
    let func = &rewritten.functions[id];
    let mut cut_from: SecondaryMap<ConstId, Option<ConstId>> = SecondaryMap::new();
    for ((whole, ..), &cut) in &cuts {
        if let Some(cut) = func.as_const(cut) {
            cut_from[cut] = Some(*whole);
        }
    }
    let Some(mut again) = again else { return Ok(Some(Legal { module: rewritten, zeros: moved, cut_from })) };
    for (cut, &whole) in cut_from.iter() {
        again.cut_from[cut] = again.cut_from[cut].or(whole);
    }
    Ok(Some(again))
}

/// The node as its parts, if it has any.
fn parts(
    b: &mut FunctionBuilder<'_>,
    op: &Op,
    args: &[Value],
    target: &Target,
) -> Result<Option<Value>, TypeError> {
    let rank = args.first().map_or(0, |&x| b.ty(x).shape.rank());
    if let Some(rows) = along(op, rank).filter(|_| rank > VIEW_DIMS) {
        return merged(b, op, rows, args).map(Some);
    }
    let most = |b: &FunctionBuilder<'_>| walked_limit(target, b.ty(args[0]));
    if let Op::ArgReduce { max, axis, last } = *op {
        let most = most(b);
        return rows::arg_reduce(b, (max, axis, last), args[0], most).map(Some);
    }
    if let Op::Cumulate { op, axis, exclusive, reverse } = *op {
        let most = most(b);
        return rows::cumulate(b, (op, axis, exclusive, reverse), args[0], most).map(Some);
    }
    if let Op::Sort { k, descending } = *op {
        let ty = b.ty(args[0]);
        let most = row_limit(target, sort_bytes(ty.elem.scalar().into_iter()));
        return rows::sort(b, (k, descending), args[0], most).map(Some);
    }
    if let Op::Softmax { axis, log } = op {
        return expand::softmax(b, *axis, *log, args[0]).map(Some);
    }
    if let Op::Norm { axes, centre, eps } = op {
        return expand::norm(b, axes, *centre, eps.0, args).map(Some);
    }
    if let Op::Pad { low, high } = op {
        return padded_twice(b, low, high, args).map(Some);
    }
    if let Op::Contract { map, elem } = op {
        return expand::outer_product(b, map, *elem, args).map(Some);
    }
    if let Op::Conv { attrs, elem } = op {
        let wide = is_wide(*elem) && expand::is_plain(attrs);
        let of = if wide { expand::contract_of_windows } else { expand::conv };
        return of(b, attrs, *elem, args[0], args[1]).map(Some);
    }
    Attention::of(op).map(|a| expand::attention(b, &a, args)).transpose()
}

/// Elements of a row that a kernel can walk whose operand is of this type.
fn walked_limit(target: &Target, ty: &TensorType) -> u64 {
    row_limit(target, operand_bytes(ty.elem.scalar().into_iter()))
}

/// The axes of an operator on rows along one axis, or along neighbours.
fn along(op: &Op, rank: usize) -> Option<Range<usize>> {
    match op {
        Op::Softmax { axis, .. } | Op::ArgReduce { axis, .. } | Op::Cumulate { axis, .. } => {
            Some(usize::from(*axis)..usize::from(*axis) + 1)
        }
        Op::Sort { .. } => Some(rank - 1..rank),
        Op::Norm { axes, .. } => {
            let rows = usize::from(*axes.first()?)..usize::from(*axes.last()?) + 1;
            rows.clone().eq(axes.iter().map(|&a| usize::from(a))).then_some(rows)
        }
        _ => None,
    }
}

/// An operator on rows, with their axes, the dimensions before and those behind as one each.
fn merged(
    b: &mut FunctionBuilder<'_>,
    op: &Op,
    rows: Range<usize>,
    args: &[Value],
) -> Result<Value, TypeError> {
    let shape = b.ty(args[0]).shape.clone();
    let n: u64 = shape[rows.clone()].iter().product();
    let mut sides = vec![shape[..rows.start].iter().product(), n];
    if rows.end < shape.rank() {
        sides.push(shape[rows.end..].iter().product());
    }
    let mut operands = vec![b.emit(Op::Reshape { shape: sides.into() }, &[args[0]])?];
    // Scales and biases of a norm have the axes of its rows.
    for &arg in &args[1..] {
        operands.push(b.emit(Op::Reshape { shape: vec![n].into() }, &[arg])?);
    }
    let mut op = op.clone();
    match &mut op {
        Op::Softmax { axis, .. } | Op::ArgReduce { axis, .. } | Op::Cumulate { axis, .. } => *axis = 1,
        Op::Norm { axes, .. } => *axes = vec![1],
        _ => {}
    }
    let mut whole = shape.0;
    match op {
        Op::ArgReduce { .. } => drop(whole.remove(rows.start)),
        Op::Sort { k, .. } => whole[rows.start] = k,
        _ => {}
    }
    let y = b.emit(op, &operands)?;
    b.emit(Op::Reshape { shape: whole.into() }, &[y])
}

/// Dimensions that a view has at most, less one that carries those that are not padded.
const MAX_PADDED: usize = VIEW_DIMS - 1;

/// Dimensions that a pad pads.
fn padded<'a>(low: &'a [u64], high: &'a [u64]) -> impl Iterator<Item = usize> + 'a {
    (0..low.len()).filter(|&d| low[d] + high[d] > 0)
}

/// A pad of many dimensions as two.
fn padded_twice(
    b: &mut FunctionBuilder<'_>,
    low: &[u64],
    high: &[u64],
    args: &[Value],
) -> Result<Value, TypeError> {
    let first: Vec<usize> = padded(low, high).take(MAX_PADDED).collect();
    let of = |amounts: &[u64], now: bool| {
        let amount = |(d, &n): (usize, &u64)| if first.contains(&d) == now { n } else { 0 };
        amounts.iter().enumerate().map(amount).collect()
    };
    let once = b.emit(Op::Pad { low: of(low, true), high: of(high, true) }, args)?;
    b.emit(Op::Pad { low: of(low, false), high: of(high, false) }, &[once, args[1]])
}

/// The parts of a product of integers that the DPE can compute.
fn of_integers(known: &integers::Intervals<'_>, data: &NodeData) -> Option<integers::Parts> {
    let (Op::Contract { elem, .. } | Op::Conv { elem, .. }) = data.op else { return None };
    let summed = !matches!(&data.op, Op::Contract { map, .. } if map.summed().is_empty());
    let wide = is_wide(elem) && !elem.is_float() && summed;
    wide.then(|| integers::parts_of(known, &data.op, &data.args)).flatten()
}

/// Whether a kernel takes the node as it is: rows of softmax and norms must fit local memory, a product must sum, in a type that the DPE
/// has, and a convolution have at most two axes.
fn whole(func: &Function, quantised: &Quantised, data: &NodeData, target: &Target) -> bool {
    if data.results.iter().any(|&r| func.ty(r).shape.elements() == 0) {
        return true;
    }
    let rank = data.args.first().map_or(0, |&x| func.ty(x).shape.rank());
    if along(&data.op, rank).is_some() && rank > VIEW_DIMS {
        return false;
    }
    let types: Vec<&TensorType> = data.args.iter().map(|&v| func.ty(v)).collect();
    let row = |axes: &[u8]| axes.iter().map(|&a| types[0].shape[usize::from(a)]).product::<u64>();
    let scalars = || types.iter().filter_map(|ty| ty.elem.scalar());
    if let Op::ArgReduce { axis, .. } | Op::Cumulate { axis, .. } = data.op {
        return row(&[axis]) <= walked_limit(target, types[0]);
    }
    if let Op::Sort { k, .. } = data.op {
        let length = types[0].shape.0.last().copied().unwrap_or(1);
        return length <= row_limit(target, sort_bytes(scalars())) && k <= MOST_SORTED;
    }
    if let Op::Softmax { axis, .. } = data.op {
        return row(&[axis]) <= row_limit(target, softmax_bytes(scalars()));
    }
    if let Op::Norm { axes, .. } = &data.op {
        let copies = data.results.iter().map(|&r| quantised.copies[r].len()).sum();
        return row(axes) <= row_limit(target, norm_bytes(scalars(), copies));
    }
    if let Op::Pad { low, high } = &data.op {
        return low.len() <= VIEW_DIMS || padded(low, high).count() <= MAX_PADDED;
    }
    if let Op::Contract { map, .. } = &data.op {
        return !map.summed().is_empty();
    }
    if let Op::Conv { attrs, elem } = &data.op {
        return !is_wide(*elem)
            && (attrs.strides.len() <= 2 || func.ty(data.args[0]).elem.scalar().is_none());
    }
    let Some(a) = Attention::of(&data.op) else { return true };
    Plan::choose(&a, &types, target).is_some()
}

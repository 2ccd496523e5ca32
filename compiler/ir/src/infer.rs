//! The type rule of every operator: from the operands' types to the results', or what is wrong.

use std::cmp::Ordering;

use lacuna_isa::format::ScalarType;

use crate::module::Module;
use crate::op::{BinaryOp, ContractMap, ConvAttrs, Op, ReduceOp, UnaryOp};
pub use crate::types::TypeError;
use crate::types::{ElemType, Shape, TensorType};

macro_rules! ensure {
    ($cond:expr, $($arg:tt)*) => {
        if !$cond { return Err(TypeError(format!($($arg)*))); }
    };
}

/// Result types of `op` on operands of types `args`.
///
/// # Errors
/// When the operands or attributes break the operator's rule.
pub fn infer(module: &Module, op: &Op, args: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
    let (min, max) = op.arity();
    ensure!(
        (min..=max).contains(&args.len()),
        "`{}` takes {min} to {max} operands, not {}",
        op.name(),
        args.len()
    );
    for arg in args {
        arg.check()?;
    }
    let result = match op {
        Op::Const { value } => {
            ensure!(module.constants.is_valid(*value), "there is no constant {value}");
            module.constants[*value].ty.clone()
        }
        Op::Iota { elem, shape, axis } => {
            ensure!((*axis as usize) < shape.rank(), "axis {axis} of iota is not in {shape}");
            TensorType::new(*elem, shape.clone())
        }
        Op::Unary { op } => {
            let elem = scalar(args[0])?;
            ensure!(*op != UnaryOp::Not || !elem.is_float(), "`not` of {} has no meaning", args[0]);
            let elem = match op {
                UnaryOp::IsNan | UnaryOp::IsInf => ScalarType::Bool,
                _ => elem,
            };
            TensorType::new(elem, args[0].shape.clone())
        }
        Op::Binary { op } => {
            equal(args[0], args[1])?;
            let elem = scalar(args[0])?;
            let bits =
                matches!(op, BinaryOp::And | BinaryOp::Or | BinaryOp::Xor | BinaryOp::Shl | BinaryOp::Shr);
            ensure!(!bits || !elem.is_float(), "`{op}` of {} has no meaning", args[0]);
            args[0].clone()
        }
        Op::Compare { .. } => {
            equal(args[0], args[1])?;
            scalar(args[0])?;
            TensorType::new(ScalarType::Bool, args[0].shape.clone())
        }
        Op::Select {} => {
            ensure!(scalar(args[0])? == ScalarType::Bool, "the condition of select is {}, not bool", args[0]);
            equal(args[1], args[2])?;
            scalar(args[1])?;
            ensure!(
                args[0].shape == args[1].shape,
                "select has shapes {} and {}",
                args[0].shape,
                args[1].shape
            );
            args[1].clone()
        }
        Op::Cast { to, saturate: _ } => {
            scalar(args[0])?;
            TensorType::new(*to, args[0].shape.clone())
        }
        Op::BitCast { to } => {
            let from = scalar(args[0])?;
            ensure!(from.bits() == to.bits(), "bitcast of {} to {to}: their widths differ", args[0]);
            TensorType::new(*to, args[0].shape.clone())
        }
        Op::Reshape { shape } => {
            ensure!(
                shape.checked_elements() == Some(args[0].shape.elements()),
                "{} does not reshape to {shape}: the number of elements differs",
                args[0]
            );
            TensorType::new(scalar(args[0])?, shape.clone())
        }
        Op::Permute { perm } => permute(args[0], perm)?,
        Op::Broadcast { dims, shape } => broadcast(args[0], dims, shape)?,
        Op::Slice { starts, shape, steps } => slice(args[0], starts, shape, steps)?,
        Op::Pad { low, high } => {
            let elem = scalar(args[0])?;
            ensure!(
                args[1].shape.rank() == 0 && scalar(args[1])? == elem,
                "the value of pad is {}, not a scalar {elem}",
                args[1]
            );
            let rank = args[0].shape.rank();
            ensure!(low.len() == rank && high.len() == rank, "pad needs {rank} low and high amounts");
            let padded = (0..rank).map(|d| args[0].shape[d].checked_add(low[d])?.checked_add(high[d]));
            let shape: Option<Vec<u64>> = padded.collect();
            ensure!(shape.is_some(), "the amounts of pad are too large");
            TensorType::new(elem, shape.unwrap_or_default())
        }
        Op::Concat { axis } => concat(args, *axis as usize)?,
        Op::Window { axes, sizes, strides, dilations } => window(args[0], axes, sizes, strides, dilations)?,
        Op::Gather { axis, batch } => gather(args[0], args[1], *axis as usize, *batch as usize)?,
        Op::Reduce { op, axes } => {
            let elem = scalar(args[0])?;
            ensure!(elem != ScalarType::Bool || *op != ReduceOp::Mean, "a mean of bool has no meaning");
            axes_of(args[0], axes)?;
            TensorType::new(elem, without(&args[0].shape, axes))
        }
        Op::ArgReduce { axis, .. } => {
            axes_of(args[0], &[*axis])?;
            TensorType::new(ScalarType::I64, without(&args[0].shape, &[*axis]))
        }
        Op::Sort { k, .. } => {
            let elem = scalar(args[0])?;
            let mut shape = args[0].shape.clone();
            ensure!(elem.bits() <= 32, "{elem} has no keys to sort by");
            let Some(last) = shape.0.last_mut() else {
                return Err(TypeError("a scalar has no lines to sort".into()));
            };
            ensure!(*k <= *last, "the first {k} of {last} elements");
            *last = *k;
            TensorType::new(ScalarType::I64, shape)
        }
        Op::Scatter { .. } => scatter(args[0], args[1], args[2])?,
        Op::Cumulate { axis, .. } => {
            axes_of(args[0], &[*axis])?;
            TensorType::new(scalar(args[0])?, args[0].shape.clone())
        }
        Op::Contract { map, elem } => contract(map, *elem, args[0], args[1])?,
        Op::Conv { attrs, elem } => conv(attrs, *elem, args[0], args[1])?,
        Op::Softmax { axis, .. } => {
            axes_of(args[0], &[*axis])?;
            float(args[0])?;
            args[0].clone()
        }
        Op::Norm { axes, .. } => {
            axes_of(args[0], axes)?;
            float(args[0])?;
            let shape: Shape = axes.iter().map(|&a| args[0].shape[a as usize]).collect();
            for arg in &args[1..] {
                ensure!(
                    arg.shape == shape && arg.elem == args[0].elem,
                    "scale or bias of norm is {arg}, not {}{shape}",
                    args[0].elem
                );
            }
            args[0].clone()
        }
        Op::Attention { scale: _, softcap, causal: _, shift: _, window: _, empty_row: _, elem } => {
            let bounds = softcap.0 >= 0.0;
            ensure!(bounds, "the softcap of attention is {}", softcap.0);
            attention(*elem, args)?
        }
        Op::MxQuantize { format, axis, mode: _ } => {
            axes_of(args[0], &[*axis])?;
            float(args[0])?;
            TensorType::grouped(*format, *axis as usize, args[0].shape.clone())
        }
        Op::MxDecode { to } => {
            ensure!(to.is_float(), "mx_decode gives floating-point types, not {to}");
            ensure!(args[0].elem.scalar().is_none(), "mx_decode needs a grouped operand, not {}", args[0]);
            TensorType::new(*to, args[0].shape.clone())
        }
        Op::Dequantize { blocks, to } => dequantize(blocks, *to, args)?,
        Op::Call { func } => {
            ensure!(module.functions.is_valid(*func), "there is no function {func}");
            let callee = &module.functions[*func];
            ensure!(
                callee.params.len() == args.len(),
                "`{}` takes {} operands",
                callee.name,
                callee.params.len()
            );
            let mut outer = callee.params.iter().chain(&callee.results);
            ensure!(outer.all(|&v| callee.values.is_valid(v)), "`{}` is not well-formed", callee.name);
            for (&param, arg) in callee.params.iter().zip(args) {
                equal(callee.ty(param), arg)?;
            }
            return Ok(callee.results.iter().map(|&r| callee.ty(r).clone()).collect());
        }
    };
    result.check()?;
    Ok(vec![result])
}

fn dequantize(blocks: &[u64], to: ScalarType, args: &[&TensorType]) -> Result<TensorType, TypeError> {
    let wide = matches!(to, ScalarType::F32 | ScalarType::F16 | ScalarType::Bf16);
    ensure!(wide, "dequantize gives f32, f16 or bf16, not {to}");
    let (codes, shape) = (scalar(args[0])?, &args[0].shape);
    ensure!(codes.bits() <= 8 && codes != ScalarType::Bool, "the codes of dequantize are {}", args[0]);
    ensure!(blocks.len() == shape.rank() && !blocks.contains(&0), "blocks of {blocks:?} do not fit {shape}");
    let each: Shape = shape.iter().zip(blocks).map(|(n, &b)| n.div_ceil(b)).collect();
    ensure!(
        float(args[1]).is_ok() && args[1].shape == each,
        "the scale of dequantize is {}, not {each}",
        args[1]
    );
    if let Some(zero) = args.get(2) {
        ensure!(scalar(zero)? != ScalarType::Bool && zero.shape == each, "the zero of dequantize is {zero}");
    }
    Ok(TensorType::new(to, shape.clone()))
}

fn scalar(ty: &TensorType) -> Result<ScalarType, TypeError> {
    ty.elem.scalar().ok_or_else(|| TypeError(format!("{ty} is grouped where a scalar type is needed")))
}

fn float(ty: &TensorType) -> Result<ScalarType, TypeError> {
    let elem = scalar(ty)?;
    ensure!(elem.is_float(), "{ty} is not of a floating-point type");
    Ok(elem)
}

fn equal(a: &TensorType, b: &TensorType) -> Result<(), TypeError> {
    ensure!(a == b, "types {a} and {b} differ");
    Ok(())
}

fn axes_of(ty: &TensorType, axes: &[u8]) -> Result<(), TypeError> {
    for (i, &axis) in axes.iter().enumerate() {
        ensure!((axis as usize) < ty.shape.rank(), "axis {axis} is not in {ty}");
        ensure!(!axes[..i].contains(&axis), "axis {axis} is given twice");
    }
    Ok(())
}

fn without(shape: &Shape, axes: &[u8]) -> Shape {
    shape.iter().enumerate().filter(|(d, _)| !axes.contains(&(*d as u8))).map(|(_, &n)| n).collect()
}

/// The element type after dimension `d` became dimension `to(d)`.
fn moved(elem: ElemType, to: impl Fn(usize) -> Option<usize>) -> Result<ElemType, TypeError> {
    match elem {
        ElemType::Scalar(_) => Ok(elem),
        ElemType::Grouped { format, axis } => to(axis as usize)
            .map(|axis| ElemType::Grouped { format, axis: axis as u8 })
            .ok_or_else(|| TypeError(format!("the movement splits the groups of {elem}"))),
    }
}

fn permute(x: &TensorType, perm: &[u8]) -> Result<TensorType, TypeError> {
    ensure!(perm.len() == x.shape.rank(), "a permutation of {x} needs {} entries", x.shape.rank());
    axes_of(x, perm)?;
    let elem = moved(x.elem, |d| perm.iter().position(|&p| p as usize == d))?;
    Ok(TensorType { elem, shape: perm.iter().map(|&p| x.shape[p as usize]).collect() })
}

fn broadcast(x: &TensorType, dims: &[u8], shape: &Shape) -> Result<TensorType, TypeError> {
    ensure!(dims.len() == x.shape.rank(), "broadcast of {x} names {} dimensions", dims.len());
    ensure!(dims.windows(2).all(|w| w[0] < w[1]), "the dimensions of broadcast do not ascend");
    for (i, &d) in dims.iter().enumerate() {
        ensure!((d as usize) < shape.rank(), "dimension {d} is not in {shape}");
        let (from, to) = (x.shape[i], shape[d as usize]);
        ensure!(from == to || from == 1, "dimension {i} of {x} does not broadcast to {to}");
    }
    let elem = moved(x.elem, |d| (x.shape[d] == shape[dims[d] as usize]).then_some(dims[d] as usize))?;
    Ok(TensorType { elem, shape: shape.clone() })
}

fn slice(x: &TensorType, starts: &[i64], shape: &Shape, steps: &[i64]) -> Result<TensorType, TypeError> {
    let rank = x.shape.rank();
    ensure!(
        starts.len() == rank && steps.len() == rank && shape.rank() == rank,
        "slice of {x} needs {rank} starts, sizes and steps"
    );
    for d in 0..rank {
        ensure!(steps[d] != 0, "step {d} of slice is zero");
        if shape[d] > 0 {
            let last = i128::from(starts[d]) + i128::from(shape[d] - 1) * i128::from(steps[d]);
            let inside = |i: i128| (0..i128::from(x.shape[d])).contains(&i);
            ensure!(inside(starts[d].into()) && inside(last), "slice leaves dimension {d} of {x}");
        }
    }
    let elem = moved(x.elem, |d| (starts[d] == 0 && shape[d] == x.shape[d] && steps[d] == 1).then_some(d))?;
    Ok(TensorType { elem, shape: shape.clone() })
}

fn concat(args: &[&TensorType], axis: usize) -> Result<TensorType, TypeError> {
    let elem = scalar(args[0])?;
    let mut shape = args[0].shape.clone();
    ensure!(axis < shape.rank(), "axis {axis} is not in {}", args[0]);
    for arg in &args[1..] {
        let fits = scalar(arg)? == elem
            && arg.shape.rank() == shape.rank()
            && (0..shape.rank()).all(|d| d == axis || arg.shape[d] == shape[d]);
        ensure!(fits, "{arg} does not concatenate to {} along {axis}", args[0]);
        // Each is below 2^56 and there are at most 4096.
        shape.0[axis] = shape.0[axis].saturating_add(arg.shape[axis]);
    }
    Ok(TensorType::new(elem, shape))
}

/// Positions of a window of `size` elements `dilation` apart that moves by `stride` over `extent`.
pub fn window_positions(extent: u64, size: u64, stride: u64, dilation: u64) -> Option<u64> {
    let span = (size.checked_sub(1)?).checked_mul(dilation)?.checked_add(1)?;
    Some(extent.checked_sub(span)? / stride + 1)
}

fn window(
    x: &TensorType,
    axes: &[u8],
    sizes: &[u64],
    strides: &[u64],
    dilations: &[u64],
) -> Result<TensorType, TypeError> {
    axes_of(x, axes)?;
    let n = axes.len();
    ensure!(
        sizes.len() == n && strides.len() == n && dilations.len() == n,
        "window needs {n} sizes, strides, dilations"
    );
    ensure!(strides.iter().chain(dilations).all(|&s| s > 0), "strides and dilations of window are positive");
    let mut shape = x.shape.clone();
    for (i, &axis) in axes.iter().enumerate() {
        let axis = axis as usize;
        let positions = window_positions(x.shape[axis], sizes[i], strides[i], dilations[i]);
        shape.0[axis] = positions
            .ok_or_else(|| TypeError(format!("the window is larger than dimension {axis} of {x}")))?;
    }
    shape.0.extend(sizes);
    Ok(TensorType::new(scalar(x)?, shape))
}

fn scatter(x: &TensorType, at: &TensorType, updates: &TensorType) -> Result<TensorType, TypeError> {
    let elem = scalar(x)?;
    ensure!(scalar(updates)? == elem, "updates of {x} are {updates}");
    ensure!(elem.bits() >= 8, "elements of {elem} share bytes");
    ensure!(
        matches!(scalar(at)?, ScalarType::I32 | ScalarType::I64),
        "the positions of scatter are {at}, neither i32 nor i64"
    );
    let fits = match (&x.shape[..], &at.shape[..], &updates.shape[..]) {
        ([lanes, _, width], [of, count], updates) => lanes == of && *updates == [*lanes, *count, *width],
        _ => false,
    };
    ensure!(fits, "scatter has shapes {}, {} and {}", x.shape, at.shape, updates.shape);
    Ok(x.clone())
}

fn gather(x: &TensorType, i: &TensorType, axis: usize, batch: usize) -> Result<TensorType, TypeError> {
    let index = scalar(i)?;
    ensure!(
        matches!(index, ScalarType::I32 | ScalarType::I64),
        "indices of gather are {index}, not i32 or i64"
    );
    ensure!(
        axis < x.shape.rank() && batch <= axis && batch <= i.shape.rank(),
        "gather along {axis} of {x} by {i}"
    );
    ensure!(x.shape[..batch] == i.shape[..batch], "batch dimensions of {x} and {i} differ");
    let shape: Shape =
        x.shape[..axis].iter().chain(&i.shape[batch..]).chain(&x.shape[axis + 1..]).copied().collect();
    let behind = i.shape.rank() - batch;
    let elem = moved(x.elem, |d| match d.cmp(&axis) {
        Ordering::Less => Some(d),
        Ordering::Equal => None,
        Ordering::Greater => Some(d - 1 + behind),
    })?;
    Ok(TensorType { elem, shape })
}

fn contract(
    map: &ContractMap,
    elem: ScalarType,
    a: &TensorType,
    b: &TensorType,
) -> Result<TensorType, TypeError> {
    ensure!(
        map.a.len() == a.shape.rank() && map.b.len() == b.shape.rank(),
        "map {map} does not fit {a} and {b}"
    );
    let mut sizes = [None; 256];
    for (labels, ty) in [(&map.a, a), (&map.b, b)] {
        for (d, &label) in labels.iter().enumerate() {
            ensure!(label < 26, "labels of contract are below 26");
            ensure!(!labels[..d].contains(&label), "map {map} repeats a label within an operand");
            let size = ty.shape[d];
            let known = *sizes[label as usize].get_or_insert(size);
            ensure!(
                known == size,
                "dimensions that are multiplied with each other have the sizes {known} and {size}"
            );
        }
    }
    for (labels, other) in [(&map.a, &map.b), (&map.b, &map.a)] {
        let fine = labels.iter().all(|l| map.out.contains(l) || other.contains(l));
        ensure!(fine, "map {map} sums over a label that only one operand has");
    }
    for (ty, labels) in [(a, &map.a), (b, &map.b)] {
        if let ElemType::Grouped { axis, .. } = ty.elem {
            let label = labels[axis as usize];
            ensure!(!map.out.contains(&label), "{ty} is grouped along a dimension that is not summed over");
        }
    }
    let mut shape = Vec::new();
    for (d, &label) in map.out.iter().enumerate() {
        ensure!(label < 26, "labels of contract are below 26");
        ensure!(!map.out[..d].contains(&label), "map {map} repeats a label of the result");
        let size = sizes[label as usize];
        shape.push(
            size.ok_or_else(|| TypeError(format!("map {map} has a result label that no operand has")))?,
        );
    }
    Ok(TensorType::new(elem, shape))
}

fn attention(elem: ScalarType, args: &[&TensorType]) -> Result<TensorType, TypeError> {
    let (q, k, v) = (args[0], args[1], args[2]);
    ensure!(elem.is_float(), "attention gives floating-point types, not {elem}");
    for (ty, what) in [(q, "query"), (k, "key"), (v, "value")] {
        ensure!(ty.shape.rank() == 4, "the {what} of attention is {ty}, not of rank 4");
        ensure!(scalar(ty)?.is_float(), "the {what} of attention is {ty}");
    }
    let ([batch, heads, length, size], [_, groups, keys, _]) = (&q.shape[..], &k.shape[..]) else {
        return Err(TypeError("attention needs rank 4".into()));
    };
    ensure!(
        k.shape[0] == *batch && k.shape[3] == *size && v.shape[..3] == k.shape[..3],
        "attention of {q} over {k} and {v}"
    );
    let shared = if *groups == 0 { *heads == 0 } else { heads.is_multiple_of(*groups) };
    ensure!(shared, "{heads} heads over {groups} groups of keys");
    if let Some(mask) = args.get(3) {
        let of = scalar(mask)?;
        ensure!(of == ScalarType::Bool || of == elem, "the mask of attention is {mask}");
        let full = [*batch, *heads, *length, *keys];
        let fits = mask.shape.rank() == 4 && mask.shape.iter().zip(full).all(|(&n, all)| n == all || n == 1);
        ensure!(fits, "the mask of attention is {mask}, which does not repeat to {}", Shape(full.to_vec()));
    }
    Ok(TensorType::new(elem, vec![*batch, *heads, *length, v.shape[3]]))
}

fn conv(
    attrs: &ConvAttrs,
    elem: ScalarType,
    x: &TensorType,
    w: &TensorType,
) -> Result<TensorType, TypeError> {
    let rank = x.shape.rank();
    ensure!(rank >= 2 && w.shape.rank() == rank, "conv of {x} and {w}: ranks differ or are below 2");
    let n = rank - 2;
    let lists = [&attrs.x, &attrs.w, &attrs.out];
    ensure!(lists.iter().all(|l| l.len() == rank), "conv dimension lists need {rank} entries");
    for list in lists {
        axes_of(x, list)?;
    }
    let counts = [
        attrs.strides.len(),
        attrs.dilations.len(),
        attrs.x_dilations.len(),
        attrs.low.len(),
        attrs.high.len(),
    ];
    ensure!(counts.iter().all(|&c| c == n), "conv needs {n} strides, dilations and pads");
    ensure!(
        attrs.strides.iter().chain(&attrs.dilations).chain(&attrs.x_dilations).all(|&s| s > 0)
            && attrs.groups > 0,
        "strides, dilations and groups of conv are positive"
    );
    let x_dim = |i: usize| x.shape[attrs.x[i] as usize];
    let w_dim = |i: usize| w.shape[attrs.w[i] as usize];
    ensure!(
        Some(x_dim(1)) == w_dim(1).checked_mul(attrs.groups) && w_dim(0) % attrs.groups == 0,
        "conv of {} channels by {} of {} in {} groups",
        x_dim(1),
        w_dim(0),
        w_dim(1),
        attrs.groups
    );
    for (ty, list) in [(x, &attrs.x), (w, &attrs.w)] {
        if let ElemType::Grouped { axis, .. } = ty.elem {
            ensure!(axis == list[1], "{ty} is not grouped along its input channels");
        }
    }
    let mut shape = vec![0; rank];
    shape[attrs.out[0] as usize] = x_dim(0);
    shape[attrs.out[1] as usize] = w_dim(0);
    for i in 0..n {
        let steps = i128::from(x_dim(i + 2).saturating_sub(1)) * i128::from(attrs.x_dilations[i]);
        let spread = steps + i128::from(x_dim(i + 2) > 0);
        let extent = spread + i128::from(attrs.low[i]) + i128::from(attrs.high[i]);
        let positions = u64::try_from(extent)
            .ok()
            .and_then(|e| window_positions(e, w_dim(i + 2), attrs.strides[i], attrs.dilations[i]));
        shape[attrs.out[i + 2] as usize] = positions
            .ok_or_else(|| TypeError(format!("the kernel of conv is larger than {x} on spatial axis {i}")))?;
    }
    Ok(TensorType::new(elem, shape))
}

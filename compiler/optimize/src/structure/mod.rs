//! Zero structure of values, as an analysis on e-classes: which slices along each dimension are all zero, which
//! dimensions are 2:4, and what is probably zero at run time.
//!
//! A zero makes the terms of a contraction vanish that it is a factor of, whatever the other factor is (class E0f). In element-wise
//! work it does only where the other factor is known to be finite.

mod indices;
mod zeros;

use lacuna_ir::op::{BinaryOp, Dims, UnaryOp};
use lacuna_ir::{Constant, Module, Op, Shape};

use crate::facts::Facts;
use crate::views::parts;
use crate::zero_codes::{WeightSparsity, follows, is_zero, zero_slices};

pub use indices::Indices;
pub use zeros::Zeros;

/// Zero structure of a constant. The scans stop where nothing can be found any more, which in dense weights is at
/// once, or after a row and a column.
pub fn of_constant(constant: &Constant) -> Zeros {
    if is_zero(constant) {
        return Zeros::zero();
    }
    let mut zeros = Zeros::default();
    for d in 0..constant.ty.shape.rank().min(8) {
        if WeightSparsity::LOOSEST.iter().any(|&p| follows(constant, d, p)) {
            zeros.halved |= 1 << d;
        }
        if let Some(dead) = zero_slices(constant, d) {
            zeros.add(d as u8, &dead);
        }
    }
    zeros
}

/// Whether a function has the value zero at zero.
fn keeps_zero(op: UnaryOp) -> bool {
    match op {
        UnaryOp::Neg | UnaryOp::Abs | UnaryOp::Sign | UnaryOp::Ceil | UnaryOp::Floor | UnaryOp::Round => true,
        UnaryOp::Sqrt | UnaryOp::Sin | UnaryOp::Tan | UnaryOp::Asin | UnaryOp::Atan | UnaryOp::Sinh => true,
        UnaryOp::Tanh | UnaryOp::Asinh | UnaryOp::Atanh | UnaryOp::Erf | UnaryOp::Expm1 | UnaryOp::Log1p => {
            true
        }
        UnaryOp::Not | UnaryOp::Exp | UnaryOp::Log | UnaryOp::Recip | UnaryOp::Cos | UnaryOp::Acos => false,
        UnaryOp::Cosh | UnaryOp::Acosh | UnaryOp::Sigmoid | UnaryOp::NormCdf => false,
        UnaryOp::IsNan | UnaryOp::IsInf => false,
    }
}

/// What decides whether a value is probably zero at run time, of one operand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Likely {
    /// Whether it is itself probably zero.
    pub likely: bool,
    /// Whether it is the constant zero.
    pub zero: bool,
    /// Whether it is a constant.
    pub constant: bool,
}

/// Whether many elements of a result are probably zero at run time: ReLU and what keeps its zeros.
pub fn likely_zero(op: &Op, args: &[Likely]) -> bool {
    let any = || args.iter().any(|a| a.likely);
    let relu = || args.iter().any(|a| a.zero) && args.iter().any(|a| !a.constant);
    if let Op::Binary { op } = op {
        return match op {
            BinaryOp::Max => relu() || args.iter().all(|a| a.likely),
            BinaryOp::Min => any() && args.iter().any(|a| a.constant && !a.zero),
            BinaryOp::Mul => any(),
            BinaryOp::Add | BinaryOp::Sub => args.iter().all(|a| a.likely),
            BinaryOp::Div => args[0].likely,
            BinaryOp::Mod | BinaryOp::Rem | BinaryOp::Pow | BinaryOp::Shl | BinaryOp::Shr => false,
            BinaryOp::And | BinaryOp::Or | BinaryOp::Xor => false,
        };
    }
    if let Op::Unary { op } = op {
        return keeps_zero(*op) && any();
    }
    if let Op::Select {} = op {
        return !args[0].constant && (args[1].zero || args[2].zero);
    }
    let keeps =
        matches!(op, Op::Cast { .. } | Op::MxQuantize { .. } | Op::MxDecode { .. } | Op::Concat { .. });
    (keeps || op.is_movement()) && !args.is_empty() && args.iter().all(|a| a.likely)
}

/// Zero structure of a result of shape `shape`; `finite` says of an operand whether it is neither infinite nor NaN
/// anywhere.
pub fn of_op(
    module: &Module,
    op: &Op,
    args: &[&Facts],
    finite: &dyn Fn(usize) -> bool,
    shape: &Shape,
) -> Zeros {
    let likely: Vec<Likely> = args
        .iter()
        .map(|a| Likely {
            likely: a.zeros.at_run_time,
            zero: a.zeros.all && a.constant,
            constant: a.constant,
        })
        .collect();
    let mut zeros = structure(module, op, args, finite, shape);
    zeros.at_run_time = likely_zero(op, &likely);
    zeros
}

/// The zeros that a factor gives a product, if the other factor is finite: infinity times zero is NaN.
fn of_factor(args: &[&Facts], finite: &dyn Fn(usize) -> bool, i: usize) -> Zeros {
    let zeros = &args[i].zeros;
    let halved = zeros.halved;
    let any = zeros.all || !zeros.dead.is_empty();
    if any && finite(1 - i) { zeros.clone() } else { Zeros { halved, ..Zeros::default() } }
}

fn structure(
    module: &Module,
    op: &Op,
    args: &[&Facts],
    finite: &dyn Fn(usize) -> bool,
    shape: &Shape,
) -> Zeros {
    if args.iter().any(|a| a.types.is_empty()) {
        return Zeros::default();
    }
    match op {
        Op::Const { value } => of_constant(&module.constants[*value]),
        Op::Unary { op } if keeps_zero(*op) => args[0].zeros.clone(),
        Op::Cast { .. } => args[0].zeros.clone(),
        Op::Binary { op: BinaryOp::Mul } => of_factor(args, finite, 0).join(&of_factor(args, finite, 1)),
        Op::Binary { op: BinaryOp::Add | BinaryOp::Sub | BinaryOp::Min | BinaryOp::Max } => {
            args[0].zeros.common(&args[1].zeros)
        }
        Op::Binary { op: BinaryOp::Div } => {
            if args[1].splat.is_some_and(|v| v.0 != 0.0 && !v.0.is_nan()) {
                args[0].zeros.clone()
            } else {
                Zeros::default()
            }
        }
        Op::Select {} => args[1].zeros.common(&args[2].zeros),
        Op::Permute { perm } => {
            let from = &args[0].zeros;
            let place = |d: u8| perm.iter().position(|&p| p == d).map(|i| i as u8);
            let bit = |d: u8| (from.halved >> d) & 1;
            let halved = perm.iter().enumerate().fold(0, |mask, (i, &p)| mask | (bit(p) << i));
            Zeros { halved, ..from.moved(place) }
        }
        Op::Broadcast { dims, .. } => {
            let inner = &args[0].types[0].shape;
            args[0].zeros.moved(|d| {
                let to = dims[d as usize];
                (inner[d as usize] == shape[to as usize]).then_some(to)
            })
        }
        Op::Reshape { .. } => reshaped(&args[0].zeros, &args[0].types[0].shape, shape),
        Op::Slice { starts, steps, .. } => {
            let mut zeros = Zeros { all: args[0].zeros.all, ..Zeros::default() };
            for (d, set) in &args[0].zeros.dead {
                let (start, step) = (starts[*d as usize], steps[*d as usize]);
                let at = |i: u64| u64::try_from(start + i as i64 * step).is_ok_and(|i| set.contains(i));
                zeros.add(*d, &Indices::of(shape[*d as usize], at));
            }
            zeros
        }
        Op::Pad { low, high } => padded(args, low, high, shape),
        Op::Concat { axis } => concatenated(args, *axis, shape),
        Op::Window { axes, .. } => args[0].zeros.moved(|d| (!axes.contains(&d)).then_some(d)),
        Op::Reduce { axes, .. } => {
            let rank = args[0].types[0].shape.rank() as u8;
            let kept: Dims = (0..rank).filter(|d| !axes.contains(d)).collect();
            // The product of no element is 1, the least of none infinite.
            let some = axes.iter().all(|&a| args[0].types[0].shape[a as usize] > 0);
            let zeros = args[0].zeros.moved(|d| kept.iter().position(|&k| k == d).map(|i| i as u8));
            if some { zeros } else { Zeros::default() }
        }
        Op::Contract { map, .. } => {
            let mut zeros = Zeros { all: args.iter().any(|a| a.zeros.all), ..Zeros::default() };
            for (labels, other, from) in [(&map.a, &map.b, args[0]), (&map.b, &map.a, args[1])] {
                for (d, set) in &from.zeros.dead {
                    let label = labels[*d as usize];
                    if let Some(to) = map.out.iter().position(|&l| l == label) {
                        zeros.add(to as u8, set);
                    } else if let Some(e) = other.iter().position(|&l| l == label) {
                        // Where every term of the sum has a zero factor, nothing is left.
                        let other = if std::ptr::eq(from, args[0]) { args[1] } else { args[0] };
                        let rest = other.zeros.dead(e as u8);
                        zeros.all |= rest.is_some_and(|r| r.or(set).is_full());
                    }
                }
            }
            if zeros.all { Zeros::zero() } else { zeros }
        }
        Op::Conv { attrs, .. } => {
            let mut zeros = Zeros { all: args.iter().any(|a| a.zeros.all), ..Zeros::default() };
            if let Some(set) = args[1].zeros.dead(attrs.w[0]) {
                zeros.add(attrs.out[1], set);
            }
            if let Some(set) = args[0].zeros.dead(attrs.x[0]) {
                zeros.add(attrs.out[0], set);
            }
            zeros
        }
        Op::Iota { .. } | Op::Unary { .. } | Op::Binary { .. } | Op::Compare { .. } => Zeros::default(),
        Op::Gather { .. } | Op::ArgReduce { .. } | Op::Cumulate { .. } => Zeros::default(),
        Op::Sort { .. } | Op::Scatter { .. } => Zeros::default(),
        Op::BitCast { .. } | Op::Softmax { .. } | Op::Norm { .. } | Op::Attention { .. } => Zeros::default(),
        Op::MxQuantize { .. } | Op::MxDecode { .. } | Op::Dequantize { .. } | Op::Call { .. } => {
            Zeros::default()
        }
    }
}

/// A reshape keeps dead indices of dimensions that stay, and of those that merge with others.
fn reshaped(from: &Zeros, inner: &Shape, outer: &Shape) -> Zeros {
    let mut zeros = Zeros { all: from.all, ..Zeros::default() };
    if from.all || from.dead.is_empty() {
        return zeros;
    }
    if let Some(parts) = parts(inner, outer) {
        for (to, dims) in parts.iter().enumerate() {
            for (d, set) in &from.dead {
                let Some(at) = dims.iter().position(|e| e == d) else { continue };
                let after: u64 = dims[at + 1..].iter().map(|&e| inner[e as usize]).product();
                let extent = inner[*d as usize];
                zeros.add(to as u8, &Indices::of(outer[to], |i| set.contains(i / after % extent)));
            }
        }
    } else if let Some(parts) = parts(outer, inner) {
        for (d, set) in &from.dead {
            let dims = &parts[*d as usize];
            for (at, &to) in dims.iter().enumerate() {
                let after: u64 = dims[at + 1..].iter().map(|&e| outer[e as usize]).product();
                let extent = outer[to as usize];
                // Dead where all indices with this digit are. One walk over the indices: there may be millions.
                let mut lives = vec![false; extent as usize];
                for i in (0..set.extent()).filter(|&i| !set.contains(i)) {
                    lives[(i / after % extent) as usize] = true;
                }
                zeros.add(to, &Indices::of(extent, |digit| !lives[digit as usize]));
            }
        }
    }
    zeros
}

fn padded(args: &[&Facts], low: &[u64], high: &[u64], shape: &Shape) -> Zeros {
    let from = &args[0].zeros;
    let zero = args[1].zeros.all;
    let mut zeros = Zeros { all: zero && from.all, ..Zeros::default() };
    let padded = |d: usize| low[d] + high[d] > 0;
    for d in 0..shape.rank() {
        // Padding of other dimensions lies beside every index of this one.
        if !zero && (0..shape.rank()).any(|e| e != d && padded(e)) {
            continue;
        }
        let (first, n) = (low[d], shape[d] - low[d] - high[d]);
        let inner = |i: u64| from.all || from.dead(d as u8).is_some_and(|set| set.contains(i));
        let dead = |i: u64| if i >= first && i < first + n { inner(i - first) } else { zero };
        if padded(d) || from.all || from.dead(d as u8).is_some() {
            zeros.add(d as u8, &Indices::of(shape[d], dead));
        }
    }
    zeros
}

fn concatenated(args: &[&Facts], axis: u8, shape: &Shape) -> Zeros {
    let mut zeros = Zeros { all: args.iter().all(|a| a.zeros.all), ..Zeros::default() };
    zeros.halved =
        args.iter().fold(!(1 << axis), |mask, a| mask & if a.zeros.all { !0 } else { a.zeros.halved });
    if zeros.all {
        return Zeros::zero();
    }
    let mut along = Indices::none(shape[axis as usize]);
    let mut offset = 0;
    for part in args {
        let n = part.types[0].shape[axis as usize];
        for i in 0..n {
            if part.zeros.all || part.zeros.dead(axis).is_some_and(|set| set.contains(i)) {
                along.insert(offset + i);
            }
        }
        offset += n;
    }
    zeros.add(axis, &along);
    let live: Vec<&&Facts> = args.iter().filter(|a| !a.zeros.all).collect();
    for d in (0..shape.rank() as u8).filter(|&d| d != axis) {
        let sets: Option<Vec<&Indices>> = live.iter().map(|a| a.zeros.dead(d)).collect();
        if let Some((first, rest)) = sets.as_deref().and_then(|s| s.split_first()) {
            let common = rest.iter().fold((*first).clone(), |all, set| all.and(set));
            zeros.add(d, &common);
        }
    }
    zeros
}

#[cfg(test)]
mod tests;

//! Constant recipes on bytes: movement as strided views, the arithmetic that folding of scales leaves, and what gives weights
//! other formats. The general evaluator computes in double precision, with eight bytes for every element; weights of models are
//! too large for that.
//!
//! The results have the bits of the evaluator's: one f32 operation rounds as the same operation in f64, rounded again. A
//! conversion rounds once, and a group is quantised from f32 in both.

use indexmap::IndexMap;
use lacuna_ir::op::{BinaryOp, UnaryOp};
use lacuna_ir::{Blob, ConstantData, ElemType, Function, Module, Op, Shape, TensorType, Value};
use lacuna_isa::format::group::{self, Place};
use lacuna_isa::format::{ScalarType, ScaleMode, pack};

/// Elements of a row-major buffer, one after the other in the order of a shape.
#[derive(Clone)]
struct View {
    data: Blob,
    /// Bytes of an element.
    width: usize,
    shape: Vec<usize>,
    strides: Vec<isize>,
    offset: isize,
}

/// The dense bytes of a constant recipe; `None` where something else is in it than this file knows.
pub fn bytes(module: &Module, func: &Function, value: Value) -> Option<Blob> {
    let data = &func.nodes[func.def(value)?];
    if let Op::MxQuantize { mode, .. } = data.op {
        let elem = func.ty(data.args[0]).elem.scalar()?;
        let view = view(module, func, data.args[0])?;
        return grouped((elem, &view.dense_data()), func.ty(value), mode).map(Blob::new);
    }
    let view = view(module, func, value)?;
    Some(view.dense_data())
}

/// The dense form of `ty`, a grouped type, for the elements of a dense array of another type; `None` for other types than the
/// operator takes.
pub fn grouped((elem, elements): (ScalarType, &Blob), ty: &TensorType, mode: ScaleMode) -> Option<Vec<u8>> {
    let ElemType::Grouped { format, axis } = ty.elem else { return None };
    let (shape, axis) = (sizes(&ty.shape)?, usize::from(axis));
    if !elem.is_float() || elem.bits() < 8 || axis >= shape.len() {
        return None;
    }
    let dims = [shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product()];
    let (n_bytes, n_scale_bytes) = (ty.bytes() as usize, ty.scale_bytes() as usize);
    let mut out = vec![0; n_bytes];
    let (codes, scales) = out.split_at_mut(n_bytes - n_scale_bytes);
    match parts(elements, dims, (elem.bits() / 8) as usize) {
        // Merged weights are quantised from where they were: together they are never copied.
        Some(parts) => {
            for (part, dims, place) in parts {
                let read = &mut reader(elem, part);
                group::quantize_part(format, mode, read, dims, place, codes, scales);
            }
        }
        None => group::quantize_axis(format, mode, (elem, elements.bytes()), dims, codes, scales),
    }
    Some(out)
}

/// The arrays that an array of `dims` (before, along and behind an axis) interleaves, each with its own dims and place; `None` where
/// a part does not have all of the axis.
fn parts(all: &Blob, dims: [usize; 3], width: usize) -> Option<Vec<(&Blob, [usize; 3], Place)>> {
    let [outer, n, n_inner] = dims;
    let (parts, n_rounds) = all.parts();
    let mut at = 0;
    let mut place = |part| -> Option<(&Blob, [usize; 3], Place)> {
        let first = at;
        let whole = |size: usize| Blob::len(part).is_multiple_of(size).then(|| part.len() / size);
        // Parts follow one another before the axis, or stand side by side behind it.
        if n_rounds == 1 {
            let own = whole(n * n_inner * width)?;
            at += own;
            Some((part, [own, n, n_inner], Place { outer: first, inner: 0, n_inner }))
        } else {
            let own = whole(outer * n * width)?;
            at += own;
            Some((part, [outer, n, own], Place { outer: 0, inner: first, n_inner }))
        }
    };
    if dims.contains(&0) || (n_rounds != 1 && n_rounds != outer * n) {
        return None;
    }
    parts.iter().map(&mut place).collect()
}

/// The view that a recipe is.
fn view(module: &Module, func: &Function, value: Value) -> Option<View> {
    let mut known: IndexMap<Value, View> = IndexMap::new();
    for node in func.nodes_behind(value, |_| false) {
        let data = &func.nodes[node];
        let &[result] = &data.results[..] else { return None };
        let args = data.args.iter().map(|a| known.get(a).cloned()).collect::<Option<Vec<View>>>()?;
        let from = data.args.first().and_then(|&a| func.ty(a).elem.scalar());
        known.insert(result, computed(module, &data.op, &args, from, func.ty(result))?);
    }
    known.swap_remove(&value)
}

fn computed(
    module: &Module,
    op: &Op,
    args: &[View],
    from: Option<ScalarType>,
    ty: &TensorType,
) -> Option<View> {
    let elem = ty.elem.scalar()?;
    let shape = sizes(&ty.shape)?;
    match op {
        Op::Const { value } => {
            let width = (elem.bits() / 8) as usize;
            match &module.constants[*value].data {
                ConstantData::Dense(blob) if width > 0 => Some(View::dense(blob.clone(), width, shape)),
                ConstantData::Splat(code) if width > 0 => {
                    let data = Blob::new(code.to_le_bytes()[..width].to_vec());
                    Some(View { data, width, strides: vec![0; shape.len()], shape, offset: 0 })
                }
                ConstantData::Dense(_) | ConstantData::Splat(_) => None,
            }
        }
        Op::Reshape { .. } => {
            let x = &args[0];
            Some(View::dense(x.dense_data(), x.width, shape))
        }
        Op::Permute { perm } => {
            let strides = perm.iter().map(|&p| args[0].strides[p as usize]).collect();
            Some(View { shape, strides, ..args[0].clone() })
        }
        Op::Broadcast { dims, .. } => {
            let mut strides = vec![0; shape.len()];
            for (i, &d) in dims.iter().enumerate() {
                if args[0].shape[i] == shape[d as usize] {
                    strides[d as usize] = args[0].strides[i];
                }
            }
            Some(View { shape, strides, ..args[0].clone() })
        }
        Op::Slice { starts, steps, .. } => {
            let x = &args[0];
            let mut offset = x.offset;
            for (&start, &stride) in starts.iter().zip(&x.strides) {
                offset += isize::try_from(start).ok()? * stride;
            }
            let strides = steps
                .iter()
                .zip(&x.strides)
                .map(|(&step, &stride)| Some(isize::try_from(step).ok()? * stride));
            Some(View { offset, strides: strides.collect::<Option<_>>()?, shape, ..x.clone() })
        }
        Op::Concat { axis } => {
            let (axis, width) = (*axis as usize, args[0].width);
            let outer: usize = shape[..axis].iter().product();
            // What is merged is large, and often used part by part.
            let parts = args.iter().map(View::dense_data).collect();
            Some(View::dense(Blob::interleaved(parts, outer.max(1)), width, shape))
        }
        Op::Unary { op: UnaryOp::Neg } if elem == ScalarType::F32 => {
            Some(arithmetic(&args[0], &args[0], shape, |x, _| -x))
        }
        Op::Binary { op: BinaryOp::Mul } if elem == ScalarType::F32 => {
            Some(arithmetic(&args[0], &args[1], shape, |x, y| x * y))
        }
        Op::Binary { op: BinaryOp::Add } if elem == ScalarType::F32 => {
            Some(arithmetic(&args[0], &args[1], shape, |x, y| x + y))
        }
        Op::Binary { op: BinaryOp::Sub } if elem == ScalarType::F32 => {
            Some(arithmetic(&args[0], &args[1], shape, |x, y| x - y))
        }
        // Types of 8 bits may saturate otherwise than their encoder does.
        Op::Cast { to: to @ (ScalarType::F32 | ScalarType::F16 | ScalarType::Bf16), .. } => {
            let from = from.filter(|f| matches!(f, ScalarType::F32 | ScalarType::F16 | ScalarType::Bf16))?;
            Some(cast(&args[0], from, *to, shape))
        }
        // The evaluator knows the rest.
        _ => None,
    }
}

fn sizes(shape: &Shape) -> Option<Vec<usize>> {
    shape.iter().map(|&n| usize::try_from(n).ok()).collect()
}

/// Elements that are converted at once.
const RUN: usize = 1024;

/// Reads elements as f32, and computes those that nobody computed before.
fn reader(elem: ScalarType, elements: &Blob) -> impl FnMut(usize, &mut [f32]) {
    let width = (elem.bits() / 8) as usize;
    let mut scratch = Vec::new();
    move |at, out| {
        let bytes = elements.read(at * width, out.len() * width, &mut scratch);
        pack::decode_slice(elem, bytes, 0, out);
    }
}

fn cast(x: &View, from: ScalarType, to: ScalarType, shape: Vec<usize>) -> View {
    let n: usize = shape.iter().product();
    // What repeats is converted once, and what is permuted stays so.
    let stays = x.data.len() <= n * x.width;
    let elements = if stays { x.data.clone() } else { x.dense_data() };
    let width = (to.bits() / 8) as usize;
    let mut out = vec![0; elements.len() / x.width * width];
    let mut wide = [0.0; RUN];
    // Merged weights are converted from where they were.
    let (parts, n_rounds) = elements.parts();
    let mut at = 0;
    for (part, round) in (0..n_rounds).flat_map(|r| parts.iter().map(move |p| (p, r))) {
        let n_elements = part.len() / n_rounds / x.width;
        let mut read = reader(from, part);
        for first in (0..n_elements).step_by(RUN) {
            let wide = &mut wide[..RUN.min(n_elements - first)];
            read(round * n_elements + first, wide);
            pack::encode_slice(to, wide, &mut out, at);
            at += wide.len();
        }
    }
    let data = Blob::new(out);
    if stays { View { data, width, shape, ..x.clone() } } else { View::dense(data, width, shape) }
}

/// One operation on two views of one shape. Computed where it is read: what quantises scaled weights needs them once.
fn arithmetic(
    x: &View,
    y: &View,
    shape: Vec<usize>,
    f: impl Fn(f32, f32) -> f32 + Send + Sync + 'static,
) -> View {
    let settled = |view: &View| View { data: view.data.clone().settled(), ..view.clone() };
    let (views, dims) = ([settled(x), settled(y)], shape.clone());
    let fill = move |offset: usize, out: &mut [u8]| {
        let (mut rest, _) = out.as_chunks_mut::<4>();
        let [(a, _), (b, _)] = views.each_ref().map(|v| v.data.bytes().as_chunks::<4>());
        let number = |words: &[[u8; 4]], at: isize| f32::from_le_bytes(words[at as usize]);
        rows(&dims, views.each_ref(), offset / 4, rest.len(), |n, [i, j], [s, t]| {
            let (row, behind) = std::mem::take(&mut rest).split_at_mut(n);
            rest = behind;
            if let (1, 0) = (s, t) {
                // A scale of channels: most of what folding does.
                let scale = number(b, j);
                for (out, &word) in row.iter_mut().zip(&a[i as usize..i as usize + n]) {
                    *out = f(f32::from_le_bytes(word), scale).to_le_bytes();
                }
            } else {
                for (k, out) in row.iter_mut().enumerate() {
                    let k = k as isize;
                    *out = f(number(a, i + k * s), number(b, j + k * t)).to_le_bytes();
                }
            }
        });
    };
    View::dense(Blob::computed(shape.iter().product::<usize>() * 4, 4, fill), 4, shape)
}

/// Calls `each` for every row of two views of one shape, or what of it lies within `count` elements from `first` on: its length,
/// where it begins in both, and the steps.
fn rows(
    shape: &[usize],
    views: [&View; 2],
    first: usize,
    count: usize,
    mut each: impl FnMut(usize, [isize; 2], [isize; 2]),
) {
    if count == 0 {
        return;
    }
    let Some((&n, outer)) = shape.split_last() else {
        return each(1, views.map(|v| v.offset), [0, 0]);
    };
    let steps = views.map(|v| v.strides[outer.len()]);
    let mut index = vec![0; outer.len()];
    let mut at = views.map(|v| v.offset);
    let mut row = first / n;
    for d in (0..outer.len()).rev() {
        index[d] = row % outer[d];
        row /= outer[d];
        for (at, v) in at.iter_mut().zip(views) {
            *at += v.strides[d] * index[d] as isize;
        }
    }
    let (mut skipped, mut left) = (first % n, count);
    loop {
        let length = left.min(n - skipped);
        let start = [0, 1].map(|i| at[i] + steps[i] * skipped as isize);
        each(length, start, steps);
        (skipped, left) = (0, left - length);
        let mut d = outer.len();
        loop {
            if d == 0 || left == 0 {
                return;
            }
            d -= 1;
            index[d] += 1;
            for (at, v) in at.iter_mut().zip(views) {
                *at += v.strides[d];
            }
            if index[d] < outer[d] {
                break;
            }
            for (at, v) in at.iter_mut().zip(views) {
                *at -= v.strides[d] * outer[d] as isize;
            }
            index[d] = 0;
        }
    }
}

impl View {
    fn dense(data: Blob, width: usize, shape: Vec<usize>) -> View {
        let strides = row_major(&shape);
        View { data, width, shape, strides, offset: 0 }
    }

    fn is_dense(&self) -> bool {
        let n: usize = self.shape.iter().product();
        let aligned = self.shape.iter().zip(&self.strides).zip(row_major(&self.shape));
        self.offset == 0
            && self.data.len() == n * self.width
            && aligned.into_iter().all(|((&n, &stride), expect)| n <= 1 || stride == expect)
    }

    fn dense_data(&self) -> Blob {
        if self.is_dense() { self.data.clone() } else { Blob::new(self.to_bytes()) }
    }

    fn to_bytes(&self) -> Vec<u8> {
        let n_elements = self.shape.iter().product();
        let mut out = Vec::with_capacity(n_elements * self.width);
        let (data, width) = (self.data.bytes(), self.width);
        rows(&self.shape, [self, self], 0, n_elements, |n, [at, _], [step, _]| {
            if step == 1 {
                out.extend_from_slice(&data[at as usize * width..(at as usize + n) * width]);
            } else {
                for k in 0..n as isize {
                    let at = (at + k * step) as usize * width;
                    out.extend_from_slice(&data[at..at + width]);
                }
            }
        });
        out
    }
}

fn row_major(shape: &[usize]) -> Vec<isize> {
    let mut strides = vec![1; shape.len()];
    for d in (0..shape.len().saturating_sub(1)).rev() {
        strides[d] = strides[d + 1] * shape[d + 1].max(1) as isize;
    }
    strides
}

#[cfg(test)]
mod tests {
    use lacuna_ir::eval::{Mode, eval};
    use lacuna_isa::format::GroupFormat;
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{Lab, module};

    /// A recipe of random operators.
    fn recipe(l: &mut Lab) -> Value {
        let dims = [1 + l.random(3), 1 + l.random(3), 1 + l.random(4)];
        let mut x = l.konst(&dims);
        for _ in 0..1 + l.random(5) {
            let shape = l.shape(x);
            x = match l.random(10) {
                0 => {
                    let perm = l.perm(shape.len());
                    l.permute(x, &perm)
                }
                1 => {
                    let n = shape.iter().product();
                    l.reshape(x, &[n, 1, 1])
                }
                2 => {
                    let y = l.konst(&shape);
                    l.bin(BinaryOp::Mul, x, y)
                }
                3 => {
                    let y = l.channel(&shape, shape.len() - 1);
                    l.bin(BinaryOp::Add, x, y)
                }
                4 => {
                    let y = l.splat(&shape, 0.1);
                    l.bin(BinaryOp::Sub, y, x)
                }
                5 => {
                    let y = l.konst(&shape);
                    l.emit(Op::Concat { axis: l.b.ty(x).shape.rank() as u8 - 1 }, &[x, y, x])
                }
                6 => {
                    let starts = shape.iter().map(|&n| n as i64 - 1).collect();
                    let steps = vec![-1; shape.len()];
                    l.emit(Op::Slice { starts, shape: shape.into(), steps }, &[x])
                }
                7 if shape.len() < 5 => {
                    let dims: Vec<u8> = (1..=shape.len() as u8).collect();
                    let wide = [&[2], &shape[..]].concat();
                    l.broadcast(x, &dims, &wide)
                }
                8 => {
                    let to = [ScalarType::Bf16, ScalarType::F16][l.random(2) as usize];
                    let starts = vec![0; shape.len()];
                    let narrow = l.emit(Op::Cast { to, saturate: true }, &[x]);
                    // Movement of narrow elements, and a part of what was converted.
                    let kept: Vec<u64> = shape.iter().map(|n| n.div_ceil(2)).collect();
                    let slice = Op::Slice { starts, shape: kept.into(), steps: vec![1; shape.len()] };
                    let part = l.emit(slice, &[narrow]);
                    l.emit(Op::Cast { to: ScalarType::F32, saturate: false }, &[part])
                }
                _ => l.un(UnaryOp::Neg, x),
            };
            let n: u64 = l.shape(x).iter().product();
            if l.shape(x).len() != 3 {
                x = l.reshape(x, &[1, n, 1]);
            }
        }
        x
    }

    /// A recipe whose result is to be bf16, or grouped along one of its axes.
    fn converted(l: &mut Lab) -> Value {
        let mut x = recipe(l);
        if l.random(2) == 0 {
            // Merged weights, side by side or one after the other.
            let shape = l.shape(x);
            let axis = l.random(3) as u8;
            let other = l.konst(&shape);
            x = l.emit(Op::Concat { axis }, &[x, other, x]);
        }
        match l.random(3) {
            0 => x,
            1 => l.emit(Op::Cast { to: ScalarType::Bf16, saturate: true }, &[x]),
            _ => {
                let axis = l.random(3) as u8;
                let format = GroupFormat::ALL[l.random(GroupFormat::ALL.len() as u64) as usize];
                l.emit(Op::MxQuantize { format, axis, mode: ScaleMode::Even }, &[x])
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1024, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn recipes_have_the_bits_of_the_evaluator(seed: u64) {
            let (m, _) = module(seed, false, |l| vec![converted(l)]);
            let func = &m.functions[m.entries[0].func];
            let found = bytes(&m, func, func.results[0]).expect("only known operators");
            let expect = eval(&m, m.entries[0].func, &[], Mode::Typed).unwrap();
            prop_assert_eq!(found.bytes(), &expect[0].to_bytes()[..]);
        }
    }
}

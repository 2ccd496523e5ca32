//! Constants whose elements depend on their position along one line alone: masks of attention by the distance of a key
//! from its query. They are computed on the line, whose length is the sum of the extents, not their product.

use egg::Id;
use indexmap::IndexMap;
use lacuna_ir::Op;
use lacuna_ir::eval::{Mode, Tensor, eval_op};
use lacuna_ir::op::{BinaryOp, CompareOp};
use lacuna_ir::types::Shape;
use lacuna_isa::format::ScalarType;

use crate::graph::Graph;

/// Lines of more positions are not computed.
const MAX_POSITIONS: i64 = 1 << 22;

/// An integer that each position of a tensor has: the sum of its coordinates times `factors`, and an offset.
#[derive(Clone, PartialEq, Debug)]
struct Affine {
    factors: Vec<i64>,
    offset: i64,
}

/// A constant by its positions.
#[derive(Clone, Debug)]
enum Form {
    /// The integers that an affine function has, in a type that holds them.
    Affine(Affine, ScalarType),
    /// The elements along a line: at each position, the one that the affine function counts.
    Line(Affine, Tensor),
}

/// The elements of a matrix by the distance of a row from a column.
pub(crate) struct Diagonal {
    /// Elements at distances from `-(columns - 1)` to `rows - 1`; all are equal where there is one.
    pub elements: Vec<f64>,
    /// Whether they are `bool`.
    pub is_bool: bool,
}

/// The diagonals that a constant `[.., rows, columns]` consists of, if its matrices are equal and it is such a constant.
pub(crate) fn diagonal(g: &Graph, id: Id) -> Option<Diagonal> {
    let &[.., rows, columns] = &g.shape(id)[..] else { return None };
    let (line, elements) = match form(g, id, &mut IndexMap::new())? {
        Form::Line(line, elements) => (line, elements),
        Form::Affine(..) => return None,
    };
    let is_bool = g.elem(id) == Some(ScalarType::Bool);
    let values = elements.to_f64().to_vec();
    if line.factors.iter().all(|&f| f == 0) {
        let at = usize::try_from(line.offset).ok()?;
        return Some(Diagonal { elements: vec![*values.get(at)?], is_bool });
    }
    let (outer, &[row, column]) = line.factors.split_last_chunk()?;
    // Along an axis of one element nothing changes.
    let step = if rows > 1 { row } else { -column };
    let fits = step.abs() == 1 && (rows == 1 || row == step) && (columns == 1 || column == -step);
    if !fits || outer.iter().any(|&f| f != 0) {
        return None;
    }
    let distances = 1 - columns as i64..rows as i64;
    let element =
        |d: i64| usize::try_from(line.offset + step * d).ok().and_then(|at| values.get(at).copied());
    Some(Diagonal { elements: distances.map(element).collect::<Option<_>>()?, is_bool })
}

/// The form of a class that depends on no parameter.
fn form(g: &Graph, id: Id, known: &mut IndexMap<Id, Option<Form>>) -> Option<Form> {
    let id = g.eg.find(id);
    if let Some(form) = known.get(&id) {
        return form.clone();
    }
    // A class that needs itself has another term that does not.
    known.insert(id, None);
    if !g.is_const(id) {
        return None;
    }
    let found = g.terms(id).find_map(|(op, args)| of_term(g, id, op, args, known));
    known.insert(id, found.clone());
    found
}

fn of_term(g: &Graph, id: Id, op: &Op, args: &[Id], known: &mut IndexMap<Id, Option<Form>>) -> Option<Form> {
    let (elem, shape) = (g.elem(id)?, g.shape(id));
    match op {
        Op::Const { .. } => {
            let value = g.splat(id)?;
            let one = Tensor::from_f64(elem, [1].as_slice(), &[value]).ok()?;
            Some(Form::Line(Affine { factors: vec![0; shape.rank()], offset: 0 }, one))
        }
        Op::Iota { axis, .. } => {
            let mut factors = vec![0; shape.rank()];
            factors[usize::from(*axis)] = 1;
            counted(Affine { factors, offset: 0 }, elem, shape)
        }
        Op::Broadcast { .. } | Op::Permute { .. } | Op::Reshape { .. } | Op::Slice { .. } => {
            let moved = |affine: Affine| moved(op, &affine, g.shape(args[0]), shape);
            match form(g, args[0], known)? {
                Form::Affine(affine, elem) => Some(Form::Affine(moved(affine)?, elem)),
                Form::Line(line, elements) => settled(moved(line)?, &elements, shape),
            }
        }
        op if op.is_elementwise() => {
            let operands: Vec<Form> = args.iter().map(|&a| form(g, a, known)).collect::<Option<_>>()?;
            elementwise(g, op, elem, &operands, shape)
        }
        _ => None,
    }
}

/// An affine function as a form, if `elem` holds all of its values.
fn counted(affine: Affine, elem: ScalarType, shape: &Shape) -> Option<Form> {
    let exact = match elem {
        ScalarType::I64 => 1 << 53,
        ScalarType::I32 => i64::from(i32::MAX),
        ScalarType::F64 => 1 << 53,
        ScalarType::F32 => 1 << 24,
        _ => return None,
    };
    let (least, greatest) = affine.range(shape)?;
    (-exact <= least && greatest <= exact).then_some(Form::Affine(affine, elem))
}

/// The function of a moved tensor's coordinates.
fn moved(op: &Op, affine: &Affine, from: &Shape, to: &Shape) -> Option<Affine> {
    let mut factors = vec![0i64; to.rank()];
    let mut offset = affine.offset;
    match op {
        Op::Broadcast { dims, .. } => {
            for (i, &d) in dims.iter().enumerate().filter(|(i, _)| from[*i] != 1) {
                factors[usize::from(d)] = affine.factors[i];
            }
        }
        Op::Permute { perm } => {
            for (factor, &p) in factors.iter_mut().zip(perm) {
                *factor = affine.factors[usize::from(p)];
            }
        }
        Op::Reshape { .. } => {
            let wide =
                |shape: &Shape| -> Vec<usize> { (0..shape.rank()).filter(|&d| shape[d] != 1).collect() };
            let (old, new) = (wide(from), wide(to));
            let same = old.len() == new.len() && old.iter().zip(&new).all(|(&a, &b)| from[a] == to[b]);
            if !same {
                return None;
            }
            for (&a, &b) in old.iter().zip(&new) {
                factors[b] = affine.factors[a];
            }
        }
        Op::Slice { starts, steps, .. } => {
            for (d, factor) in factors.iter_mut().enumerate() {
                offset = offset.checked_add(starts[d].checked_mul(affine.factors[d])?)?;
                *factor = steps[d].checked_mul(affine.factors[d])?;
            }
        }
        _ => return None,
    }
    Some(Affine { factors, offset })
}

/// The form of a line with only the elements that a shape reaches, in the order of [`Affine::line`].
fn settled(line: Affine, elements: &Tensor, shape: &Shape) -> Option<Form> {
    let values = elements.to_f64();
    let (line, positions) = line.line(shape)?;
    let at = |&position: &i64| usize::try_from(position).ok().and_then(|at| values.get(at).copied());
    let values: Vec<f64> = positions.iter().map(at).collect::<Option<_>>()?;
    // Integers beyond are not what their numbers say.
    let exact = !elements.ty.elem.scalar()?.is_int() || values.iter().all(|v| v.abs() <= (1i64 << 53) as f64);
    let count = [values.len() as u64];
    let elements = Tensor::from_f64(elements.ty.elem.scalar()?, count.as_slice(), &values).ok()?;
    exact.then_some(Form::Line(line, elements))
}

/// One operator on forms of one shape.
fn elementwise(g: &Graph, op: &Op, elem: ScalarType, operands: &[Form], shape: &Shape) -> Option<Form> {
    let integers: Option<Vec<Affine>> = operands.iter().map(Form::integer).collect();
    match (op, integers.as_deref()) {
        (Op::Binary { op: op @ (BinaryOp::Add | BinaryOp::Sub) }, Some([a, b])) => {
            let sum = a.plus(b, if *op == BinaryOp::Add { 1 } else { -1 });
            if let Some(form) = sum.and_then(|sum| counted(sum, elem, shape)) {
                return Some(form);
            }
        }
        (Op::Cast { to, .. }, Some([x])) if matches!(operands[0], Form::Affine(..)) => {
            if let Some(form) = counted(x.clone(), *to, shape) {
                return Some(form);
            }
        }
        // What is compared is a distance, whatever each of both counts.
        (Op::Compare { op }, Some([a, b])) => {
            if let Some((line, positions)) = a.plus(b, -1).and_then(|difference| difference.line(shape)) {
                let holds = |v: &i64| match op {
                    CompareOp::Eq => *v == 0,
                    CompareOp::Lt => *v < 0,
                    CompareOp::Le => *v <= 0,
                };
                let holds: Vec<f64> = positions.iter().map(|v| f64::from(u8::from(holds(v)))).collect();
                let count = [holds.len() as u64];
                return Some(Form::Line(line, Tensor::from_f64(elem, count.as_slice(), &holds).ok()?));
            }
        }
        _ => {}
    }
    // All operands that differ from place to place do so along one line.
    let lines: Vec<(Affine, Tensor)> = operands.iter().map(|o| o.line(shape)).collect::<Option<_>>()?;
    let varying = lines.iter().find(|(line, _)| line.factors.iter().any(|&f| f != 0));
    let (line, count) = match varying {
        Some((line, elements)) => (line.clone(), elements.ty.shape.elements()),
        None => (lines.first()?.0.clone(), 1),
    };
    let spread = |(own, elements): &(Affine, Tensor)| -> Option<Tensor> {
        if *own == line && elements.ty.shape.elements() == count {
            return Some(elements.clone());
        }
        let same = own.factors.iter().all(|&f| f == 0) && elements.ty.shape.elements() == 1;
        let spread = Op::Broadcast { dims: vec![0], shape: vec![count].into() };
        let op = same.then_some(spread)?;
        eval_op(&g.eg.analysis.module, &op, &[elements], Mode::Typed).ok()?.pop()
    };
    let operands: Vec<Tensor> = lines.iter().map(spread).collect::<Option<_>>()?;
    let operands: Vec<&Tensor> = operands.iter().collect();
    let found = eval_op(&g.eg.analysis.module, op, &operands, Mode::Typed).ok()?.pop()?;
    Some(Form::Line(line, found))
}

impl Form {
    /// The affine function that integers are.
    fn integer(&self) -> Option<Affine> {
        match self {
            Form::Affine(affine, _) => Some(affine.clone()),
            Form::Line(line, elements) if elements.ty.shape.elements() == 1 => {
                let value = *elements.to_f64().first()?;
                let whole = value.fract() == 0.0 && value.abs() <= (1i64 << 53) as f64;
                whole.then(|| Affine { factors: vec![0; line.factors.len()], offset: value as i64 })
            }
            Form::Line(..) => None,
        }
    }

    /// The elements along a line, which is counted from its first position in the shape.
    fn line(&self, shape: &Shape) -> Option<(Affine, Tensor)> {
        match self {
            Form::Line(line, elements) => Some((line.clone(), elements.clone())),
            Form::Affine(affine, elem) => {
                let (line, values) = affine.line(shape)?;
                let values: Vec<f64> = values.into_iter().map(|v| v as f64).collect();
                let count = [values.len() as u64];
                Some((line, Tensor::from_f64(*elem, count.as_slice(), &values).ok()?))
            }
        }
    }
}

impl Affine {
    /// `self + sign * other`.
    fn plus(&self, other: &Affine, sign: i64) -> Option<Affine> {
        let add = |(&a, &b): (&i64, &i64)| a.checked_add(b.checked_mul(sign)?);
        let factors = self.factors.iter().zip(&other.factors).map(add).collect::<Option<_>>()?;
        Some(Affine { factors, offset: add((&self.offset, &other.offset))? })
    }

    /// The least and the greatest value in a shape that has elements.
    fn range(&self, shape: &Shape) -> Option<(i64, i64)> {
        let (mut least, mut greatest) = (self.offset, self.offset);
        for (&factor, &extent) in self.factors.iter().zip(shape.iter()) {
            let reach = factor.checked_mul(i64::try_from(extent).ok()?.checked_sub(1)?)?;
            least = least.checked_add(reach.min(0))?;
            greatest = greatest.checked_add(reach.max(0))?;
        }
        (!shape.contains(&0)).then_some((least, greatest))
    }

    /// The line of all functions whose factors are a multiple of these, counted from 0, with the values that this one has on it.
    fn line(&self, shape: &Shape) -> Option<(Affine, Vec<i64>)> {
        // Along an axis of one element nothing is counted.
        let factors = || self.factors.iter().zip(shape.iter()).map(|(&f, &n)| if n > 1 { f } else { 0 });
        let step = factors().fold(0, gcd);
        let sign = factors().find(|&f| f != 0).map_or(1, i64::signum);
        let unit = step.max(1) * sign;
        let factors: Vec<i64> = factors().map(|f| f / unit).collect();
        let (least, greatest) = Affine { factors: factors.clone(), offset: 0 }.range(shape)?;
        if greatest - least >= MAX_POSITIONS {
            return None;
        }
        let values = (least..=greatest).map(|at| self.offset + unit * at).collect();
        Some((Affine { factors, offset: -least }, values))
    }
}

/// The greatest common divisor, not negative.
fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a.abs() } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use lacuna_ir::Value;
    use lacuna_ir::op::BinaryOp::{Add, And, Mul, Or, Sub};

    use super::*;
    use crate::exact::Input;
    use crate::extent::value;
    use crate::masks::{band, band_of_rows};
    use crate::testing::{Lab, module};

    /// The elements of the result that `build` makes, by the line that they lie on and one by one.
    fn both(seed: u64, build: impl FnOnce(&mut Lab) -> Value) -> (Graph, Id, Option<Vec<f64>>, Vec<f64>) {
        let (module, _) = module(seed, false, |l| vec![build(l)]);
        let func = module.functions[module.entries[0].func].clone();
        let Input { graph, roots, .. } = Input::read(module, &func, Vec::new()).unwrap();
        let shape = graph.shape(roots[0]).clone();
        let &[.., rows, columns] = &shape[..] else { panic!("no matrix") };
        let line = diagonal(&graph, roots[0]).map(|found| {
            let n_matrices = (shape.elements() / (rows * columns)) as usize;
            let at = |r: u64, c: u64| found.elements[(r + columns - 1 - c) as usize % found.elements.len()];
            let one: Vec<f64> = (0..rows).flat_map(|r| (0..columns).map(move |c| at(r, c))).collect();
            one.repeat(n_matrices)
        });
        let dense = value(&graph.eg, roots[0], 1 << 20, &mut IndexMap::new()).unwrap().to_f64().to_vec();
        (graph, roots[0], line, dense)
    }

    /// Numbers of queries and of keys along their axes, as exporters count them.
    fn positions(l: &mut Lab, [rows, columns]: [u64; 2], elem: ScalarType) -> [Value; 2] {
        let shape = Shape(vec![1, 1, rows, columns]);
        let spelled = l.random(3);
        [(2u8, rows), (3, columns)].map(|(axis, n)| match spelled {
            0 => l.emit(Op::Iota { elem, shape: shape.clone(), axis }, &[]),
            1 => {
                let line = l.emit(Op::Iota { elem, shape: vec![n].into(), axis: 0 }, &[]);
                l.broadcast(line, &[axis], &shape)
            }
            _ => {
                let line = l.emit(Op::Iota { elem, shape: vec![1, n].into(), axis: 1 }, &[]);
                let sides = if axis == 2 { [1, n, 1] } else { [1, 1, n] };
                let side = l.reshape(line, &sides);
                l.broadcast(side, &[1, 2, 3], &shape)
            }
        })
    }

    /// `bool`, from comparisons of positions with shifts; one that is turned is spelled with its axes exchanged.
    fn flags(l: &mut Lab, extents: [u64; 2], turned: bool) -> Value {
        let elem = [ScalarType::I64, ScalarType::I32, ScalarType::F32][l.random(3) as usize];
        let [mut row, mut column] =
            positions(l, if turned { [extents[1], extents[0]] } else { extents }, elem);
        if turned {
            (row, column) = (column, row);
        }
        let shape = l.shape(row);
        let shift = l.random(7) as f64 - 3.0;
        let shift = l.splat_of(elem, &shape, shift);
        let (a, b) = match l.random(4) {
            0 => (column, l.bin(Add, row, shift)),
            1 => (l.bin(Sub, row, shift), column),
            2 => (l.bin(Sub, column, row), shift),
            _ => (shift, l.bin(Sub, column, row)),
        };
        let op = [CompareOp::Lt, CompareOp::Le][l.random(2) as usize];
        let flags = l.emit(Op::Compare { op }, &[a, b]);
        if turned { l.permute(flags, &[0, 1, 3, 2]) } else { flags }
    }

    #[test]
    fn masks_by_distance_are_what_their_elements_are() {
        let mut n_bands = 0;
        for seed in 0..600 {
            let extents = [seed % 5 + 1, seed / 5 % 7 + 1];
            let (graph, id, line, dense) = both(seed, |l| {
                let mut mask = flags(l, extents, seed % 3 == 0);
                if seed % 2 == 0 {
                    let other = flags(l, extents, seed % 7 == 0);
                    mask = l.bin(if seed % 4 == 0 { And } else { Or }, mask, other);
                }
                if seed % 5 > 1 {
                    let shape = l.shape(mask);
                    let low = [f32::NEG_INFINITY, -1e9, -1e4][l.random(3) as usize];
                    let (zero, low) = (l.splat(&shape, 0.0), l.splat(&shape, low));
                    mask = l.emit(Op::Select {}, &[mask, zero, low]);
                }
                mask
            });
            assert_eq!(line.as_ref(), Some(&dense), "seed {seed}");
            let is_bool = graph.elem(id) == Some(ScalarType::Bool);
            let (found, by_rows) = (band(&graph, id), band_of_rows(&graph, id));
            assert!(found.is_some() || by_rows.is_none(), "seed {seed}: {by_rows:?}");
            let Some(found) = found else { continue };
            n_bands += 1;
            for (i, &v) in dense.iter().enumerate() {
                let (row, column) = (i as i64 / extents[1] as i64, i as i64 % extents[1] as i64);
                let ends = found.causal.is_none_or(|shift| {
                    let at = row + shift;
                    column <= at && (found.window == 0 || column > at - found.window as i64)
                });
                assert_eq!(ends, if is_bool { v != 0.0 } else { v == 0.0 }, "seed {seed}: {found:?} at {i}");
            }
        }
        assert!(n_bands > 300, "{n_bands}");
    }

    /// Slices, steps, and numbers of a distance.
    #[test]
    fn other_constants_by_distance() {
        for seed in 0..100 {
            let (_, _, line, dense) = both(seed, |l| {
                let [row, column] = positions(l, [9, 11], ScalarType::I32);
                let distance = l.bin(Sub, row, column);
                let numbers = l.emit(Op::Cast { to: ScalarType::F32, saturate: true }, &[distance]);
                let slopes = l.splat(&[1, 1, 9, 11], -0.3);
                let bias = l.bin(Mul, numbers, slopes);
                let step = 1 + l.random(2) as i64;
                let (starts, steps) = (vec![0, 0, l.random(2) as i64, 1], vec![1, 1, step, step]);
                l.emit(Op::Slice { starts, shape: vec![1, 1, 4, 5].into(), steps }, &[bias])
            });
            assert_eq!(line, Some(dense), "seed {seed}");
        }
    }

    #[test]
    fn what_depends_on_more_than_a_distance_is_none() {
        let (_, _, line, _) = both(1, |l| positions(l, [3, 4], ScalarType::F32)[1]);
        assert_eq!(line, None);
        let (_, _, line, _) = both(1, |l| {
            let [row, column] = positions(l, [3, 4], ScalarType::I32);
            let sum = l.bin(Add, row, column);
            let three = l.splat_of(ScalarType::I32, &[1, 1, 3, 4], 3.0);
            l.emit(Op::Compare { op: CompareOp::Le }, &[sum, three])
        });
        assert_eq!(line, None);
    }
}

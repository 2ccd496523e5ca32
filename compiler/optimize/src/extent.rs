//! Magnitudes of constants, read when a rule asks: whether a scale is finite, and whether weights stay normal numbers with it.

use egg::{EGraph, Id, Language};
use indexmap::IndexMap;
use lacuna_ir::eval::{Mode, Tensor, eval_op};
use lacuna_ir::op::{BinaryOp, UnaryOp};
use lacuna_ir::{Constant, ConstantData, Op};
use lacuna_isa::format::{ScalarType, pack};

pub use crate::bounds::{Extent, normal};
use crate::facts::Tables;
use crate::lang::Term;

/// Recipes with more elements are not evaluated; what their operands allow to say holds.
const EVALUATED: u64 = 1 << 16;

/// The magnitudes of a class that depends on no parameter; `None` where they are not known.
pub fn extent(eg: &EGraph<Term, Tables>, id: Id) -> Option<Extent> {
    let id = eg.find(id);
    if !eg[id].data.constant {
        return None;
    }
    if let Some(&known) = eg.analysis.extents.borrow().get(&id) {
        return known;
    }
    // A class that needs itself has another term that does not.
    eg.analysis.extents.borrow_mut().insert(id, None);
    let found =
        eg[id].nodes.iter().find_map(|term| of_term(eg, term)).or_else(|| {
            elements(eg, id).map(|values| values.iter().fold(Extent::EMPTY, |all, &v| all.with(v)))
        });
    eg.analysis.extents.borrow_mut().insert(id, found);
    found
}

fn of_term(eg: &EGraph<Term, Tables>, term: &Term) -> Option<Extent> {
    let op = &eg.analysis.ops[term.op()?];
    let args = term.children();
    let elem = |id: Id| eg[id].data.types.first()?.elem.scalar();
    match op {
        Op::Const { value } => {
            if let Some(&known) = eg.analysis.scans.borrow().get(value) {
                return known;
            }
            let found = scan(&eg.analysis.module.constants[*value]);
            eg.analysis.scans.borrow_mut().insert(*value, found);
            found
        }
        Op::Concat { .. } => args.iter().try_fold(Extent::EMPTY, |all, &a| Some(all.join(&extent(eg, a)?))),
        Op::Gather { .. } => extent(eg, args[0]),
        Op::Unary { op: UnaryOp::Neg | UnaryOp::Abs } => extent(eg, args[0]),
        // Bounds of products are wider than the products: small ones are evaluated.
        Op::Binary { op: BinaryOp::Mul } if eg[args[0]].data.types.first()?.shape.elements() > EVALUATED => {
            let product = extent(eg, args[0])?.times(&extent(eg, args[1])?);
            product.within(elem(args[0])?).then_some(product)
        }
        Op::Cast { to, .. } => {
            let from = elem(args[0])?;
            let exact = match to {
                ScalarType::F64 => from.bits() <= 32 && from.is_float() || from.is_int() && from.bits() < 64,
                ScalarType::F32 => from.bits() <= 16 || from.is_int() && from.bits() < 64,
                ScalarType::Bf16 => from.is_int() && from.bits() < 64,
                _ => from == *to,
            };
            exact.then(|| extent(eg, args[0]))?
        }
        op if op.is_movement() => extent(eg, args[0]),
        _ => None,
    }
}

fn scan(constant: &Constant) -> Option<Extent> {
    let elem = constant.ty.elem.scalar()?;
    let blob = match &constant.data {
        ConstantData::Splat(code) => return Some(Extent::EMPTY.with(elem.decode(*code))),
        ConstantData::Dense(blob) => blob,
    };
    let bytes = blob.bytes();
    let all = |values: &mut dyn Iterator<Item = f64>| values.fold(Extent::EMPTY, Extent::with);
    match elem {
        ScalarType::F32 => Some(scan_f32(bytes)),
        ScalarType::F64 => Some(all(&mut bytes.as_chunks::<8>().0.iter().map(|&w| f64::from_le_bytes(w)))),
        ScalarType::Bf16 => {
            let wide = |&w: &[u8; 2]| f64::from(f32::from_bits(u32::from(u16::from_le_bytes(w)) << 16));
            Some(all(&mut bytes.as_chunks::<2>().0.iter().map(wide)))
        }
        elem if elem.bits() < 64 => {
            let n = constant.ty.shape.elements() as usize;
            Some(all(&mut (0..n).map(|i| elem.decode(pack::get(bytes, elem, i)))))
        }
        _ => None,
    }
}

/// As [`Extent::with`] for every element, on the bits: their order is that of magnitudes, and the loop has no branch.
fn scan_f32(bytes: &[u8]) -> Extent {
    let (mut least, mut greatest, mut zero) = (u32::MAX, 0u32, false);
    for &word in bytes.as_chunks::<4>().0 {
        let size = u32::from_le_bytes(word) & 0x7FFF_FFFF;
        zero |= size == 0;
        // Zero wraps round to above all others.
        least = least.min(size.wrapping_sub(1));
        greatest = greatest.max(size);
    }
    let finite = greatest < f32::INFINITY.to_bits();
    let number = |bits: u32| f64::from(f32::from_bits(bits));
    if greatest == 0 {
        return Extent { zero, ..Extent::EMPTY };
    }
    let greatest = if finite { number(greatest) } else { f64::INFINITY };
    Extent { finite, zero, least: number(least.wrapping_add(1)), greatest }
}

/// The elements that a small constant consists of, each once where it repeats a smaller one.
pub fn elements(eg: &EGraph<Term, Tables>, id: Id) -> Option<Vec<f64>> {
    let mut id = eg.find(id);
    // What is repeated has all of the elements.
    for _ in 0..8 {
        let n = |id: Id| eg[id].data.types.first().map(|ty| ty.shape.elements());
        let inner = eg[id].nodes.iter().find_map(|term| {
            let op = &eg.analysis.ops[term.op()?];
            let repeats = matches!(op, Op::Broadcast { .. });
            term.children().first().filter(|&&x| repeats && n(x) < n(id) && n(x) > Some(0)).copied()
        });
        let Some(inner) = inner else { break };
        id = eg.find(inner);
    }
    let tensor = value(eg, id, EVALUATED, &mut IndexMap::new())?;
    Some(tensor.to_f64().to_vec())
}

/// The value of a class that depends on no parameter, if no operand on the way has more than `most` elements.
pub fn value(
    eg: &EGraph<Term, Tables>,
    id: Id,
    most: u64,
    known: &mut IndexMap<Id, Option<Tensor>>,
) -> Option<Tensor> {
    let id = eg.find(id);
    if let Some(tensor) = known.get(&id) {
        return tensor.clone();
    }
    // A class that needs itself has another term that does not.
    known.insert(id, None);
    let small = |id: Id| eg[id].data.types.first().is_some_and(|ty| ty.shape.elements() <= most);
    let tensor = eg[id].nodes.iter().find_map(|term| {
        let op = Some(&eg.analysis.ops[term.op()?]).filter(|op| !matches!(op, Op::Call { .. }))?;
        let args = term.children();
        if !small(id) || !args.iter().all(|&a| small(a)) {
            return None;
        }
        let args: Vec<Tensor> = args.iter().map(|&a| value(eg, a, most, known)).collect::<Option<_>>()?;
        let args: Vec<&Tensor> = args.iter().collect();
        eval_op(&eg.analysis.module, op, &args, Mode::Typed).ok()?.pop()
    });
    known.insert(id, tensor.clone());
    tensor
}

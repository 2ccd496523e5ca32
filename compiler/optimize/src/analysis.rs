//! How facts about e-classes come about, and how they are joined when classes are.

use egg::{Analysis, DidMerge, EGraph, Id};
use lacuna_ir::infer::infer;
use lacuna_ir::op::Real;
use lacuna_ir::{Constant, ConstantData, Module, Op, STORED_TYPES, TensorType};
use lacuna_isa::format::ScalarType;

use crate::error::Broken;
use crate::extent::extent;
use crate::facts::{Facts, Kernel, Tables, joins};
use crate::lang::Term;
use crate::numbers;
use crate::structure::{self, Zeros};

impl Analysis<Term> for Tables {
    type Data = Facts;

    fn make(egraph: &mut EGraph<Term, Tables>, term: &Term, _: Id) -> Facts {
        match facts(egraph, term) {
            Ok(facts) => facts,
            Err(message) => {
                egraph.analysis.error.get_or_insert(message);
                Facts::of_types(Vec::new())
            }
        }
    }

    fn merge(&mut self, to: &mut Facts, from: Facts) -> DidMerge {
        if to.types != from.types {
            self.error.get_or_insert_with(|| {
                Broken::Union(format!("values of types {:?} and {:?} were united", to.types, from.types))
            });
        }
        let joined = to.join(&from);
        let changes = DidMerge(*to != joined, from != joined);
        *to = joined;
        changes
    }
}

fn facts(egraph: &EGraph<Term, Tables>, term: &Term) -> Result<Facts, Broken> {
    let tables = &egraph.analysis;
    let of = |id: Id| &egraph[id].data;
    match term {
        Term::Param(n) => {
            let ty = tables
                .params
                .get(*n as usize)
                .ok_or(Broken::Missing("a parameter that the function lacks".into()))?;
            let hint = tables.hints.get(*n as usize).copied().unwrap_or_default();
            let kernel = Kernel { stage: 0, open: hint.open };
            Ok(Facts { kernel, epilogue: hint.epilogue, ..Facts::of_types(vec![ty.clone()]) })
        }
        Term::Result(n, [call]) => {
            let ty = of(*call)
                .types
                .get(*n as usize)
                .ok_or(Broken::Missing("a result that the call lacks".into()))?;
            Ok(Facts { kernel: of(*call).kernel, ..Facts::of_types(vec![ty.clone()]) })
        }
        Term::Apply(_, op, ids) => {
            let op = &tables.ops[*op];
            let finite = |i: usize| extent(egraph, ids[i]).is_some_and(|e| e.finite);
            let args: Vec<&Facts> = ids.iter().map(|&a| of(a)).collect();
            let operands: Option<Vec<&TensorType>> = args.iter().map(|a| a.types.first()).collect();
            let types = infer(
                &tables.module,
                op,
                &operands.ok_or(Broken::Missing("an operand without a type".into()))?,
            )?;
            let mut facts = of_op(&tables.module, op, &args, &finite, types);
            facts.numbers = facts.numbers.join(numbers::rules::of_op(&tables.module, op, &args, ids));
            Ok(facts)
        }
    }
}

/// Facts about a result, but for its numbers. `finite` says whether a constant operand is.
fn of_op(
    module: &Module,
    op: &Op,
    args: &[&Facts],
    finite: &dyn Fn(usize) -> bool,
    types: Vec<TensorType>,
) -> Facts {
    let mut facts = Facts::of_types(types);
    facts.constant = !matches!(op, Op::Call { .. }) && args.iter().all(|a| a.constant);
    if let [ty] = &facts.types[..] {
        let finite = |i: usize| args[i].numbers.finite() || (args[i].constant && finite(i));
        facts.zeros = structure::of_op(module, op, args, &finite, &ty.shape);
    }
    facts.epilogue = op.is_product() || (op.is_elementwise() && args.iter().any(|a| a.epilogue));
    if let Op::Const { value } = op {
        facts.splat = splat_of(&module.constants[*value]);
    } else if let ([x], true) = (args, op.is_movement()) {
        facts.memory = facts.memory.min(x.memory);
        facts.splat = if matches!(op, Op::Window { .. }) { None } else { x.splat };
    }
    if let (Op::Dequantize { .. }, true) = (op, facts.constant) {
        facts.narrow = args[0].types.first().map(|ty| ty.elem.format().element().bits());
        facts.blocked = true;
    }
    if let ([x], true) = (args, facts.constant) {
        facts.blocked = x.blocked && (op.is_movement() || matches!(op, Op::Cast { .. }));
        facts.narrow = match op {
            Op::Cast { to: ScalarType::F32 | ScalarType::F16 | ScalarType::Bf16, .. }
                if x.narrow.is_some() =>
            {
                x.narrow
            }
            Op::Cast { .. } => widened_from(x, &facts),
            op if op.is_movement() => x.narrow,
            _ => None,
        };
    }
    // What the compiler computes needs no kernel.
    if !facts.constant {
        facts.kernel = kernel_of(op, args);
    }
    facts
}

/// Bits in which code generation stores the operand of a cast that keeps every value, to a floating-point type.
fn widened_from(from: &Facts, to: &Facts) -> Option<u32> {
    let ([from], [to]) = (&from.types[..], &to.types[..]) else { return None };
    let (from, to) = (from.elem.scalar()?, to.elem.scalar()?);
    let exact = match to {
        ScalarType::F32 => from.bits() <= 16,
        ScalarType::Bf16 | ScalarType::F16 => from.bits() <= 8 && from.is_int(),
        _ => false,
    };
    stored_bits(from).filter(|&bits| exact && bits < to.bits())
}

/// Bits of the narrowest type that constants are stored in which has every value of `from`, if there is one.
fn stored_bits(from: ScalarType) -> Option<u32> {
    if STORED_TYPES.contains(&from) {
        return Some(from.bits());
    }
    if from.bits() > 8 {
        return None;
    }
    let values = (0..1 << from.bits()).map(|code| from.decode(code)).filter(|x| !x.is_nan());
    let has_all = |ty: &&ScalarType| values.clone().all(|x| ty.decode(ty.encode(x)) == x);
    STORED_TYPES.iter().find(has_all).map(|ty| ty.bits())
}

fn kernel_of(op: &Op, args: &[&Facts]) -> Kernel {
    let stage = args.iter().map(|a| a.kernel.stage).max().unwrap_or(0);
    if op.is_movement() {
        Kernel { stage, open: false }
    } else if op.is_elementwise() {
        Kernel { stage: stage + u32::from(!joins(args)), open: true }
    } else {
        Kernel { stage: stage + 1, open: op.is_product() }
    }
}

/// Everything that rules know of a constant apart from its type.
pub fn of_constant(constant: &Constant) -> (Option<Real>, Zeros) {
    (splat_of(constant), structure::of_constant(constant))
}

fn splat_of(constant: &Constant) -> Option<Real> {
    let elem = constant.ty.elem.scalar()?;
    let code = match &constant.data {
        ConstantData::Splat(code) => *code,
        ConstantData::Dense(blob) => {
            let width = (elem.bits() / 8) as usize;
            if width == 0 || blob.is_empty() || blob.len() > 4096 || blob.len() % width != 0 {
                return None;
            }
            let bytes = blob.bytes();
            let (first, _) = bytes.split_at(width);
            if bytes.chunks_exact(width).any(|c| c != first) {
                return None;
            }
            let mut code = [0; 8];
            code[..width].copy_from_slice(first);
            u64::from_le_bytes(code)
        }
    };
    let value = match elem {
        ScalarType::F32 => f64::from(f32::from_bits(code as u32)),
        ScalarType::F64 => f64::from_bits(code),
        ScalarType::Bf16 => f64::from(f32::from_bits((code as u32) << 16)),
        ScalarType::I32 => f64::from(code as u32 as i32),
        ScalarType::I64 => {
            let exact = (code as i64).unsigned_abs() < 1 << 53;
            return exact.then_some(Real(code as i64 as f64));
        }
        ScalarType::F16 => elem.decode(code),
        ScalarType::Bool | ScalarType::I2 | ScalarType::I4 | ScalarType::I8 | ScalarType::I16 => return None,
        ScalarType::U2 | ScalarType::U4 | ScalarType::U8 | ScalarType::U16 => return None,
        ScalarType::U32 | ScalarType::U64 => return None,
        ScalarType::E4M3 | ScalarType::E5M2 | ScalarType::E4M3Fnuz | ScalarType::E5M2Fnuz => return None,
        ScalarType::E3M2
        | ScalarType::E2M3
        | ScalarType::E2M1
        | ScalarType::E8M0
        | ScalarType::Sm8
        | ScalarType::Sm5
        | ScalarType::Sm3 => return None,
    };
    Some(Real(value))
}

#[cfg(test)]
mod tests {
    use lacuna_ir::Value;
    use lacuna_ir::op::BinaryOp::Mul;
    use lacuna_ir::op::UnaryOp;

    use super::*;
    use crate::facts::sparse_dims;
    use crate::testing::{Lab, module, saturated};

    fn of_result(build: impl FnOnce(&mut Lab) -> Value) -> Facts {
        let (m, _) = module(1, false, |l| vec![build(l)]);
        let (g, roots, ..) = saturated(m, &[]);
        g.facts(roots[0]).clone()
    }

    type Case = (&'static str, fn(&mut Lab) -> Value, &'static [u8]);

    /// 2:4 along the first dimension only.
    fn sparse(l: &mut Lab) -> Value {
        let values: Vec<f32> =
            (0..8 * 4).map(|i| if (i / 4) % 4 < 2 { 1.0 + i as f32 } else { 0.0 }).collect();
        l.b.const_f32(vec![8, 4], &values).unwrap()
    }

    #[test]
    fn sparsity_follows_movement_and_factors() {
        let cases: [Case; 6] = [
            ("constant", sparse, &[0]),
            (
                "permute",
                |l| {
                    let x = sparse(l);
                    l.permute(x, &[1, 0])
                },
                &[1],
            ),
            (
                "mul",
                |l| {
                    let (x, c) = (sparse(l), l.konst(&[8, 4]));
                    l.bin(Mul, c, x)
                },
                &[0],
            ),
            (
                "concat of columns",
                |l| {
                    let x = sparse(l);
                    l.emit(Op::Concat { axis: 1 }, &[x, x])
                },
                &[0],
            ),
            (
                "concat of rows",
                |l| {
                    let x = sparse(l);
                    l.emit(Op::Concat { axis: 0 }, &[x, x])
                },
                &[],
            ),
            ("dense", |l| l.konst(&[8, 4]), &[]),
        ];
        for (name, build, expect) in cases {
            let zeros = of_result(build).zeros;
            assert_eq!((sparse_dims(&zeros), zeros.all), (expect.to_vec(), false), "{name}");
        }
        assert!(of_result(|l| l.splat(&[8, 4], -0.0)).zeros.all);
        // A parameter may be infinite; the logistic function of an integer is not.
        let times_zero = |int: bool| {
            of_result(|l| {
                let x = l.param_of(if int { ScalarType::I32 } else { ScalarType::F32 }, &[4]);
                let x = l.emit(Op::Cast { to: ScalarType::F32, saturate: true }, &[x]);
                let x = l.un(UnaryOp::Sigmoid, x);
                let x = if int { x } else { l.un(UnaryOp::Exp, x) };
                let z = l.splat(&[4], 0.0);
                l.bin(Mul, x, z)
            })
        };
        assert!(times_zero(true).zeros.all);
        assert!(!times_zero(false).zeros.all);
    }

    #[test]
    fn widened_constants_have_the_bits_that_they_are_stored_in() {
        let cases = [
            (ScalarType::I2, Some(4)),
            (ScalarType::U4, Some(4)),
            (ScalarType::E2M3, Some(8)),
            (ScalarType::I8, Some(8)),
            (ScalarType::E4M3Fnuz, Some(16)),
            (ScalarType::Bf16, Some(16)),
            (ScalarType::I16, None),
            (ScalarType::U16, None),
        ];
        for (from, expect) in cases {
            let found = of_result(|l| {
                let ty = TensorType::new(from, vec![16]);
                let bytes = vec![0x21; ty.bytes() as usize];
                let x = l.b.constant(Constant::dense(ty, bytes, "")).unwrap();
                l.emit(Op::Cast { to: ScalarType::F32, saturate: false }, &[x])
            });
            assert_eq!(found.narrow, expect, "{from}");
        }
    }

    #[test]
    fn stages_count_launches() {
        // A product and its epilogue are one launch; what needs a reduction of it is another.
        let facts = of_result(|l| {
            let (x, w) = (l.param(&[2, 3]), l.konst(&[3, 4]));
            let y = l.contract("ij,jk->ik", x, w);
            let y = l.un(UnaryOp::Exp, y);
            let sum = l.reduce(lacuna_ir::op::ReduceOp::Sum, &[1], y);
            let sum = l.broadcast(sum, &[0], &[2, 4]);
            l.bin(lacuna_ir::op::BinaryOp::Div, y, sum)
        });
        assert_eq!(facts.kernel, Kernel { stage: 3, open: true });
    }

    #[test]
    fn a_repeated_value_has_the_memory_of_what_it_repeats() {
        let facts = of_result(|l| {
            let x = l.param(&[4]);
            l.broadcast(x, &[1], &[100, 4])
        });
        assert_eq!(facts.memory, 16);
    }
}

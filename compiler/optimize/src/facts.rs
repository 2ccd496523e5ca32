//! Facts about e-classes, joined whenever classes are: types, constancy, zero structure, and what the cost model needs
//! to know about kernels and memory.

use std::cell::RefCell;

use egg::Id;
use indexmap::IndexMap;
use lacuna_ir::op::{Dims, Real};
use lacuna_ir::{ConstId, Module, TensorType};
use lacuna_isa::format::ScalarType;

use crate::bounds::Extent;
use crate::error::Broken;
use crate::lang::OpTable;
use crate::numbers::Numbers;
use crate::structure::Zeros;

/// Facts about an e-class.
#[derive(Clone, PartialEq, Debug)]
pub struct Facts {
    /// Types of the results: one for everything but calls.
    pub types: Vec<TensorType>,
    /// Whether the value depends on no parameter.
    pub constant: bool,
    /// The element that the whole value repeats, where it is known cheaply.
    pub splat: Option<Real>,
    /// What is known of the value's zeros.
    pub zeros: Zeros,
    /// Which numbers the value is known never to have.
    pub numbers: Numbers,
    /// Whether a contraction or element-wise work on one computes the value, so that a scale can fold into it.
    pub epilogue: bool,
    /// How the value is computed.
    pub kernel: Kernel,
    /// Least bytes of memory behind the value: what it repeats counts once.
    pub memory: u64,
    /// Bits of the narrowest scalar type from which a constant was widened, where code generation can store it so.
    pub narrow: Option<u32>,
    /// Whether it is a constant of codes with scales per block, which products read as they are stored.
    pub blocked: bool,
}

/// Where a value stands among the kernels that a function needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Kernel {
    /// Launches on the longest path to the value. Of two values of one stage, neither needs the other.
    pub stage: u32,
    /// Whether element-wise work can join the kernel that computes the value.
    pub open: bool,
}

impl Facts {
    /// Joins what is known of one value from two terms; `types` are those of `self`.
    pub fn join(&self, other: &Facts) -> Facts {
        Facts {
            types: self.types.clone(),
            constant: self.constant || other.constant,
            splat: self.splat.or(other.splat),
            zeros: self.zeros.join(&other.zeros),
            numbers: self.numbers.join(other.numbers),
            epilogue: self.epilogue || other.epilogue,
            kernel: Kernel {
                stage: self.kernel.stage.min(other.kernel.stage),
                open: self.kernel.open || other.kernel.open,
            },
            memory: self.memory.min(other.memory),
            narrow: self.narrow.into_iter().chain(other.narrow).min(),
            blocked: self.blocked || other.blocked,
        }
    }

    /// What is known of a value of these types before anything else is.
    pub fn of_types(types: Vec<TensorType>) -> Facts {
        let memory = types.iter().map(TensorType::bytes).fold(0, u64::saturating_add);
        Facts {
            numbers: Numbers::of_types(&types),
            types,
            constant: false,
            splat: None,
            zeros: Zeros::default(),
            epilogue: false,
            kernel: Kernel::default(),
            memory,
            narrow: None,
            blocked: false,
        }
    }
}

/// What is known of a parameter apart from its type: how its value is computed outside, for decisions about cost only.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Hint {
    /// As [`Kernel::open`].
    pub open: bool,
    /// As [`Facts::epilogue`].
    pub epilogue: bool,
}

/// Tables behind the terms, and what went wrong.
#[derive(Debug)]
pub struct Tables {
    /// The module: its constants and the signatures of its functions.
    pub module: Module,
    /// Operators with attributes.
    pub ops: OpTable,
    /// Types of the function's parameters.
    pub params: Vec<TensorType>,
    /// What else is known of the parameters; may be shorter than the list of their types.
    pub hints: Vec<Hint>,
    /// The first contradiction that a union or a term brought, if any.
    pub error: Option<Broken>,
    /// Constants made that repeat one element, by type and code.
    pub splats: IndexMap<(TensorType, u64), ConstId>,
    /// Other constants made, by the hash of type and elements.
    pub made: IndexMap<[u8; 32], ConstId>,
    /// Magnitudes of constants that a rule asked for, by class and by constant.
    pub extents: RefCell<IndexMap<Id, Option<Extent>>>,
    /// See `extents`.
    pub scans: RefCell<IndexMap<ConstId, Option<Extent>>>,
}

/// Whether element-wise work on these operands can be done by a kernel that computes one of them: all others must be
/// there before that kernel starts.
pub fn joins(args: &[&Facts]) -> bool {
    let stage = args.iter().map(|a| a.kernel.stage).max().unwrap_or(0);
    args.iter().any(|a| a.kernel.open && a.kernel.stage == stage)
}

/// Dimensions along which a value is known to follow a pattern that halves the work.
pub fn sparse_dims(zeros: &Zeros) -> Dims {
    (0..8).filter(|d| (zeros.halved >> d) & 1 == 1).collect()
}

/// The code of a number in a type in which it is exact, for the types that splats are made of.
pub fn code_of(elem: ScalarType, value: f64) -> Option<u64> {
    let code = match elem {
        ScalarType::F32 => u64::from((value as f32).to_bits()),
        ScalarType::F64 => value.to_bits(),
        ScalarType::Bf16 => u64::from((value as f32).to_bits() >> 16),
        ScalarType::F16 => elem.encode(value),
        ScalarType::I32 => {
            return (f64::from(value as i32) == value).then_some(u64::from(value as i32 as u32));
        }
        ScalarType::I64 => return (value as i64 as f64 == value).then_some(value as i64 as u64),
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
    Some(code)
}

//! Which numbers a value is known never to have: what decides whether an identity keeps every bit. `x * 0` is a zero where `x` is
//! neither infinite nor NaN, and `x + 0` is `x` where `x` is not -0.

pub mod rules;

use lacuna_ir::TensorType;
use lacuna_isa::format::ScalarType;

/// Numbers that no element of a value is, on any input; the default knows nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Numbers {
    /// No NaN.
    pub no_nan: bool,
    /// No infinity.
    pub no_inf: bool,
    /// No -0.
    pub no_minus_zero: bool,
    /// No negative number and no -0.
    pub no_minus: bool,
}

impl Numbers {
    /// Everything that can be known.
    const BEST: Numbers = Numbers { no_nan: true, no_inf: true, no_minus_zero: true, no_minus: true };

    /// What is known from either of two sources.
    pub fn join(self, other: Numbers) -> Numbers {
        Numbers {
            no_nan: self.no_nan || other.no_nan,
            no_inf: self.no_inf || other.no_inf,
            no_minus_zero: self.no_minus_zero || other.no_minus_zero,
            no_minus: self.no_minus || other.no_minus,
        }
    }

    /// What is known of a value whose elements are each of one of two values.
    fn either(self, other: Numbers) -> Numbers {
        Numbers {
            no_nan: self.no_nan && other.no_nan,
            no_inf: self.no_inf && other.no_inf,
            no_minus_zero: self.no_minus_zero && other.no_minus_zero,
            no_minus: self.no_minus && other.no_minus,
        }
    }

    /// Whether every element is a finite number.
    pub fn finite(self) -> bool {
        self.no_nan && self.no_inf
    }

    /// What is known of any value of these types.
    pub fn of_types(types: &[TensorType]) -> Numbers {
        match types {
            [ty] => ty.elem.scalar().map_or_else(Numbers::default, of_type),
            [] | [_, _, ..] => Numbers::default(),
        }
    }

    /// What is known of any value of either sign of a sum whose terms are these.
    fn signs(no_minus_zero: bool, no_minus: bool) -> Numbers {
        Numbers { no_minus_zero: no_minus_zero || no_minus, no_minus, ..Numbers::default() }
    }
}

fn of_type(elem: ScalarType) -> Numbers {
    let unsigned = matches!(
        elem,
        ScalarType::Bool
            | ScalarType::U2
            | ScalarType::U4
            | ScalarType::U8
            | ScalarType::U16
            | ScalarType::U32
            | ScalarType::U64
    );
    if elem.is_int() || unsigned {
        Numbers { no_minus: unsigned, ..Numbers::BEST }
    } else {
        Numbers::default()
    }
}

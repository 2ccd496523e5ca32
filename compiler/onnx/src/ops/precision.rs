//! Composites of 16-bit floats: computed in f32 and rounded once, at their end.

use lacuna_ir::Value;
use lacuna_isa::format::ScalarType;

use crate::call::Call;
use crate::context::Ctx;
use crate::diagnostic::Fail;

type Results = Result<Vec<Value>, Fail>;

/// Whether a type has fewer bits than composites are computed in.
pub(super) fn is_narrow(elem: ScalarType) -> bool {
    matches!(elem, ScalarType::F16 | ScalarType::Bf16)
}

/// The type that intermediate results of a composite on `elem` have.
pub(super) fn wide(elem: ScalarType) -> ScalarType {
    if is_narrow(elem) { ScalarType::F32 } else { elem }
}

/// The type that numbers of `elem`, integers among them, are computed in as reals.
pub(super) fn wide_type(elem: ScalarType) -> ScalarType {
    if elem == ScalarType::F64 { elem } else { ScalarType::F32 }
}

/// What `lower` makes of a node: where the first operand is a 16-bit float, on all such operands in f32, the results
/// rounded to the first operand's type.
///
/// A constant of an operator (an epsilon, a slope) may vanish or round in 16 bits, and each step would round again.
pub(super) fn in_f32(
    c: &mut Ctx<'_>,
    n: &Call<'_>,
    lower: impl FnOnce(&mut Ctx<'_>, &Call<'_>) -> Results,
) -> Results {
    let elem = n.unread_operand(0).map(|&x| c.elem(x));
    let Some(elem) = elem.filter(|&elem| is_narrow(elem)) else { return lower(c, n) };
    let mut inputs = Vec::with_capacity(n.n_operands());
    for &operand in n.operands() {
        inputs.push(match operand {
            Some(x) => {
                let to = wide(c.elem(x));
                Some(c.cast(x, to)?)
            }
            None => None,
        });
    }
    let results = lower(c, &n.with(inputs))?;
    results.into_iter().map(|y| if c.elem(y) == ScalarType::F32 { c.cast(y, elem) } else { Ok(y) }).collect()
}

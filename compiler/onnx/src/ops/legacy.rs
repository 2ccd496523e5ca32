//! What operators meant in operator sets 1 to 6, where it differs: operands that broadcast by attributes.

use lacuna_ir::{Op, Value};

use crate::call::{Call, axis};
use crate::context::{Ctx, invalid};
use crate::diagnostic::Fail;

/// The first operator set in which operands broadcast as in NumPy.
const NUMPY_BROADCAST: i64 = 7;

/// Both operands of a function of two, ready to broadcast as in NumPy.
///
/// Up to operator set 6 shapes are equal, or with `broadcast` the second operand has one element or consecutive dimensions of
/// the first, from `axis` on or the last ones.
pub(super) fn operands(c: &mut Ctx<'_>, n: &Call<'_>) -> Result<(Value, Value), Fail> {
    let (a, b) = (n.input(0)?, n.input(1)?);
    if n.opset >= NUMPY_BROADCAST {
        return Ok((a, b));
    }
    let (sa, sb) = (c.shape(a), c.shape(b));
    let start = n.has("axis").then(|| n.int("axis", 0)).transpose()?;
    if !n.flag("broadcast", false)? {
        return match sa == sb {
            true => Ok((a, b)),
            false => Err(invalid(format!("operands of shapes {sa} and {sb} without `broadcast`"))),
        };
    }
    if sb.elements() == 1 {
        return Ok((a, c.reshape(b, vec![])?));
    }
    let unfit = || invalid(format!("{sb} does not broadcast to {sa}"));
    let first = match start {
        Some(start) => axis(start, sa.rank())?,
        None => sa.rank().checked_sub(sb.rank()).ok_or_else(unfit)?,
    };
    if first + sb.rank() > sa.rank() {
        return Err(unfit());
    }
    let dims = (first..first + sb.rank()).map(|d| d as u8).collect();
    let b = c.emit(Op::Broadcast { dims, shape: sa }, &[b])?;
    Ok((a, b))
}

/// The slopes of PRelu as they broadcast to `shape`: up to operator set 6 one for each channel (dimension 1).
pub(super) fn slopes(c: &mut Ctx<'_>, n: &Call<'_>, slope: Value, x: Value) -> Result<Value, Fail> {
    let shape = c.shape(x);
    let per_channel = n.opset < NUMPY_BROADCAST && c.rank(slope) == 1 && shape.rank() > 1;
    match per_channel && c.shape(slope)[0] == shape[1] {
        true => c.broadcast_along(slope, 1, &shape),
        false => c.broadcast_to(slope, &shape),
    }
}

/// Numbers of `Cast`'s attribute `to`, which is a name up to operator set 5.
pub(super) fn data_type_code(name: &str) -> Option<i64> {
    const NAMES: &[&str] = &[
        "UNDEFINED",
        "FLOAT",
        "UINT8",
        "INT8",
        "UINT16",
        "INT16",
        "INT32",
        "INT64",
        "STRING",
        "BOOL",
        "FLOAT16",
        "DOUBLE",
        "UINT32",
        "UINT64",
        "COMPLEX64",
        "COMPLEX128",
    ];
    NAMES.iter().position(|n| n.eq_ignore_ascii_case(name)).map(|code| code as i64)
}

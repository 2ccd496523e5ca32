//! Integers whose type is not their lane's: narrower ones, and `u64` in signed lanes.
//!
//! A lane always holds the value of its element (a `u64` its bit pattern). Operations of the lane's width may leave the
//! type's range and are followed by a reduction to it; the order and the quotient of `u64` are made of signed operations.

use lacuna_ir::op::{BinaryOp, CompareOp};
use lacuna_isa::format::ScalarType;
use lacuna_isa::program::{Lane, Reg, SeBinary, SeOp, SeUnary};

use crate::code::{Code, lane};
use crate::refusal::Refusal;

/// The sign bit of an `i64` lane: exclusive or with it takes the order of `u64` to that of `i64`.
const SIGN: u64 = 1 << 63;

fn is_signed(ty: ScalarType) -> bool {
    matches!(
        ty,
        ScalarType::I2
            | ScalarType::I4
            | ScalarType::I8
            | ScalarType::I16
            | ScalarType::I32
            | ScalarType::I64
    )
}

/// Whether a lane has more bits than the integer type in it.
fn is_narrow(ty: ScalarType) -> bool {
    ty.is_int() && !matches!(ty, ScalarType::I32 | ScalarType::I64 | ScalarType::U64)
}

/// The bits that stand for `value` in an integer lane.
fn bits_of(lane: Lane, value: i64) -> u64 {
    if lane == Lane::I32 { value as u64 & 0xFFFF_FFFF } else { value as u64 }
}

/// `a = f(a, constant)` in place.
fn update(code: &mut Code, f: SeBinary, lane: Lane, a: Reg, bits: u64) -> Result<(), Refusal> {
    let b = code.constant(lane, bits)?;
    code.ops.push(SeOp::Binary { f, lane, dst: a, a, b });
    code.release(b);
    Ok(())
}

/// Reduces a register to the type's width, two's complement, in place.
///
/// # Errors
/// When registers run out.
pub fn wrap(code: &mut Code, ty: ScalarType, a: Reg) -> Result<(), Refusal> {
    if !is_narrow(ty) {
        return Ok(());
    }
    let lane = lane(ty);
    update(code, SeBinary::And, lane, a, (1 << ty.bits()) - 1)?;
    if is_signed(ty) {
        let sign = 1 << (ty.bits() - 1);
        update(code, SeBinary::Xor, lane, a, sign)?;
        update(code, SeBinary::Sub, lane, a, sign)?;
    }
    Ok(())
}

/// Exchanges the order of `u64` and that of the lane, in place; other types stay.
///
/// # Errors
/// When registers run out.
pub fn flip_order(code: &mut Code, ty: ScalarType, a: Reg) -> Result<(), Refusal> {
    if ty == ScalarType::U64 { update(code, SeBinary::Xor, Lane::I64, a, SIGN) } else { Ok(()) }
}

/// A relation of two integers.
///
/// # Errors
/// When registers run out.
pub fn compare(code: &mut Code, op: CompareOp, ty: ScalarType, a: Reg, b: Reg) -> Result<Reg, Refusal> {
    let f = match op {
        CompareOp::Eq => SeBinary::Eq,
        CompareOp::Lt => SeBinary::Lt,
        CompareOp::Le => SeBinary::Le,
    };
    if ty != ScalarType::U64 || op == CompareOp::Eq {
        return code.binary(f, lane(ty), a, b);
    }
    unsigned_relation(code, f, a, b)
}

fn unsigned_relation(code: &mut Code, f: SeBinary, a: Reg, b: Reg) -> Result<Reg, Refusal> {
    let sign = code.constant(Lane::I64, SIGN)?;
    let x = code.binary(SeBinary::Xor, Lane::I64, a, sign)?;
    let y = code.binary(SeBinary::Xor, Lane::I64, b, sign)?;
    let dst = code.binary(f, Lane::I64, x, y)?;
    [sign, x, y].into_iter().for_each(|r| code.release(r));
    Ok(dst)
}

/// A function of two integers of type `ty`.
///
/// # Errors
/// When registers run out.
pub fn binary(code: &mut Code, op: BinaryOp, ty: ScalarType, a: Reg, b: Reg) -> Result<Reg, Refusal> {
    let lane = lane(ty);
    let (f, wraps) = match op {
        BinaryOp::Add => (SeBinary::Add, true),
        BinaryOp::Sub => (SeBinary::Sub, true),
        BinaryOp::Mul => (SeBinary::Mul, true),
        BinaryOp::Pow if ty == ScalarType::U64 => return power_u64(code, a, b),
        BinaryOp::Pow => (SeBinary::Pow, true),
        BinaryOp::Shl => (SeBinary::Shl, true),
        BinaryOp::Shr => return shift_right(code, ty, a, b),
        BinaryOp::Div | BinaryOp::Mod | BinaryOp::Rem if ty == ScalarType::U64 => {
            return divide_u64(code, op == BinaryOp::Div, a, b);
        }
        // The least value by -1 leaves the range.
        BinaryOp::Div => (SeBinary::Div, true),
        BinaryOp::Mod => (SeBinary::Mod, false),
        BinaryOp::Rem => (SeBinary::Rem, false),
        BinaryOp::Min | BinaryOp::Max if ty == ScalarType::U64 => {
            let less = unsigned_relation(code, SeBinary::Lt, a, b)?;
            let (x, y) = if op == BinaryOp::Min { (a, b) } else { (b, a) };
            let dst = code.reg()?;
            code.ops.push(SeOp::Select { lane, dst, c: less, a: x, b: y });
            code.release(less);
            return Ok(dst);
        }
        BinaryOp::Min => (SeBinary::Min, false),
        BinaryOp::Max => (SeBinary::Max, false),
        BinaryOp::And => (SeBinary::And, false),
        BinaryOp::Or => (SeBinary::Or, false),
        BinaryOp::Xor => (SeBinary::Xor, false),
    };
    let dst = code.binary(f, lane, a, b)?;
    if wraps {
        wrap(code, ty, dst)?;
    }
    Ok(dst)
}

/// A function of two truth values, as of 0 and 1 with a non-zero result true.
///
/// # Errors
/// When registers run out.
pub fn binary_bool(code: &mut Code, op: BinaryOp, a: Reg, b: Reg) -> Result<Reg, Refusal> {
    let f = match op {
        BinaryOp::Add | BinaryOp::Or | BinaryOp::Max => SeBinary::Or,
        BinaryOp::Sub | BinaryOp::Xor => SeBinary::Xor,
        BinaryOp::Mul | BinaryOp::And | BinaryOp::Min => SeBinary::And,
        BinaryOp::Div => SeBinary::Div,
        BinaryOp::Mod => SeBinary::Mod,
        BinaryOp::Rem => SeBinary::Rem,
        BinaryOp::Pow => SeBinary::Pow,
        BinaryOp::Shr => SeBinary::Shr,
        // One bit is shifted out at once.
        BinaryOp::Shl => SeBinary::Shr,
    };
    code.binary(f, Lane::I32, a, b)
}

/// A function of floats of an integer or truth value: in f64, truncated and saturated.
///
/// # Errors
/// When registers run out.
pub fn real_function(code: &mut Code, f: SeUnary, ty: ScalarType, a: Reg) -> Result<Reg, Refusal> {
    if matches!(f, SeUnary::IsNan | SeUnary::IsInf) {
        return code.constant(Lane::I32, 0);
    }
    let x = to_float(code, ty, Lane::F64, a)?;
    code.ops.push(SeOp::Unary { f, lane: Lane::F64, dst: x, a: x });
    let dst = if ty == ScalarType::Bool {
        let zero = code.constant(Lane::F64, 0)?;
        let equal = code.binary(SeBinary::Eq, Lane::F64, x, zero)?;
        code.ops.push(SeOp::Unary { f: SeUnary::Not, lane: Lane::I32, dst: equal, a: equal });
        code.release(zero);
        equal
    } else {
        from_float(code, Lane::F64, ty, x)?
    };
    code.release(x);
    Ok(dst)
}

/// Power of `u64`: an exponent from 2^63 is positive. An odd base to the 2^62 is 1, an even one 0, so that bit 62 stands for
/// bit 63 too.
fn power_u64(code: &mut Code, a: Reg, b: Reg) -> Result<Reg, Refusal> {
    const LANE: Lane = Lane::I64;
    let one = code.constant(LANE, 1)?;
    let exponent = code.binary(SeBinary::Shr, LANE, b, one)?;
    update(code, SeBinary::And, LANE, exponent, SIGN >> 1)?;
    code.ops.push(SeOp::Binary { f: SeBinary::Or, lane: LANE, dst: exponent, a: exponent, b });
    update(code, SeBinary::And, LANE, exponent, SIGN - 1)?;
    let dst = code.binary(SeBinary::Pow, LANE, a, exponent)?;
    [one, exponent].into_iter().for_each(|r| code.release(r));
    Ok(dst)
}

/// Logical right shift within the type's width.
fn shift_right(code: &mut Code, ty: ScalarType, a: Reg, b: Reg) -> Result<Reg, Refusal> {
    let lane = lane(ty);
    if !is_narrow(ty) || !is_signed(ty) {
        return code.binary(SeBinary::Shr, lane, a, b);
    }
    let mask = code.constant(lane, (1 << ty.bits()) - 1)?;
    let dst = code.binary(SeBinary::And, lane, a, mask)?;
    code.release(mask);
    code.ops.push(SeOp::Binary { f: SeBinary::Shr, lane, dst, a: dst, b });
    wrap(code, ty, dst)?;
    Ok(dst)
}

/// Quotient or remainder of `u64`; by zero it is 0.
///
/// Half of the dividend is not negative, so twice its signed quotient by a divisor below 2^63 is the quotient or one less.
/// A greater divisor fits once or not at all.
fn divide_u64(code: &mut Code, quotient: bool, a: Reg, b: Reg) -> Result<Reg, Refusal> {
    const LANE: Lane = Lane::I64;
    let one = code.constant(LANE, 1)?;
    let zero = code.constant(LANE, 0)?;
    let q = code.binary(SeBinary::Shr, LANE, a, one)?;
    let mut step = |f, dst, a, b| code.ops.push(SeOp::Binary { f, lane: LANE, dst, a, b });
    step(SeBinary::Div, q, q, b);
    step(SeBinary::Shl, q, q, one);
    let large = code.binary(SeBinary::Lt, LANE, b, zero)?;
    code.ops.push(SeOp::Select { lane: LANE, dst: q, c: large, a: zero, b: q });
    let r = code.binary(SeBinary::Mul, LANE, q, b)?;
    code.ops.push(SeOp::Binary { f: SeBinary::Sub, lane: LANE, dst: r, a, b: r });
    let again = unsigned_relation(code, SeBinary::Le, b, r)?;
    let more = code.reg()?;
    code.ops.push(SeOp::Convert { from: Lane::I32, to: LANE, dst: more, a: again });
    let mut step = |f, dst, a, b| code.ops.push(SeOp::Binary { f, lane: LANE, dst, a, b });
    step(SeBinary::Add, q, q, more);
    step(SeBinary::Mul, more, more, b);
    step(SeBinary::Sub, r, r, more);
    let by_zero = code.binary(SeBinary::Eq, LANE, b, zero)?;
    let (dst, rest) = if quotient { (q, r) } else { (r, q) };
    code.ops.push(SeOp::Select { lane: LANE, dst, c: by_zero, a: zero, b: dst });
    [one, zero, large, again, more, by_zero, rest].into_iter().for_each(|r| code.release(r));
    Ok(dst)
}

/// Least and greatest value of an integer type or `bool`.
fn range(ty: ScalarType) -> (i128, i128) {
    match ty {
        ScalarType::Bool => (0, 1),
        _ if is_signed(ty) => (-(1 << (ty.bits() - 1)), (1 << (ty.bits() - 1)) - 1),
        _ => (0, (1 << ty.bits()) - 1),
    }
}

fn convert(code: &mut Code, from: Lane, to: Lane, a: Reg) -> Result<Reg, Refusal> {
    let dst = code.reg()?;
    code.ops.push(SeOp::Convert { from, to, dst, a });
    Ok(dst)
}

/// Conversion of an integer or `bool` to an integer: wraps.
///
/// # Errors
/// When registers run out.
pub fn from_int(code: &mut Code, from: ScalarType, to: ScalarType, a: Reg) -> Result<Reg, Refusal> {
    let dst = convert(code, lane(from), lane(to), a)?;
    let ((low, high), (least, greatest)) = (range(from), range(to));
    if low < least || high > greatest {
        wrap(code, to, dst)?;
    }
    Ok(dst)
}

/// Conversion of a float lane to an integer: truncates and saturates, NaN is 0.
///
/// # Errors
/// When registers run out.
pub fn from_float(code: &mut Code, from: Lane, to: ScalarType, a: Reg) -> Result<Reg, Refusal> {
    let lane = lane(to);
    if to == ScalarType::U64 {
        // What does not fit a signed lane is brought below its bound, and back afterwards.
        let bound = 9_223_372_036_854_775_808.0f64;
        let bits = if from == Lane::F64 { bound.to_bits() } else { u64::from((bound as f32).to_bits()) };
        let bound = code.constant(from, bits)?;
        let large = code.binary(SeBinary::Le, from, bound, a)?;
        let below = code.binary(SeBinary::Sub, from, a, bound)?;
        let high = convert(code, from, lane, below)?;
        update(code, SeBinary::Xor, lane, high, SIGN)?;
        let dst = convert(code, from, lane, a)?;
        update(code, SeBinary::Max, lane, dst, 0)?;
        code.ops.push(SeOp::Select { lane, dst, c: large, a: high, b: dst });
        [bound, large, below, high].into_iter().for_each(|r| code.release(r));
        return Ok(dst);
    }
    let dst = convert(code, from, lane, a)?;
    if is_narrow(to) {
        let (least, greatest) = range(to);
        update(code, SeBinary::Max, lane, dst, bits_of(lane, least as i64))?;
        update(code, SeBinary::Min, lane, dst, bits_of(lane, greatest as i64))?;
    }
    Ok(dst)
}

/// Conversion of an integer or `bool` to a float lane, rounded to nearest even.
///
/// # Errors
/// When registers run out.
pub fn to_float(code: &mut Code, from: ScalarType, to: Lane, a: Reg) -> Result<Reg, Refusal> {
    if from != ScalarType::U64 {
        return convert(code, lane(from), to, a);
    }
    // A value from 2^63 is halved with its last bit kept for the rounding, and the result doubled.
    const LANE: Lane = Lane::I64;
    let one = code.constant(LANE, 1)?;
    let zero = code.constant(LANE, 0)?;
    let large = code.binary(SeBinary::Lt, LANE, a, zero)?;
    let last = code.binary(SeBinary::And, LANE, a, one)?;
    let half = code.binary(SeBinary::Shr, LANE, a, one)?;
    code.ops.push(SeOp::Binary { f: SeBinary::Or, lane: LANE, dst: half, a: half, b: last });
    code.ops.push(SeOp::Select { lane: LANE, dst: half, c: large, a: half, b: a });
    let dst = convert(code, LANE, to, half)?;
    let twice = code.binary(SeBinary::Add, to, dst, dst)?;
    code.ops.push(SeOp::Select { lane: to, dst, c: large, a: twice, b: dst });
    [one, zero, large, last, half, twice].into_iter().for_each(|r| code.release(r));
    Ok(dst)
}

//! The SE programs of attention: a softmax over rows that come in tiles of keys.
//!
//! For each row the greatest score so far and the sum of exponentials relative to it are kept; a tile that raises the
//! maximum rescales what was accumulated before. The maximum starts at the least finite number, so that rows without a
//! key so far need no test: their exponentials are 0.

use lacuna_ir::expand::Attention;
use lacuna_ir::op::EmptyRow;
use lacuna_isa::format::ScalarType;
use lacuna_isa::program::{Lane, Reg, SeBinary, SeOp, SeReduce, SeUnary};

use super::attention_plan::{Plan, Rejection};
use crate::code::Code;
use crate::refusal::Lowered;

/// Dimensions of the domain: unit, unit, heads, queries, keys.
const QUERY_DIM: u8 = 3;
const KEY_DIM: u8 = 4;

/// The operations of a program.
#[derive(Default)]
pub struct Parts {
    /// Before a row.
    pub init: Vec<SeOp>,
    /// For each element.
    pub body: Vec<SeOp>,
    /// After a row.
    pub finish: Vec<SeOp>,
    /// Constants.
    pub constants: Vec<u64>,
}

/// Which positions are compared in a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compare {
    /// None: every element of the domain is visible.
    Nothing,
    /// Coordinates are relative to the diagonal.
    Diagonal,
    /// Coordinates are those of the tensors.
    Absolute,
}

/// Stream numbers of a program; `None` where it has no such stream.
#[derive(Clone, Copy, Default, Debug)]
pub struct Streams {
    /// Products of queries and keys.
    pub scores: u8,
    /// The mask.
    pub mask: Option<u8>,
    /// Scores after scale, cap and masks.
    pub bent: Option<u8>,
    /// Greatest score of each row.
    pub greatest: u8,
    /// Factor of what was accumulated before; `None` for a single tile of keys.
    pub factor: Option<u8>,
    /// Sum of exponentials of each row.
    pub sum: u8,
    /// Exponentials.
    pub weights: u8,
}

fn real(code: &mut Code, value: f32) -> Lowered<Reg> {
    code.constant(Lane::F32, u64::from(value.to_bits()))
}

fn load(code: &mut Code, lane: Lane, stream: u8) -> Lowered<Reg> {
    let dst = code.reg()?;
    code.ops.push(SeOp::Load { dst, lane, stream });
    Ok(dst)
}

fn coord(code: &mut Code, dim: u8) -> Lowered<Reg> {
    let dst = code.reg()?;
    code.ops.push(SeOp::Coord { dst, dim });
    Ok(dst)
}

/// What a row knows of positions: the last visible key, and the last one before the window.
struct Position {
    last: Reg,
    before: Option<Reg>,
}

/// Emits a row's position into `init`.
fn position(code: &mut Code, a: &Attention, compare: Compare) -> Lowered<Option<Position>> {
    let row = match compare {
        Compare::Nothing => return Ok(None),
        Compare::Diagonal => return Ok(Some(Position { last: coord(code, QUERY_DIM)?, before: None })),
        Compare::Absolute => coord(code, QUERY_DIM)?,
    };
    let int = |code: &mut Code, value: i64| code.constant(Lane::I32, u64::from(value as i32 as u32));
    let shift = int(code, a.shift)?;
    let last = code.binary(SeBinary::Add, Lane::I32, row, shift)?;
    let before = if a.window > 0 {
        let window = int(code, a.window as i64)?;
        Some(code.binary(SeBinary::Sub, Lane::I32, last, window)?)
    } else {
        None
    };
    Ok(Some(Position { last, before }))
}

/// Minus infinity instead of `x` where the key is not visible.
fn reject(code: &mut Code, a: &Attention, at: &Position, least: Reg, x: Reg) -> Lowered<()> {
    let key = coord(code, KEY_DIM)?;
    let mut tests = Vec::new();
    if a.causal {
        tests.push(code.binary(SeBinary::Le, Lane::I32, key, at.last)?);
    }
    if let Some(before) = at.before {
        tests.push(code.binary(SeBinary::Lt, Lane::I32, before, key)?);
    }
    for &c in &tests {
        code.ops.push(SeOp::Select { lane: Lane::F32, dst: x, c, a: x, b: least });
    }
    [key].into_iter().chain(tests).for_each(|r| code.release(r));
    Ok(())
}

/// Scale, cap and mask of a score, in place.
fn bend(code: &mut Code, a: &Attention, plan: &Plan, streams: &Streams, least: Reg, x: Reg) -> Lowered<()> {
    let times = |code: &mut Code, value: f64| -> Lowered<()> {
        let by = real(code, value as f32)?;
        code.ops.push(SeOp::Binary { f: SeBinary::Mul, lane: Lane::F32, dst: x, a: x, b: by });
        code.release(by);
        Ok(())
    };
    let cap = a.softcap.0;
    if cap > 0.0 {
        times(code, a.scale.0 / cap)?;
        code.ops.push(SeOp::Unary { f: SeUnary::Tanh, lane: Lane::F32, dst: x, a: x });
        times(code, cap)?;
    } else {
        times(code, a.scale.0)?;
    }
    match (streams.mask, plan.sizes.mask) {
        (Some(stream), Some(ScalarType::Bool)) => {
            let c = load(code, Lane::I32, stream)?;
            code.ops.push(SeOp::Select { lane: Lane::F32, dst: x, c, a: x, b: least });
            code.release(c);
        }
        (Some(stream), _) => {
            let addend = load(code, Lane::F32, stream)?;
            code.ops.push(SeOp::Binary { f: SeBinary::Add, lane: Lane::F32, dst: x, a: x, b: addend });
            code.release(addend);
        }
        (None, _) => {}
    }
    Ok(())
}

/// The greatest score of each row, and the factor that takes sums and results to it.
pub fn greatest(a: &Attention, plan: &Plan, streams: &Streams, compare: Compare) -> Lowered<Parts> {
    let mut code = Code::default();
    let least = real(&mut code, f32::NEG_INFINITY)?;
    let at = position(&mut code, a, compare)?;
    let init = code.take();
    let x = load(&mut code, Lane::F32, streams.scores)?;
    if plan.transformed {
        bend(&mut code, a, plan, streams, least, x)?;
    }
    if let Some(at) = &at {
        reject(&mut code, a, at, least, x)?;
    }
    if let Some(stream) = streams.bent {
        code.ops.push(SeOp::Store { stream, lane: Lane::F32, src: x });
    }
    code.ops.push(SeOp::Accumulate { f: SeReduce::Max, lane: Lane::F32, acc: 0, a: x });
    let body = code.take();
    let mut found = code.reg()?;
    code.ops.push(SeOp::Tree { f: SeReduce::Max, lane: Lane::F32, dst: found, acc: 0 });
    if !plan.transformed {
        let scale = real(&mut code, a.scale.0 as f32)?;
        found = code.binary(SeBinary::Mul, Lane::F32, found, scale)?;
    }
    let before = match streams.factor {
        Some(_) => load(&mut code, Lane::F32, streams.greatest)?,
        None => real(&mut code, f32::MIN)?,
    };
    rise(&mut code, before, found, streams.factor, streams.greatest)?;
    let finish = code.take();
    Ok(Parts { init, body, finish, constants: code.constants })
}

/// Rejects keys behind the query, whose coordinates count from the diagonal, in stream 0.
pub fn diagonal() -> Lowered<Parts> {
    let mut code = Code::default();
    let least = real(&mut code, f32::NEG_INFINITY)?;
    let (query, key) = (coord(&mut code, QUERY_DIM)?, coord(&mut code, KEY_DIM)?);
    let x = load(&mut code, Lane::F32, 0)?;
    let seen = code.binary(SeBinary::Le, Lane::I32, key, query)?;
    code.ops.push(SeOp::Select { lane: Lane::F32, dst: x, c: seen, a: x, b: least });
    code.ops.push(SeOp::Store { stream: 0, lane: Lane::F32, src: x });
    Ok(Parts { body: code.take(), constants: code.constants, ..Parts::default() })
}

/// The greatest score of each row from that of a tile, stream 0, and what was found before, stream 1; the factor that takes
/// sums and results to it, stream 2. Maxima of `more` parts of the tile are in the streams from 3 on.
pub fn raise(a: &Attention, more: usize) -> Lowered<Parts> {
    let mut code = Code::default();
    let scale = real(&mut code, a.scale.0 as f32)?;
    let mut peak = load(&mut code, Lane::F32, 0)?;
    for part in 0..more {
        let other = load(&mut code, Lane::F32, 3 + part as u8)?;
        peak = code.binary(SeBinary::Max, Lane::F32, peak, other)?;
    }
    let found = code.binary(SeBinary::Mul, Lane::F32, peak, scale)?;
    let before = load(&mut code, Lane::F32, 1)?;
    rise(&mut code, before, found, Some(2), 1)?;
    Ok(Parts { body: code.take(), constants: code.constants, ..Parts::default() })
}

/// Stores the greater of both, and what sums are to be multiplied by.
fn rise(code: &mut Code, before: Reg, found: Reg, factor: Option<u8>, greatest: u8) -> Lowered<()> {
    let now = code.binary(SeBinary::Max, Lane::F32, before, found)?;
    if let Some(stream) = factor {
        let fall = code.binary(SeBinary::Sub, Lane::F32, before, now)?;
        let factor = code.unary(SeUnary::Exp, Lane::F32, fall)?;
        code.ops.push(SeOp::Store { stream, lane: Lane::F32, src: factor });
    }
    code.ops.push(SeOp::Store { stream: greatest, lane: Lane::F32, src: now });
    Ok(())
}

/// The exponentials of a tile, and their sum added to that of the row.
pub fn exponentials(a: &Attention, streams: &Streams, compare: Compare) -> Lowered<Parts> {
    let mut code = Code::default();
    let least = real(&mut code, f32::NEG_INFINITY)?;
    let scale = real(&mut code, a.scale.0 as f32)?;
    let at = if streams.bent.is_none() { position(&mut code, a, compare)? } else { None };
    let greatest = load(&mut code, Lane::F32, streams.greatest)?;
    let minus = code.unary(SeUnary::Neg, Lane::F32, greatest)?;
    let init = code.take();
    let x = load(&mut code, Lane::F32, streams.bent.unwrap_or(streams.scores))?;
    if streams.bent.is_none() {
        // The score is rounded before the maximum is taken off, as the maximum was.
        code.ops.push(SeOp::Binary { f: SeBinary::Mul, lane: Lane::F32, dst: x, a: x, b: scale });
    }
    code.ops.push(SeOp::Binary { f: SeBinary::Add, lane: Lane::F32, dst: x, a: x, b: minus });
    if let Some(at) = &at {
        reject(&mut code, a, at, least, x)?;
    }
    let weight = code.unary(SeUnary::Exp, Lane::F32, x)?;
    code.ops.push(SeOp::Store { stream: streams.weights, lane: Lane::F32, src: weight });
    code.ops.push(SeOp::Accumulate { f: SeReduce::Sum, lane: Lane::F32, acc: 0, a: weight });
    let body = code.take();
    let mut sum = code.reg()?;
    code.ops.push(SeOp::Tree { f: SeReduce::Sum, lane: Lane::F32, dst: sum, acc: 0 });
    if let Some(stream) = streams.factor {
        let (before, factor) =
            (load(&mut code, Lane::F32, streams.sum)?, load(&mut code, Lane::F32, stream)?);
        let total = code.reg()?;
        code.ops.push(SeOp::Fma { lane: Lane::F32, dst: total, a: before, b: factor, c: sum });
        sum = total;
    }
    code.ops.push(SeOp::Store { stream: streams.sum, lane: Lane::F32, src: sum });
    let finish = code.take();
    Ok(Parts { init, body, finish, constants: code.constants })
}

/// Stream 0 times stream 1, in place.
pub fn rescale() -> Lowered<Parts> {
    let mut code = Code::default();
    let (x, factor) = (load(&mut code, Lane::F32, 0)?, load(&mut code, Lane::F32, 1)?);
    let x = code.binary(SeBinary::Mul, Lane::F32, x, factor)?;
    code.ops.push(SeOp::Store { stream: 0, lane: Lane::F32, src: x });
    Ok(Parts { body: code.take(), constants: code.constants, ..Parts::default() })
}

/// Minus infinity into stream 0.
pub fn hide() -> Lowered<Parts> {
    let mut code = Code::default();
    let src = real(&mut code, f32::NEG_INFINITY)?;
    code.ops.push(SeOp::Store { stream: 0, lane: Lane::F32, src });
    Ok(Parts { body: code.take(), constants: code.constants, ..Parts::default() })
}

/// Stream 0 divided by stream 1 into stream 2; rows with a sum of 0 have no key.
pub fn divide(empty_row: EmptyRow) -> Lowered<Parts> {
    let mut code = Code::default();
    let (x, sum) = (load(&mut code, Lane::F32, 0)?, load(&mut code, Lane::F32, 1)?);
    let mut y = code.binary(SeBinary::Div, Lane::F32, x, sum)?;
    if empty_row == EmptyRow::Zero {
        let zero = real(&mut code, 0.0)?;
        let empty = code.binary(SeBinary::Eq, Lane::F32, sum, zero)?;
        let kept = code.reg()?;
        code.ops.push(SeOp::Select { lane: Lane::F32, dst: kept, c: empty, a: zero, b: y });
        y = kept;
    }
    code.ops.push(SeOp::Store { stream: 2, lane: Lane::F32, src: y });
    Ok(Parts { body: code.take(), constants: code.constants, ..Parts::default() })
}

/// The programs that a tile of keys goes through: what each compares.
pub fn passes(rejection: Rejection) -> &'static [Compare] {
    match rejection {
        Rejection::Never => &[Compare::Nothing],
        Rejection::Diagonal => &[Compare::Nothing, Compare::Diagonal],
        Rejection::Everywhere => &[Compare::Absolute],
    }
}

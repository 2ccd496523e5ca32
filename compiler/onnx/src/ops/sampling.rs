//! Reading between the elements: the coordinates of GridSample, DeformConv and RoiAlign as weighted rows of a table.
//!
//! Spatial positions are rows of a table `[rows, channels]`, so that one index fetches all channels of a position. Rows
//! that have no part are replaced by zeros, not multiplied by zero: an infinity there must not count.

use lacuna_ir::op::{BinaryOp, CompareOp, UnaryOp};
use lacuna_ir::{Op, Value};
use lacuna_isa::format::ScalarType;

use crate::context::Ctx;
use crate::diagnostic::Fail;

/// What lies beyond the border.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Beyond {
    /// Zeros.
    Zeros,
    /// The element at the border.
    Border,
    /// The elements before it, mirrored.
    Reflection,
}

/// How elements around a coordinate are weighed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kernel {
    Nearest,
    Linear,
    Cubic,
}

/// The elements of one axis: `size` of them between two borders.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    pub size: u64,
    pub low: f64,
    pub high: f64,
    pub beyond: Beyond,
}

/// One of the elements around a coordinate.
#[derive(Clone, Copy)]
pub(super) struct Tap {
    /// Its position, within the axis: a whole number of a floating-point type.
    pub position: Value,
    /// Its weight; `None` where it is 1.
    pub weight: Option<Value>,
    /// Whether it is inside; `None` where all are.
    pub inside: Option<Value>,
}

impl Line {
    /// An axis whose borders are the outer edges of its elements, or with `corners` the centres of the outer ones.
    pub fn new(size: u64, corners: bool, beyond: Beyond) -> Line {
        let edge = if corners { 0.0 } else { 0.5 };
        Line { size, low: -edge, high: size as f64 - 1.0 + edge, beyond }
    }

    /// `x` limited to the elements.
    fn clamp(&self, c: &mut Ctx<'_>, x: Value) -> Result<Value, Fail> {
        let x = c.binary_splat(BinaryOp::Max, x, 0.0)?;
        c.binary_splat(BinaryOp::Min, x, (self.size - 1) as f64)
    }

    /// `x` mirrored at the borders as often as needed: `low + range - | |x - low| mod 2 range - range |`.
    fn reflect(&self, c: &mut Ctx<'_>, x: Value) -> Result<Value, Fail> {
        let range = self.high - self.low;
        if range <= 0.0 {
            return c.splat_like(x, self.low);
        }
        let from_low = c.binary_splat(BinaryOp::Sub, x, self.low)?;
        let distance = c.unary(UnaryOp::Abs, from_low)?;
        let periods = c.binary_splat(BinaryOp::Div, distance, 2.0 * range)?;
        let periods = c.unary(UnaryOp::Floor, periods)?;
        let whole = c.binary_splat(BinaryOp::Mul, periods, 2.0 * range)?;
        let rest = c.binary(BinaryOp::Sub, distance, whole)?;
        let turned = c.binary_splat(BinaryOp::Sub, rest, range)?;
        let turned = c.unary(UnaryOp::Abs, turned)?;
        let high = c.splat_like(x, self.high)?;
        c.binary(BinaryOp::Sub, high, turned)
    }

    /// Whether `low <= x <= high`.
    pub fn is_within(c: &mut Ctx<'_>, x: Value, low: f64, high: f64) -> Result<Value, Fail> {
        let (low, high) = (c.splat_like(x, low)?, c.splat_like(x, high)?);
        let above = c.compare(CompareOp::Le, low, x)?;
        let below = c.compare(CompareOp::Le, x, high)?;
        c.binary(BinaryOp::And, above, below)
    }

    /// A coordinate outside of the borders brought inside, as the axis has it.
    fn bring_inside(&self, c: &mut Ctx<'_>, x: Value) -> Result<Value, Fail> {
        let moved = match self.beyond {
            Beyond::Zeros => return Ok(x),
            Beyond::Border => self.clamp(c, x)?,
            Beyond::Reflection => self.reflect(c, x)?,
        };
        let within = Line::is_within(c, x, self.low, self.high)?;
        c.select(within, x, moved)
    }

    fn tap(&self, c: &mut Ctx<'_>, position: Value, weight: Option<Value>) -> Result<Tap, Fail> {
        let inside = match self.beyond {
            Beyond::Zeros => Some(Line::is_within(c, position, 0.0, (self.size - 1) as f64)?),
            Beyond::Border | Beyond::Reflection => None,
        };
        let position = match self.beyond {
            Beyond::Zeros | Beyond::Border => position,
            Beyond::Reflection => {
                let mirrored = self.reflect(c, position)?;
                let within = Line::is_within(c, position, self.low, self.high)?;
                c.select(within, position, mirrored)?
            }
        };
        Ok(Tap { position: self.clamp(c, position)?, weight, inside })
    }

    /// The elements around coordinates in units of elements.
    pub fn taps(&self, c: &mut Ctx<'_>, x: Value, kernel: Kernel) -> Result<Vec<Tap>, Fail> {
        if kernel == Kernel::Nearest {
            let x = c.unary(UnaryOp::Round, x)?;
            let x = self.bring_inside(c, x)?;
            // A reflection at an edge between elements may end between them.
            let x = c.unary(UnaryOp::Floor, x)?;
            return Ok(vec![self.tap(c, x, None)?]);
        }
        // Between two elements at a border a line has the value of both, a cubic one that the elements behind them bend.
        let x = if (kernel, self.beyond) == (Kernel::Cubic, Beyond::Border) {
            x
        } else {
            self.bring_inside(c, x)?
        };
        let below = c.unary(UnaryOp::Floor, x)?;
        let ratio = c.binary(BinaryOp::Sub, x, below)?;
        let weights = match kernel {
            Kernel::Nearest => Vec::new(),
            Kernel::Linear => {
                let one = c.splat_like(ratio, 1.0)?;
                vec![(0.0, c.binary(BinaryOp::Sub, one, ratio)?), (1.0, ratio)]
            }
            Kernel::Cubic => cubic(c, ratio)?,
        };
        let mut taps = Vec::new();
        for (offset, weight) in weights {
            let position = if offset == 0.0 { below } else { c.binary_splat(BinaryOp::Add, below, offset)? };
            taps.push(self.tap(c, position, Some(weight))?);
        }
        Ok(taps)
    }
}

/// The coefficient of cubic convolution (Keys 1981) that PyTorch uses.
const CUBIC: f64 = -0.75;

/// Offsets and weights of four elements around a coordinate that lies `t` behind the second.
fn cubic(c: &mut Ctx<'_>, t: Value) -> Result<Vec<(f64, Value)>, Fail> {
    let one = c.splat_like(t, 1.0)?;
    let rest = c.binary(BinaryOp::Sub, one, t)?;
    let mut horner = |x: Value, factors: [f64; 4]| -> Result<Value, Fail> {
        let mut y = c.splat_like(x, factors[0])?;
        for factor in &factors[1..] {
            y = c.binary(BinaryOp::Mul, y, x)?;
            if *factor != 0.0 {
                y = c.binary_splat(BinaryOp::Add, y, *factor)?;
            }
        }
        Ok(y)
    };
    // The polynomial for distances of 1 to 2, in the distance less 1: its constant term vanishes.
    let far = [CUBIC, -2.0 * CUBIC, CUBIC, 0.0];
    let near = [CUBIC + 2.0, -(CUBIC + 3.0), 0.0, 1.0];
    Ok(vec![
        (-1.0, horner(t, far)?),
        (0.0, horner(t, near)?),
        (1.0, horner(rest, near)?),
        (2.0, horner(rest, far)?),
    ])
}

/// A table of rows, and the shape of the space whose positions they are.
pub(super) struct Table {
    /// `[rows, channels]`.
    pub rows: Value,
    /// Sizes of the axes whose positions are joined in a row's number.
    pub sizes: Vec<u64>,
}

impl Table {
    /// The weighted sum of rows: for coordinates of shape S, `[S.., channels]` of type `wide`.
    ///
    /// `taps` has the elements around the coordinates along every axis; `base` is the number of the row of the
    /// position zero, of shape S or one that repeats to it.
    pub fn read(
        &self,
        c: &mut Ctx<'_>,
        taps: &[Vec<Tap>],
        base: Option<Value>,
        wide: ScalarType,
    ) -> Result<Value, Fail> {
        let terms = self.terms(c, taps, base, wide)?;
        let mut sum = None;
        for (row, weight) in terms {
            let term = weigh(c, row, weight)?;
            sum = Some(match sum {
                None => term,
                Some(sum) => c.binary(BinaryOp::Add, sum, term)?,
            });
        }
        sum.ok_or_else(|| crate::context::invalid("a coordinate without axes"))
    }

    /// Rows and their weights, one of each for every combination of elements along the axes.
    pub fn terms(
        &self,
        c: &mut Ctx<'_>,
        taps: &[Vec<Tap>],
        base: Option<Value>,
        wide: ScalarType,
    ) -> Result<Vec<(Value, Option<Value>)>, Fail> {
        let count: usize = taps.iter().map(Vec::len).product();
        let index_elem = if c.shape(self.rows)[0] < 1 << 31 { ScalarType::I32 } else { ScalarType::I64 };
        let mut terms = Vec::with_capacity(count);
        for mut number in 0..count {
            let (mut at, mut weight, mut inside) = (base, None, None);
            let mut stride: u64 = self.sizes.iter().product();
            for (axis, size) in taps.iter().zip(&self.sizes) {
                stride /= size;
                let tap = axis[number % axis.len()];
                number /= axis.len();
                let position = c.cast(tap.position, index_elem)?;
                let offset = match stride {
                    1 => position,
                    _ => c.binary_splat(BinaryOp::Mul, position, stride as f64)?,
                };
                at = Some(joined(c, BinaryOp::Add, at, Some(offset))?.unwrap_or(offset));
                weight = joined(c, BinaryOp::Mul, weight, tap.weight)?;
                inside = joined(c, BinaryOp::And, inside, tap.inside)?;
            }
            let Some(at) = at else { continue };
            let row = c.emit(Op::Gather { axis: 0, batch: 0 }, &[self.rows, at])?;
            let mut row = c.cast(row, wide)?;
            if let Some(inside) = inside {
                let mut unit = c.shape(inside);
                unit.0.push(1);
                let inside = c.reshape(inside, unit)?;
                let zero = c.splat_like(row, 0.0)?;
                row = c.select(inside, row, zero)?;
            }
            terms.push((row, weight));
        }
        Ok(terms)
    }
}

/// A row times a weight of one dimension less.
pub(super) fn weigh(c: &mut Ctx<'_>, row: Value, weight: Option<Value>) -> Result<Value, Fail> {
    let Some(weight) = weight else { return Ok(row) };
    let mut unit = c.shape(weight);
    unit.0.push(1);
    let weight = c.reshape(weight, unit)?;
    c.binary(BinaryOp::Mul, row, weight)
}

fn joined(c: &mut Ctx<'_>, op: BinaryOp, a: Option<Value>, b: Option<Value>) -> Result<Option<Value>, Fail> {
    Ok(match (a, b) {
        (Some(a), Some(b)) => Some(c.binary(op, a, b)?),
        (a, b) => a.or(b),
    })
}

/// The number of the first row of each batch element, as integers of the table's index type: `[batch, 1, ..]`.
pub(super) fn batch_base(c: &mut Ctx<'_>, batch: u64, rows: u64, rank: usize) -> Result<Option<Value>, Fail> {
    if batch == 1 {
        return Ok(None);
    }
    let elem = if batch.saturating_mul(rows) < 1 << 31 { ScalarType::I32 } else { ScalarType::I64 };
    let mut shape = vec![1; rank];
    shape[0] = batch;
    let numbers: Vec<i64> = (0..batch).map(|b| (b * rows) as i64).collect();
    let numbers = c.ints(shape, &numbers)?;
    c.cast(numbers, elem).map(Some)
}

/// `[batch, channels, positions]` as rows `[batch * positions, channels]`.
pub(super) fn rows_of(c: &mut Ctx<'_>, x: Value) -> Result<Value, Fail> {
    let shape = c.shape(x);
    let (batch, channels): (u64, u64) = (shape[0], shape[1]);
    let positions: u64 = shape[2..].iter().product();
    let x = c.reshape(x, vec![batch, channels, positions])?;
    let x = c.permute(x, vec![0, 2, 1])?;
    c.reshape(x, vec![batch * positions, channels])
}

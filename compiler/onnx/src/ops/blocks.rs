//! Col2Im, CenterCropPad, ReverseSequence and Det.

use lacuna_ir::op::{BinaryOp, CompareOp, ReduceOp, UnaryOp};
use lacuna_ir::{Op, Shape, Value};
use lacuna_isa::format::ScalarType;

use super::precision::wide_type;
use crate::call::{Call, axes, axis};
use crate::context::{Ctx, invalid, unsupported};
use crate::diagnostic::Fail;

type Results = Result<Vec<Value>, Fail>;

/// More elements, of blocks or of an image, are not told apart at import.
const MAX_SUMMED: u64 = 1 << 24;

/// Sizes of a sum of overlapping blocks.
pub(super) struct Blocks {
    pub image: Vec<u64>,
    pub block: Vec<u64>,
    pub strides: Vec<u64>,
    pub dilations: Vec<u64>,
    /// Elements of the first block that lie before the image.
    pub low: Vec<i64>,
    /// Number of blocks along each axis.
    pub counts: Vec<u64>,
}

impl Blocks {
    fn of(c: &mut Ctx<'_>, n: &Call<'_>) -> Result<Blocks, Fail> {
        let mut sizes = |i: usize, what: &str| -> Result<Vec<u64>, Fail> {
            let given = c.const_ints(n.input(i)?, what)?;
            let sizes: Option<Vec<u64>> =
                given.iter().map(|&s| u64::try_from(s).ok().filter(|s| (1..1 << 20).contains(s))).collect();
            sizes.ok_or_else(|| invalid(format!("{what} is {given:?}")))
        };
        let (image, block) = (sizes(1, "image_shape")?, sizes(2, "block_shape")?);
        let k = image.len();
        let (strides, dilations) = (n.sizes("strides", k, 1)?, n.sizes("dilations", k, 1)?);
        let pads = n.ints("pads")?.map_or_else(|| vec![0; 2 * k], <[i64]>::to_vec);
        if block.len() != k || pads.len() != 2 * k || pads.iter().any(|p| !(0..1 << 20).contains(p)) {
            return Err(invalid(format!("blocks of {block:?} with pads {pads:?} in an image of {image:?}")));
        }
        let count = |d: usize| {
            let room = image[d] as i64 + pads[d] + pads[d + k] - ((block[d] - 1) * dilations[d] + 1) as i64;
            (room >= 0).then(|| room as u64 / strides[d] + 1)
        };
        let counts: Option<Vec<u64>> = (0..k).map(count).collect();
        let counts =
            counts.ok_or_else(|| invalid(format!("blocks of {block:?} in an image of {image:?}")))?;
        Ok(Blocks { image, block, strides, dilations, low: pads[..k].to_vec(), counts })
    }

    /// For every element of the image, its elements of blocks, as positions in `[block, counts]`.
    fn sources(&self) -> Vec<Vec<i64>> {
        let (image, counts) = (Shape(self.image.clone()), Shape(self.counts.clone()));
        let columns = counts.elements();
        let mut sources = vec![Vec::new(); image.elements() as usize];
        let (block_strides, count_strides, image_strides) =
            (Shape(self.block.clone()).strides(), counts.strides(), image.strides());
        for k in 0..self.block.iter().product() {
            for l in 0..columns {
                let place = |d: usize| {
                    let inside = (k / block_strides[d] % self.block[d]) * self.dilations[d];
                    let start = (l / count_strides[d] % counts[d]) * self.strides[d];
                    let at = (start + inside) as i64 - self.low[d];
                    u64::try_from(at).ok().filter(|&at| at < image[d]).map(|at| at * image_strides[d])
                };
                let at: Option<u64> = (0..image.rank()).map(place).sum();
                if let Some(at) = at {
                    sources[at as usize].push((k * columns + l) as i64);
                }
            }
        }
        sources
    }
}

/// Every element of the image gathers the elements of blocks that lie on it.
pub(super) fn col2im(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let x = n.input(0)?;
    let blocks = Blocks::of(c, n)?;
    let shape = c.shape(x);
    let taken: u64 = blocks.block.iter().product();
    let columns: u64 = blocks.counts.iter().product();
    let fits = shape.rank() == 3 && shape[1].is_multiple_of(taken) && shape[2] == columns;
    if !fits {
        return Err(invalid(format!("{shape} as {columns} blocks of {:?}", blocks.block)));
    }
    let y = overlap_add(c, x, [shape[0], shape[1] / taken], &blocks)?;
    Ok(vec![c.cast(y, c.elem(x))?])
}

/// The sums of blocks where they overlap, of `[batch * channels, block, counts]` in any shape: `[batch, channels,
/// image]` in the type of sums.
pub(super) fn overlap_add(
    c: &mut Ctx<'_>,
    x: Value,
    [batch, channels]: [u64; 2],
    blocks: &Blocks,
) -> Result<Value, Fail> {
    let taken: u64 = blocks.block.iter().product();
    let columns: u64 = blocks.counts.iter().product();
    let image = Shape(blocks.image.clone()).elements();
    if taken.saturating_mul(columns).max(image) > MAX_SUMMED {
        return Err(unsupported(format!(
            "{columns} blocks of {taken} elements in an image of {image}; at most {MAX_SUMMED} are supported"
        )));
    }
    let mut sources = blocks.sources();
    let width = sources.iter().map(Vec::len).max().unwrap_or(0).max(1);
    // What has fewer elements takes zeros, which stand behind the last one.
    let zero = (taken * columns) as i64;
    let ragged = sources.iter().any(|s| s.len() < width);
    sources.iter_mut().for_each(|s| s.resize(width, zero));
    let index = c.ints(vec![sources.len() as u64, width as u64], &sources.concat())?;
    let (elem, sum) = (c.elem(x), sum_type(c.elem(x)));
    let mut rows = c.reshape(x, vec![batch * channels, taken * columns])?;
    if ragged {
        let fill = c.splat(elem, &vec![batch * channels, 1].into(), 0.0)?;
        rows = c.concat(&[rows, fill], 1)?;
    }
    let picked = c.emit(Op::Gather { axis: 1, batch: 0 }, &[rows, index])?;
    let picked = c.cast(picked, sum)?;
    let y = c.reduce(ReduceOp::Sum, picked, &[2], false)?;
    let mut out = vec![batch, channels];
    out.extend(&blocks.image);
    c.reshape(y, out)
}

/// The type in which elements are summed.
fn sum_type(elem: ScalarType) -> ScalarType {
    match elem {
        ScalarType::F16 | ScalarType::Bf16 => ScalarType::F32,
        ScalarType::Bool => ScalarType::I32,
        other => other,
    }
}

/// Equally many elements are cropped or added before and after; an odd one after.
pub(super) fn center_crop_pad(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let mut x = n.input(0)?;
    let target = c.const_ints(n.input(1)?, "the shape operand")?;
    let rank = c.rank(x);
    let over: Vec<u8> = match n.ints("axes")? {
        Some(given) => axes(given, rank)?,
        None => (0..rank as u8).collect(),
    };
    if target.len() != over.len() {
        return Err(invalid(format!("a shape of {target:?} for {} axes", over.len())));
    }
    let (mut low, mut high) = (vec![0; rank], vec![0; rank]);
    for (&a, &size) in over.iter().zip(&target) {
        let d = usize::from(a);
        let size = u64::try_from(size).map_err(|_| invalid(format!("the shape is {target:?}")))?;
        let extent = c.shape(x)[d];
        if size < extent {
            x = c.slice_axis(x, d, (extent - size) / 2, size)?;
        } else {
            low[d] = (size - extent) / 2;
            high[d] = size - extent - low[d];
        }
    }
    if low.iter().chain(&high).all(|&p| p == 0) {
        return Ok(vec![x]);
    }
    let zero = c.splat(c.elem(x), &Shape::default(), 0.0)?;
    Ok(vec![c.emit(Op::Pad { low, high }, &[x, zero])?])
}

/// The first elements of each sequence in reverse order: a gather with positions of its own for each.
pub(super) fn reverse_sequence(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let (x, lengths) = (n.input(0)?, n.input(1)?);
    let rank = c.rank(x);
    let (batch, time) = (axis(n.int("batch_axis", 1)?, rank)?, axis(n.int("time_axis", 0)?, rank)?);
    let shape = c.shape(x);
    if batch == time || c.shape(lengths)[..] != [shape[batch]] {
        return Err(invalid(format!("{shape} with lengths {}", c.b.ty(lengths))));
    }
    let matrix: Shape = vec![shape[batch], shape[time]].into();
    let lengths = c.cast(lengths, ScalarType::I64)?;
    let lengths = c.broadcast_along(lengths, 0, &matrix)?;
    let position = c.iota(ScalarType::I64, &matrix, 1)?;
    let last = c.binary_splat(BinaryOp::Sub, lengths, 1.0)?;
    let mirrored = c.binary(BinaryOp::Sub, last, position)?;
    let inside = c.compare(CompareOp::Lt, position, lengths)?;
    let index = c.select(inside, mirrored, position)?;
    let mut perm = vec![batch as u8, time as u8];
    perm.extend((0..rank as u8).filter(|&d| usize::from(d) != batch && usize::from(d) != time));
    let mut back = vec![0; rank];
    for (i, &p) in perm.iter().enumerate() {
        back[usize::from(p)] = i as u8;
    }
    let x = c.permute(x, perm)?;
    let y = c.emit(Op::Gather { axis: 1, batch: 1 }, &[x, index])?;
    Ok(vec![c.permute(y, back)?])
}

/// Matrices larger than this are not eliminated: each column is a step.
const MAX_MATRIX: u64 = 256;

/// The product of the pivots of Gaussian elimination with row exchanges.
pub(super) fn det(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let x = n.input(0)?;
    let shape = c.shape(x);
    let rank = shape.rank();
    if rank < 2 || shape[rank - 1] != shape[rank - 2] {
        return Err(invalid(format!("the determinant of {}", c.b.ty(x))));
    }
    let (size, outer) = (shape[rank - 1], Shape(shape[..rank - 2].to_vec()));
    if size > MAX_MATRIX {
        return Err(unsupported(format!(
            "the determinant of a matrix of {size} rows; at most {MAX_MATRIX} are supported"
        )));
    }
    let (elem, wide) = (c.elem(x), wide_type(c.elem(x)));
    let batch = outer.elements();
    let x = c.cast(x, wide)?;
    let mut a = c.reshape(x, vec![batch, size, size])?;
    let mut product = c.splat(wide, &vec![batch].into(), 1.0)?;
    for left in (1..=size).rev() {
        let (pivot, rest) = eliminate(c, a, left)?;
        product = c.binary(BinaryOp::Mul, product, pivot)?;
        a = rest;
    }
    let y = c.reshape(product, outer)?;
    Ok(vec![c.cast(y, elem)?])
}

/// One step on `[batch, n, n]`: the pivot, negated where rows are exchanged, and what is left, `[batch, n - 1, n - 1]`.
fn eliminate(c: &mut Ctx<'_>, a: Value, n: u64) -> Result<(Value, Value), Fail> {
    let batch = c.shape(a)[0];
    if n == 1 {
        return Ok((c.reshape(a, vec![batch])?, a));
    }
    let column = c.slice_axis(a, 2, 0, 1)?;
    let column = c.reshape(column, vec![batch, n])?;
    let magnitude = c.unary(UnaryOp::Abs, column)?;
    let best = c.emit(Op::ArgReduce { max: true, axis: 1, last: false }, &[magnitude])?;
    // Row 0 takes the place of the pivot's row.
    let lines: Shape = vec![batch, n].into();
    let number = c.iota(ScalarType::I64, &lines, 1)?;
    let own = c.broadcast_along(best, 0, &lines)?;
    let exchanged = c.compare(CompareOp::Eq, number, own)?;
    let first = c.splat_like(number, 0.0)?;
    let order = c.select(exchanged, first, number)?;
    let rows = c.emit(Op::Gather { axis: 1, batch: 1 }, &[a, order])?;
    let rows = c.slice_axis(rows, 1, 1, n - 1)?;
    let index = c.reshape(best, vec![batch, 1])?;
    let top = c.emit(Op::Gather { axis: 1, batch: 1 }, &[a, index])?;
    let head = c.slice_axis(top, 2, 0, 1)?;
    let head = c.reshape(head, vec![batch])?;
    // A pivot of zero makes the determinant zero; what is left must not become NaN.
    let is_zero = c.compare_splat(CompareOp::Eq, head, 0.0)?;
    let one = c.splat_like(head, 1.0)?;
    let divisor = c.select(is_zero, one, head)?;
    let divisor = c.broadcast_along(divisor, 0, &vec![batch, n - 1, 1].into())?;
    let factors = c.slice_axis(rows, 2, 0, 1)?;
    let factors = c.binary(BinaryOp::Div, factors, divisor)?;
    let (right, above) = (c.slice_axis(rows, 2, 1, n - 1)?, c.slice_axis(top, 2, 1, n - 1)?);
    let outer = c.binary(BinaryOp::Mul, factors, above)?;
    let rest = c.binary(BinaryOp::Sub, right, outer)?;
    let stays = c.compare_splat(CompareOp::Eq, best, 0.0)?;
    let negated = c.unary(UnaryOp::Neg, head)?;
    Ok((c.select(stays, head, negated)?, rest))
}

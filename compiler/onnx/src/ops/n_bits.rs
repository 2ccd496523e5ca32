//! MatMulNBits and GatherBlockQuantized: tables of codes with a scale and a zero for each block of a row.

use lacuna_ir::op::{BinaryOp, ContractMap};
use lacuna_ir::{Constant, ConstantData, Op, Shape, TensorType, Value};
use lacuna_isa::format::ScalarType;

use crate::call::{Call, axis};
use crate::context::{Ctx, invalid, unsupported};
use crate::diagnostic::Fail;
use crate::indices::non_negative;

type Results = Result<Vec<Value>, Fail>;

/// The unsigned type of codes of so many bits.
fn code_type(bits: i64) -> Result<ScalarType, Fail> {
    match bits {
        2 => Ok(ScalarType::U2),
        4 => Ok(ScalarType::U4),
        8 => Ok(ScalarType::U8),
        _ => Err(unsupported(format!("codes of {bits} bits"))),
    }
}

/// The codes in a tensor of bytes, whose last dimension grows by as many as a byte has.
fn unpacked(c: &mut Ctx<'_>, bytes: Value, to: ScalarType) -> Result<Value, Fail> {
    let mut shape = c.shape(bytes);
    let (rank, n) = (shape.rank(), u64::from(8 / to.bits()));
    if n == 1 || rank == 0 {
        return Ok(bytes);
    }
    shape.0[rank - 1] *= n;
    if let Some(id) = c.b.func().as_const(bytes)
        && let ConstantData::Dense(blob) = &c.b.module.constants[id].data
    {
        // Memory holds both forms alike: the first element in the low bits of a byte.
        let (data, name) = (ConstantData::Dense(blob.clone()), c.b.module.constants[id].name.clone());
        return c.constant(Constant::new(TensorType::new(to, shape), data, name));
    }
    let mut each = c.shape(bytes);
    each.0.push(1);
    let mut parts = Vec::new();
    for i in 0..n {
        let part = c.binary_splat(BinaryOp::Shr, bytes, (i * u64::from(to.bits())) as f64)?;
        let part = c.binary_splat(BinaryOp::And, part, f64::from((1u32 << to.bits()) - 1))?;
        parts.push(c.reshape(part, each.clone())?);
    }
    let all = c.concat(&parts, rank)?;
    c.reshape(all, shape)
}

/// Codes, and scales and zeros for every `blocks` of them along each dimension.
struct Table {
    codes: Value,
    scales: Value,
    zeros: Option<Value>,
    blocks: Vec<u64>,
    to: ScalarType,
}

impl Table {
    /// The table that a value is, if it is one.
    fn of(c: &Ctx<'_>, value: Value) -> Option<Table> {
        let data = &c.b.func().nodes[c.b.func().def(value)?];
        let Op::Dequantize { blocks, to } = &data.op else { return None };
        let zeros = data.args.get(2).copied();
        Some(Table { codes: data.args[0], scales: data.args[1], zeros, blocks: blocks.clone(), to: *to })
    }

    /// The values: codes that are constant stay codes.
    fn widened(self, c: &mut Ctx<'_>) -> Result<Value, Fail> {
        let Table { codes, scales, zeros, blocks, to } = self;
        let args: Vec<Value> = [codes, scales].into_iter().chain(zeros).collect();
        if args.iter().all(|&v| c.is_constant(v)) {
            return c.emit(Op::Dequantize { blocks, to }, &args);
        }
        let shape = c.shape(codes);
        let mut w = c.cast(codes, ScalarType::F32)?;
        if let Some(zeros) = zeros {
            let zeros = c.cast(zeros, ScalarType::F32)?;
            let zeros = repeated(c, zeros, &blocks, &shape)?;
            w = c.binary(BinaryOp::Sub, w, zeros)?;
        }
        let scales = c.cast(scales, ScalarType::F32)?;
        let scales = repeated(c, scales, &blocks, &shape)?;
        let w = c.binary(BinaryOp::Mul, w, scales)?;
        c.cast(w, to)
    }

    /// Rows along dimension `axis`, of which no two share a scale.
    fn gathered(self, c: &mut Ctx<'_>, index: Value, axis: usize) -> Result<Table, Fail> {
        let mut rows = |table: Value| c.emit(Op::Gather { axis: axis as u8, batch: 0 }, &[table, index]);
        let (codes, scales) = (rows(self.codes)?, rows(self.scales)?);
        let zeros = self.zeros.map(rows).transpose()?;
        let mut blocks = self.blocks;
        blocks.splice(axis..=axis, vec![1; c.rank(index)]);
        Ok(Table { codes, scales, zeros, blocks, to: self.to })
    }
}

/// The gather of a table of codes along a dimension of which no two indices share a scale: of codes, scales and zeros.
pub(super) fn gather_of_codes(
    c: &mut Ctx<'_>,
    x: Value,
    index: Value,
    axis: usize,
) -> Result<Option<Value>, Fail> {
    match Table::of(c, x).filter(|table| table.blocks[axis] == 1) {
        Some(table) => Ok(Some(table.gathered(c, index, axis)?.widened(c)?)),
        None => Ok(None),
    }
}

/// Each element as often as `blocks` say along each dimension, up to `shape`.
fn repeated(c: &mut Ctx<'_>, x: Value, blocks: &[u64], shape: &Shape) -> Result<Value, Fail> {
    let mut x = x;
    for (d, &block) in blocks.iter().enumerate().filter(|&(_, &block)| block > 1) {
        let mut split = c.shape(x).0;
        split.insert(d + 1, 1);
        x = c.reshape(x, split.clone())?;
        split[d + 1] = block;
        x = c.broadcast_to(x, &Shape(split.clone()))?;
        split[d] *= split.remove(d + 1);
        x = c.reshape(x, split)?;
        x = c.slice_axis(x, d, 0, shape[d])?;
    }
    Ok(x)
}

/// The order of a weight's rows in which those of a block are neighbours, if it is not their own.
///
/// # Errors
/// When the order is not known, or blocks have other numbers of rows than their size.
fn order_of_rows(c: &mut Ctx<'_>, n: &Call<'_>, inner: u64, block: u64) -> Result<Option<Vec<usize>>, Fail> {
    let Some(operand) = n.opt(4) else { return Ok(None) };
    let groups = c.const_ints(operand, "the operand g_idx")?;
    let mut order: Vec<usize> = (0..groups.len()).collect();
    order.sort_by_key(|&i| groups[i]);
    let fits = |(i, &row): (usize, &usize)| groups[row] as u64 == i as u64 / block;
    if order.len() as u64 != inner || !order.iter().enumerate().all(fits) {
        let reason = format!("the operand g_idx, which does not give {block} rows to each block");
        return Err(unsupported(reason).hint("quantise the model again without an order of activations"));
    }
    Ok(Some(order).filter(|order| !order.is_sorted()))
}

/// Codes `[columns, inner]` of so many bits with their rows in another order.
fn reordered(c: &mut Ctx<'_>, codes: Value, order: &[usize], what: ScalarType) -> Result<Value, Fail> {
    let ty = c.b.ty(codes).clone();
    let (columns, inner) = (ty.shape[0] as usize, order.len());
    let known = c.known(codes).ok_or_else(|| c.not_constant(codes, "the weight of an operand g_idx"))?;
    let bits = what.bits() as usize;
    let mut bytes = vec![0u8; (columns * inner * bits).div_ceil(8)];
    let mask = ((1u32 << bits) - 1) as u8;
    let code = |i: usize| match &known.data {
        ConstantData::Splat(code) => *code as u8 & mask,
        ConstantData::Dense(blob) => blob.bytes()[i * bits / 8] >> (i * bits % 8) & mask,
    };
    for column in 0..columns {
        for (to, &from) in order.iter().enumerate() {
            let at = (column * inner + to) * bits;
            bytes[at / 8] |= code(column * inner + from) << (at % 8);
        }
    }
    c.constant(Constant::dense(ty, bytes, known.name.clone()))
}

/// A product with a weight `[columns, blocks, bytes]` of codes of 2, 4 or 8 bits, each block with a scale and a zero.
pub(super) fn mat_mul_n_bits(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let (mut x, codes, scales) = (n.input(0)?, n.input(1)?, n.input(2)?);
    // How little precision is enough; all are met.
    n.pass_over(&["accuracy_level"]);
    if n.flag("weight_prepacked", false)? {
        return Err(unsupported("weights in the order of a GPU's kernels (weight_prepacked is not 0)"));
    }
    let bits = n.int("bits", 4)?;
    let ty = code_type(bits)?;
    let size = |name: &str| -> Result<u64, Fail> {
        let given = n.int(name, 0)?;
        let size = u64::try_from(given).ok().filter(|s| (1..1 << 31).contains(s));
        size.ok_or_else(|| invalid(format!("{name} is {given}")))
    };
    let (inner, columns, block) = (size("K")?, size("N")?, size("block_size")?);
    let order = order_of_rows(c, n, inner, block)?;
    let blocks = inner.div_ceil(block);
    let bytes = blocks * block * bits as u64 / 8;
    let codes = c.reshape(codes, vec![columns, bytes])?;
    let codes = unpacked(c, codes, ty)?;
    let mut codes = c.slice_axis(codes, 1, 0, inner)?;
    if let Some(order) = order {
        codes = reordered(c, codes, &order, ty)?;
        let index: Vec<i64> = order.iter().map(|&i| i as i64).collect();
        let (index, last) = (c.ints(vec![inner], &index)?, c.rank(x).saturating_sub(1) as u8);
        x = c.emit(Op::Gather { axis: last, batch: 0 }, &[x, index])?;
    }
    let each: Shape = vec![columns, blocks].into();
    let zeros = match n.opt(3) {
        None => c.splat(ty, &each, f64::from(1u32 << (bits - 1)))?,
        Some(zeros) if c.elem(zeros).is_float() => c.reshape(zeros, each.clone())?,
        Some(zeros) => {
            // Each column is padded to whole bytes.
            let zeros = c.reshape(zeros, vec![columns, (blocks * bits as u64).div_ceil(8)])?;
            let zeros = unpacked(c, zeros, ty)?;
            c.slice_axis(zeros, 1, 0, blocks)?
        }
    };
    let scales = c.reshape(scales, each)?;
    let (zeros, to) = (Some(zeros), c.elem(scales));
    let w = Table { codes, scales, zeros, blocks: vec![1, block], to }.widened(c)?;
    let w = c.cast(w, c.elem(x))?;
    let mut y = of_last_dimension(c, x, w, true)?;
    if let Some(bias) = n.opt(5) {
        y = c.binary(BinaryOp::Add, y, bias)?;
    }
    Ok(vec![y])
}

/// The weights `[experts, rows, inner]` that codes of so many bits stand for, with a scale for each row, or for each
/// `block` of its elements.
pub(super) fn rows_of_experts(
    c: &mut Ctx<'_>,
    (codes, scales, zeros): (Value, Value, Option<Value>),
    bits: i64,
    [inner, block]: [u64; 2],
) -> Result<Value, Fail> {
    let ty = code_type(bits)?;
    let codes = unpacked(c, codes, ty)?;
    let shape = c.shape(codes);
    let &[experts, rows, held] = &shape[..] else { return Err(invalid(format!("codes {shape}"))) };
    if held < inner || inner == 0 {
        return Err(invalid(format!("codes {shape} for rows of {inner}")));
    }
    let codes = c.slice_axis(codes, 2, 0, inner)?;
    let block = if block == 0 { inner } else { block };
    let each: Shape = vec![experts, rows, inner.div_ceil(block)].into();
    if c.shape(scales).elements() != each.elements() {
        return Err(invalid(format!("scales {} for codes {shape} in blocks of {block}", c.shape(scales))));
    }
    let scales = c.reshape(scales, each.clone())?;
    let zeros = match zeros {
        None => c.splat(ty, &each, f64::from(1u32 << (bits - 1)))?,
        Some(zeros) => {
            let zeros = unpacked(c, zeros, ty)?;
            // What is packed is the last dimension: blocks of a row, or the rows.
            let packed = if c.rank(zeros) == 3 { each[2] } else { rows };
            let last = c.rank(zeros).saturating_sub(1);
            let zeros = if c.rank(zeros) > 0 { c.slice_axis(zeros, last, 0, packed)? } else { zeros };
            c.reshape(zeros, each)?
        }
    };
    let to = c.elem(scales);
    Table { codes, scales, zeros: Some(zeros), blocks: vec![1, 1, block], to }.widened(c)
}

/// The product that sums over the last dimension of `x` and one of a matrix: the second, or with its rows as columns.
fn of_last_dimension(c: &mut Ctx<'_>, x: Value, w: Value, second: bool) -> Result<Value, Fail> {
    let labels: Vec<u8> = (0..c.rank(x) as u8).collect();
    let Some((&summed, rows)) = labels.split_last() else { return Err(invalid("a product of a scalar")) };
    let column = c.rank(x) as u8;
    let b = if second { vec![column, summed] } else { vec![summed, column] };
    let map = ContractMap { a: labels.clone(), b, out: [rows, &[column]].concat() };
    c.contract(map, x, w)
}

/// What codes of four bits stand for in bitsandbytes' FP4.
const FP4: [f32; 16] = [
    0.0,
    5.208_333_3e-3,
    0.666_666_7,
    1.0,
    0.333_333_34,
    0.5,
    0.166_666_67,
    0.25,
    -0.0,
    -5.208_333_3e-3,
    -0.666_666_7,
    -1.0,
    -0.333_333_34,
    -0.5,
    -0.166_666_67,
    -0.25,
];

/// What codes of four bits stand for in NF4: quantiles of a normal distribution.
const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// MatMulBnb4: a product with a weight `[N, K]` whose codes are numbers of a table, each block times its greatest magnitude.
pub(super) fn mat_mul_bnb4(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let (x, bytes, scales) = (n.input(0)?, n.input(1)?, n.input(2)?);
    // Only what training keeps depends on it.
    n.pass_over(&["training_mode"]);
    let size = |name: &str| -> Result<u64, Fail> {
        let given = n.int(name, 0)?;
        let size = u64::try_from(given).ok().filter(|s| (1..1 << 31).contains(s));
        size.ok_or_else(|| invalid(format!("{name} is {given}")))
    };
    let (inner, columns, block) = (size("K")?, size("N")?, size("block_size")?);
    let table = match n.int("quant_type", -1)? {
        0 => FP4,
        1 => NF4,
        other => return Err(invalid(format!("quant_type is {other}"))),
    };
    let (all, held) = (inner * columns, c.shape(bytes).elements());
    let blocks = all.div_ceil(block);
    if c.elem(bytes) != ScalarType::U8 || held != all.div_ceil(2) || c.shape(scales).elements() != blocks {
        let (b, s) = (c.b.ty(bytes), c.b.ty(scales));
        return Err(invalid(format!(
            "codes {b} and scales {s} of {columns} by {inner} in blocks of {block}"
        )));
    }
    // The first code is in the high bits.
    let bytes = c.reshape(bytes, vec![held, 1])?;
    let parts = [c.binary_splat(BinaryOp::Shr, bytes, 4.0)?, c.binary_splat(BinaryOp::And, bytes, 15.0)?];
    let codes = c.concat(&parts, 1)?;
    let codes = c.reshape(codes, vec![2 * held])?;
    let codes = c.slice_axis(codes, 0, 0, all)?;
    let codes = c.cast(codes, ScalarType::I32)?;
    let table = c.floats(ScalarType::F32, vec![16], &table.map(f64::from))?;
    let w = c.emit(Op::Gather { axis: 0, batch: 0 }, &[table, codes])?;
    let scales = c.reshape(scales, vec![blocks])?;
    let scales = c.cast(scales, ScalarType::F32)?;
    let scales = repeated(c, scales, &[block], &vec![all].into())?;
    let w = c.binary(BinaryOp::Mul, w, scales)?;
    let w = c.reshape(w, vec![columns, inner])?;
    let w = c.cast(w, c.elem(x))?;
    Ok(vec![of_last_dimension(c, x, w, n.flag("transB", true)?)?])
}

/// Refuses an operand of another shape than blocks have.
fn check_shape(c: &Ctx<'_>, what: &str, x: Value, each: &Shape) -> Result<(), Fail> {
    let shape = c.shape(x);
    if shape == *each {
        Ok(())
    } else {
        Err(invalid(format!("the {what} are {shape}, and the blocks {each}")))
    }
}

/// Rows of a table of codes, widened as they are gathered.
pub(super) fn gather_block_quantized(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let (data, index, scales) = (n.input(0)?, n.input(1)?, n.input(2)?);
    let packed = c.elem(data) == ScalarType::U8;
    let (bits, block) = (n.int("bits", 4)?, n.int("block_size", 128)?);
    let ty = if packed { code_type(bits)? } else { c.elem(data) };
    let codes = if packed { unpacked(c, data, ty)? } else { data };
    let shape = c.shape(codes);
    let rank = shape.rank();
    let (gathered, along) = (axis(n.int("gather_axis", 0)?, rank)?, axis(n.int("quantize_axis", 1)?, rank)?);
    if gathered == along {
        return Err(invalid("the axes of rows and of blocks are one"));
    }
    let block = u64::try_from(block).ok().filter(|b| (1..1 << 31).contains(b));
    let block = block.ok_or_else(|| invalid("block_size is not positive"))?;
    let mut each = shape.clone();
    each.0[along] = each[along].div_ceil(block);
    check_shape(c, "scales", scales, &each)?;
    let zeros = match n.opt(3) {
        Some(zeros) if packed => {
            let zeros = unpacked(c, zeros, ty)?;
            if c.rank(zeros) == rank && c.shape(zeros)[rank - 1] > each[rank - 1] {
                c.slice_axis(zeros, rank - 1, 0, each[rank - 1])?
            } else {
                zeros
            }
        }
        Some(zeros) => zeros,
        // Codes in bytes are centred; types of their own have a zero.
        None => c.splat(ty, &each, if packed { f64::from(1u32 << (bits - 1)) } else { 0.0 })?,
    };
    check_shape(c, "zero points", zeros, &each)?;
    let index = non_negative(c, index, &[shape[gathered]])?;
    let mut blocks = vec![1; rank];
    blocks[along] = block;
    let table = Table { codes, scales, zeros: Some(zeros), blocks, to: c.elem(scales) };
    Ok(vec![table.gathered(c, index, gathered)?.widened(c)?])
}

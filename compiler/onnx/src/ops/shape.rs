//! Constants, shapes as values, ranges.

use lacuna_ir::op::BinaryOp;
use lacuna_ir::{Constant, ConstantData, Op, Shape, TensorType, Value};
use lacuna_isa::format::ScalarType;

use crate::call::Call;
use crate::codes;
use crate::context::{Ctx, invalid, unsupported};
use crate::diagnostic::Fail;
use crate::limits::MAX_ELEMENTS;
use crate::tensor::{decode_tensor, scalar_type};

type Results = Result<Vec<Value>, Fail>;

pub(super) fn constant(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let name = n.node.output.first().map_or("", String::as_str);
    if let Some(tensor) = n.tensor("value")? {
        let (_, literal) = decode_tensor(tensor.clone(), c.external)
            .map_err(|d| Fail::new(codes::lookup(d.code).copied().unwrap_or(codes::BAD_TENSOR), d.reason))?;
        return Ok(vec![c.literal(literal, name)?]);
    }
    let ints = |values: &[i64], shape: Shape| {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Constant::dense(TensorType::new(ScalarType::I64, shape), bytes, name)
    };
    let floats = |values: &[f32], shape: Shape| {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Constant::dense(TensorType::new(ScalarType::F32, shape), bytes, name)
    };
    let vector = |len: usize| Shape(vec![len as u64]);
    let made = if n.has("value_int") {
        ints(&[n.int("value_int", 0)?], Shape::default())
    } else if n.has("value_float") {
        floats(&[n.float("value_float", 0.0)? as f32], Shape::default())
    } else if let Some(values) = n.ints("value_ints")? {
        ints(values, vector(values.len()))
    } else if let Some(values) = n.floats("value_floats")? {
        floats(values, vector(values.len()))
    } else {
        return Err(unsupported("the value is a string, a sparse tensor or missing"));
    };
    Ok(vec![c.constant(made)?])
}

fn sizes(values: &[i64], what: &str) -> Result<Shape, Fail> {
    let sizes: Option<Vec<u64>> = values.iter().map(|&s| u64::try_from(s).ok()).collect();
    sizes.map(Shape).ok_or_else(|| invalid(format!("{what} is {values:?}")))
}

pub(super) fn constant_of_shape(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let shape = sizes(&c.const_ints(n.input(0)?, "the shape operand")?, "the shape operand")?;
    let (elem, code) = match n.tensor("value")? {
        None => (ScalarType::F32, 0),
        Some(tensor) => {
            let (_, literal) = decode_tensor(tensor.clone(), c.external).map_err(|d| invalid(d.reason))?;
            let (ty, bytes) = (literal.ty, literal.data);
            if ty.shape.elements() != 1 {
                return Err(invalid(format!("the value is {ty}, not one element")));
            }
            let code = bytes.bytes().iter().take(8).rev().fold(0, |code, &b| code << 8 | u64::from(b));
            (scalar_type(tensor.data_type).map_err(invalid)?, code)
        }
    };
    crate::limits::check_shape(&shape).map_err(|r| Fail::new(codes::TOO_LARGE, r))?;
    let ty = TensorType::new(elem, shape);
    Ok(vec![c.constant(Constant::new(ty, ConstantData::Splat(code), ""))?])
}

pub(super) fn shape(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let shape = c.shape(n.input(0)?);
    let rank = shape.rank() as i64;
    let place = |p: i64| if p < 0 { p.saturating_add(rank) } else { p }.clamp(0, rank) as usize;
    let (start, end) = (place(n.int("start", 0)?), place(n.int("end", rank)?));
    let part: Vec<i64> = shape.get(start..end).unwrap_or(&[]).iter().map(|&d| d as i64).collect();
    Ok(vec![c.ints(vec![part.len() as u64], &part)?])
}

pub(super) fn size(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let elements = c.shape(n.input(0)?).elements() as i64;
    Ok(vec![c.ints(vec![], &[elements])?])
}

/// `start + i * step`; the plain positions where that starts at 0 with step 1.
pub(super) fn range(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let first = n.input(0)?;
    let elem = c.elem(first);
    if elem.is_int() {
        return range_of_integers(c, n, elem);
    }
    let mut number = |i: usize, what: &str| n.input(i).and_then(|v| c.const_scalar(v, what));
    let (start, limit, step) =
        (number(0, "the start operand")?, number(1, "the limit operand")?, number(2, "the step operand")?);
    let count = ((limit - start) / step).ceil().max(0.0);
    if step == 0.0 || count.is_nan() || count > MAX_ELEMENTS as f64 {
        return Err(invalid(format!("a range from {start} to {limit} by {step}")));
    }
    let shape = Shape(vec![count as u64]);
    let mut x = c.iota(elem, &shape, 0)?;
    if step != 1.0 {
        x = c.binary_splat(BinaryOp::Mul, x, step)?;
    }
    if start != 0.0 {
        x = c.binary_splat(BinaryOp::Add, x, start)?;
    }
    Ok(vec![x])
}

/// [`range`] of integers, which f64 does not hold all of.
fn range_of_integers(c: &mut Ctx<'_>, n: &Call<'_>, elem: ScalarType) -> Results {
    let mut number = |i: usize, what: &str| -> Result<i64, Fail> {
        match c.const_ints(n.input(i)?, what)?[..] {
            [one] => Ok(one),
            _ => Err(invalid(format!("{what} is not one number"))),
        }
    };
    let (start, limit, step) =
        (number(0, "the start operand")?, number(1, "the limit operand")?, number(2, "the step operand")?);
    let bad = || invalid(format!("a range from {start} to {limit} by {step}"));
    let (distance, each) = (i128::from(limit) - i128::from(start), i128::from(step));
    if each == 0 {
        return Err(bad());
    }
    let whole = distance / each;
    let count = if distance % each == 0 || (distance < 0) != (each < 0) { whole } else { whole + 1 };
    let count = u64::try_from(count.max(0)).ok().filter(|&count| count <= MAX_ELEMENTS).ok_or_else(bad)?;
    let mut x = c.iota(elem, &vec![count].into(), 0)?;
    for (op, number, neutral) in [(BinaryOp::Mul, step, 1), (BinaryOp::Add, start, 0)] {
        if number != neutral {
            let number = c.ints(vec![], &[number])?;
            let number = c.cast(number, elem)?;
            x = c.binary(op, x, number)?;
        }
    }
    Ok(vec![x])
}

pub(super) fn eye_like(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let x = n.input(0)?;
    let shape = c.shape(x);
    if shape.rank() != 2 {
        return Err(invalid(format!("EyeLike of {}", c.b.ty(x))));
    }
    let elem = n.data_type("dtype")?.unwrap_or(c.elem(x));
    let row = c.iota(ScalarType::I64, &shape, 0)?;
    let column = c.iota(ScalarType::I64, &shape, 1)?;
    let diagonal = c.binary_splat(BinaryOp::Add, row, n.int("k", 0)? as f64)?;
    let hit = c.compare(lacuna_ir::op::CompareOp::Eq, diagonal, column)?;
    Ok(vec![c.emit(Op::Cast { to: elem, saturate: true }, &[hit])?])
}

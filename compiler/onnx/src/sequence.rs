//! Sequences and optionals: operators that choose among values at import.

use lacuna_ir::op::CompareOp;
use lacuna_ir::{Op, Value};
use lacuna_isa::format::ScalarType;

use crate::call::{Call, axis};
use crate::context::{Ctx, invalid, unsupported};
use crate::diagnostic::Fail;
use crate::importer::Importer;
use crate::limits::MAX_PARTS;
use crate::slot::{Slot, choose_value};

type Results = Result<Vec<Slot>, Fail>;

/// What a position that is computed at run time decides on.
const ELEMENT: &str = "an element of the sequence";

pub(crate) fn identity(_: &mut Importer<'_>, n: &Call<'_, Slot>) -> Results {
    Ok(vec![n.input(0)?.clone()])
}

pub(crate) fn empty(_: &mut Importer<'_>, n: &Call<'_, Slot>) -> Results {
    // The elements that are put in later have their type.
    n.pass_over(&["dtype"]);
    Ok(vec![Slot::sequence([])])
}

pub(crate) fn construct(_: &mut Importer<'_>, n: &Call<'_, Slot>) -> Results {
    let elements: Vec<Value> = (0..n.n_operands()).map(|i| n.value(i)).collect::<Result<_, Fail>>()?;
    Ok(vec![Slot::sequence(elements)])
}

pub(crate) fn length(im: &mut Importer<'_>, n: &Call<'_, Slot>) -> Results {
    let length = n.sequence(0)?.len() as i64;
    Ok(vec![Slot::Value(im.ctx.ints(vec![], &[length])?)])
}

/// A position in `0..count`, negative ones counted from the end; `None` where it is computed at run time.
fn position(c: &mut Ctx<'_>, v: Value, length: usize, count: usize) -> Result<Option<usize>, Fail> {
    if c.shape(v).elements() != 1 {
        return Err(invalid(format!("the position is {}, not one number", c.b.ty(v))));
    }
    let Some(known) = c.known_ints(v) else { return Ok(None) };
    let at = if known[0] < 0 { known[0].saturating_add(length as i64) } else { known[0] };
    let inside = usize::try_from(at).ok().filter(|&at| at < count);
    inside.map(Some).ok_or_else(|| invalid(format!("position {} in a sequence of {length}", known[0])))
}

/// The position as an i64 scalar that counts from the front.
fn from_front(c: &mut Ctx<'_>, v: Value, length: usize) -> Result<Value, Fail> {
    let at = c.reshape(v, vec![])?;
    let at = c.cast(at, ScalarType::I64)?;
    let negative = c.compare_splat(CompareOp::Lt, at, 0.0)?;
    let raised = c.binary_splat(lacuna_ir::op::BinaryOp::Add, at, length as f64)?;
    c.select(negative, raised, at)
}

/// An element; at a position that is computed at run time, a row of the stacked elements.
pub(crate) fn at(im: &mut Importer<'_>, n: &Call<'_, Slot>) -> Results {
    let (elements, at) = (n.sequence(0)?, n.value(1)?);
    let c = &mut im.ctx;
    if let Some(i) = position(c, at, elements.len(), elements.len())? {
        return Ok(vec![Slot::Value(elements[i])]);
    }
    let uniform = elements.windows(2).all(|w| c.b.ty(w[0]) == c.b.ty(w[1]));
    if elements.is_empty() || !uniform {
        return Err(c.not_constant(at, "the position in a sequence of different shapes"));
    }
    let at = from_front(c, at, elements.len())?;
    let table = stack(c, &elements, 0)?;
    Ok(vec![Slot::Value(c.emit(Op::Gather { axis: 0, batch: 0 }, &[table, at])?)])
}

pub(crate) fn insert(im: &mut Importer<'_>, n: &Call<'_, Slot>) -> Results {
    let mut elements = n.sequence(0)?.to_vec();
    let added = n.value(1)?;
    let length = elements.len();
    let Some(at) = n.opt_value(2)? else {
        elements.push(added);
        return Ok(vec![Slot::sequence(elements)]);
    };
    let c = &mut im.ctx;
    if let Some(i) = position(c, at, length, length + 1)? {
        elements.insert(i, added);
        return Ok(vec![Slot::sequence(elements)]);
    }
    // Element i is the old one in front of the position, the old one before it behind.
    let at = from_front(c, at, length)?;
    let mut made = Vec::with_capacity(length + 1);
    for i in 0..=length {
        let mut element = added;
        if let Some(&old) = elements.get(i) {
            let here = c.compare_splat(CompareOp::Eq, at, i as f64)?;
            element = choose_value(c, here, element, old, ELEMENT)?;
        }
        if i > 0 {
            let behind = c.compare_splat(CompareOp::Lt, at, i as f64)?;
            element = choose_value(c, behind, elements[i - 1], element, ELEMENT)?;
        }
        made.push(element);
    }
    Ok(vec![Slot::sequence(made)])
}

pub(crate) fn erase(im: &mut Importer<'_>, n: &Call<'_, Slot>) -> Results {
    let mut elements = n.sequence(0)?.to_vec();
    let length = elements.len();
    let last = length.checked_sub(1).ok_or_else(|| invalid("an element of an empty sequence"))?;
    let at = match n.opt_value(1)? {
        None => Some(last),
        Some(at) => position(&mut im.ctx, at, length, length)?,
    };
    if let Some(i) = at {
        elements.remove(i);
        return Ok(vec![Slot::sequence(elements)]);
    }
    let c = &mut im.ctx;
    let at = from_front(c, n.value(1)?, length)?;
    let mut made = Vec::with_capacity(last);
    for i in 0..last {
        let after = c.compare_splat(CompareOp::Le, at, i as f64)?;
        made.push(choose_value(c, after, elements[i + 1], elements[i], ELEMENT)?);
    }
    Ok(vec![Slot::sequence(made)])
}

/// Tensors of equal type under one another, along a new dimension.
pub(crate) fn stack(c: &mut Ctx<'_>, elements: &[Value], at: usize) -> Result<Value, Fail> {
    let lifted: Vec<Value> = elements
        .iter()
        .map(|&v| {
            let mut shape = c.shape(v);
            shape.0.insert(at, 1);
            c.reshape(v, shape)
        })
        .collect::<Result<_, Fail>>()?;
    c.concat(&lifted, at)
}

pub(crate) fn concat(im: &mut Importer<'_>, n: &Call<'_, Slot>) -> Results {
    let elements = n.sequence(0)?;
    let c = &mut im.ctx;
    let first = *elements.first().ok_or_else(|| invalid("a concatenation of an empty sequence"))?;
    if !n.has("axis") {
        return Err(invalid("axis is missing"));
    }
    let fresh = n.flag("new_axis", false)?;
    let at = axis(n.int("axis", 0)?, c.rank(first) + usize::from(fresh))?;
    let joined = if fresh { stack(c, &elements, at)? } else { c.concat(&elements, at)? };
    Ok(vec![Slot::Value(joined)])
}

/// Parts of given sizes, parts of one size of which the last may be smaller, or (without sizes) single elements.
pub(crate) fn split(im: &mut Importer<'_>, n: &Call<'_, Slot>) -> Results {
    let x = n.value(0)?;
    let c = &mut im.ctx;
    let shape = c.shape(x);
    let at = axis(n.int("axis", 0)?, shape.rank())?;
    let extent = shape[at];
    let single = n.opt(1).is_none();
    let sizes: Vec<u64> = match n.opt_value(1)? {
        None => vec![1; usize::try_from(extent).unwrap_or(usize::MAX).min(MAX_PARTS + 1)],
        Some(v) => {
            let scalar = c.rank(v) == 0;
            let given = c.const_ints(v, "the split operand")?;
            let given: Option<Vec<u64>> = given.iter().map(|&s| u64::try_from(s).ok()).collect();
            match given.as_deref() {
                Some(&[each]) if scalar && each > 0 => {
                    let count = extent.div_ceil(each).min(MAX_PARTS as u64 + 1);
                    (0..count).map(|i| each.min(extent - i * each)).collect()
                }
                Some(sizes) if !scalar => sizes.to_vec(),
                _ => return Err(invalid("the split operand is not positive")),
            }
        }
    };
    if sizes.len() > MAX_PARTS {
        return Err(unsupported(format!("a sequence of more than {MAX_PARTS} tensors")));
    }
    if sizes.iter().try_fold(0u64, |sum, &s| sum.checked_add(s)) != Some(extent) {
        return Err(invalid(format!("parts {sizes:?} of a dimension of {extent}")));
    }
    let drop = !n.flag("keepdims", true)? && single;
    let (mut start, mut parts) = (0, Vec::with_capacity(sizes.len()));
    for size in sizes {
        let mut part = c.slice_axis(x, at, start, size)?;
        start += size;
        if drop {
            let mut flat = shape.clone();
            flat.0.remove(at);
            part = c.reshape(part, flat)?;
        }
        parts.push(part);
    }
    Ok(vec![Slot::sequence(parts)])
}

pub(crate) fn optional(_: &mut Importer<'_>, n: &Call<'_, Slot>) -> Results {
    // Of an element that is there the type is known, and no other is asked for.
    n.pass_over(&["type"]);
    Ok(vec![match n.opt(0) {
        Some(element) => Slot::some(element.clone()),
        None => Slot::Optional(None),
    }])
}

pub(crate) fn has_element(im: &mut Importer<'_>, n: &Call<'_, Slot>) -> Results {
    let has = match n.opt(0) {
        None | Some(Slot::Optional(None) | Slot::Absent) => false,
        Some(Slot::Value(_) | Slot::Sequence(_) | Slot::Optional(Some(_)) | Slot::Poisoned) => true,
    };
    let value = im.ctx.splat(ScalarType::Bool, &lacuna_ir::Shape::default(), has.into())?;
    Ok(vec![Slot::Value(value)])
}

pub(crate) fn get_element(_: &mut Importer<'_>, n: &Call<'_, Slot>) -> Results {
    match n.input(0)? {
        Slot::Optional(Some(element)) => Ok(vec![Slot::clone(element)]),
        Slot::Optional(None) => Err(invalid("the element of an optional that has none")),
        other @ (Slot::Value(_) | Slot::Sequence(_) | Slot::Absent | Slot::Poisoned) => {
            Ok(vec![other.clone()])
        }
    }
}

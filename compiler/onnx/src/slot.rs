//! What names stand for during import: values of the IR, and lists of them that exist only here.
//!
//! Sequences and optionals have no form in the IR. Their lengths are known at import, so operators on them choose among
//! values, and nothing of them is left.

use std::rc::Rc;

use lacuna_ir::Value;

use crate::call::Call;
use crate::context::{Ctx, invalid};
use crate::diagnostic::Fail;
use crate::proto::GraphProto;

/// What a name stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Slot {
    /// A value.
    Value(Value),
    /// A sequence of tensors.
    Sequence(Rc<[Value]>),
    /// An optional with its element, if it has one.
    Optional(Option<Rc<Slot>>),
    /// An optional operand that the call of a function leaves out.
    Absent,
    /// The result of something that was refused.
    Poisoned,
}

impl Slot {
    /// A sequence.
    pub fn sequence(elements: impl Into<Vec<Value>>) -> Slot {
        Slot::Sequence(elements.into().into())
    }

    /// An optional that holds `element`.
    pub fn some(element: Slot) -> Slot {
        Slot::Optional(Some(Rc::new(element)))
    }

    /// The kind, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Slot::Value(_) => "a tensor",
            Slot::Sequence(_) => "a sequence",
            Slot::Optional(_) => "an optional",
            Slot::Absent => "left out",
            Slot::Poisoned => "the result of a node that was refused",
        }
    }
}

impl<'a> Call<'a, Slot> {
    /// An optional operand.
    pub fn opt(&self, i: usize) -> Option<&Slot> {
        self.operand(i)
    }

    /// A required operand.
    pub fn input(&self, i: usize) -> Result<&Slot, Fail> {
        self.opt(i).ok_or_else(|| invalid(format!("operand {i} is missing")))
    }

    /// An optional operand that must be a tensor.
    pub fn opt_value(&self, i: usize) -> Result<Option<Value>, Fail> {
        self.opt(i).map(|slot| tensor(i, slot)).transpose()
    }

    /// The call of an operator whose operands are all tensors.
    pub fn of_values(&self) -> Result<Call<'a>, Fail> {
        let value = |i| self.unread_operand(i).map(|slot| tensor(i, slot)).transpose();
        let values: Result<Vec<Option<Value>>, Fail> = (0..self.n_operands()).map(value).collect();
        Ok(self.with(values?))
    }

    /// A required operand that must be a tensor.
    pub fn value(&self, i: usize) -> Result<Value, Fail> {
        self.opt_value(i)?.ok_or_else(|| invalid(format!("operand {i} is missing")))
    }

    /// A required operand that must be a sequence.
    pub fn sequence(&self, i: usize) -> Result<Rc<[Value]>, Fail> {
        match self.input(i)? {
            Slot::Sequence(elements) => Ok(Rc::clone(elements)),
            other => Err(invalid(format!("operand {i} is {}, not a sequence", other.kind()))),
        }
    }

    /// A subgraph that the operator cannot be without.
    pub fn body(&self, name: &str) -> Result<&'a GraphProto, Fail> {
        self.graph(name)?.ok_or_else(|| invalid(format!("attribute `{name}` is missing")))
    }
}

/// The tensor that operand `i` must be.
fn tensor(i: usize, slot: &Slot) -> Result<Value, Fail> {
    match slot {
        Slot::Value(value) => Ok(*value),
        other => Err(invalid(format!("operand {i} is {}, not a tensor", other.kind()))),
    }
}

/// `yes` where a condition that is computed at run time holds, else `no`.
///
/// # Errors
/// When the two differ in what is fixed at import: shapes, lengths, presence. `what` says what they are.
pub(crate) fn choose(
    c: &mut Ctx<'_>,
    condition: Value,
    yes: &Slot,
    no: &Slot,
    what: &str,
) -> Result<Slot, Fail> {
    if yes == no {
        return Ok(yes.clone());
    }
    match (yes, no) {
        (Slot::Poisoned, _) | (_, Slot::Poisoned) => Ok(Slot::Poisoned),
        (Slot::Value(yes), Slot::Value(no)) => choose_value(c, condition, *yes, *no, what).map(Slot::Value),
        (Slot::Sequence(yes), Slot::Sequence(no)) if yes.len() == no.len() => {
            let pairs = yes.iter().zip(no.iter());
            let chosen: Result<Vec<Value>, Fail> =
                pairs.map(|(&yes, &no)| choose_value(c, condition, yes, no, what)).collect();
            chosen.map(Slot::sequence)
        }
        (Slot::Sequence(yes), Slot::Sequence(no)) => {
            Err(depends(c, condition, what, &format!("sequences of {} and {} tensors", yes.len(), no.len())))
        }
        (Slot::Optional(Some(yes)), Slot::Optional(Some(no))) => {
            choose(c, condition, yes, no, what).map(Slot::some)
        }
        _ => Err(depends(c, condition, what, &format!("{} and {}", shown(yes), shown(no)))),
    }
}

fn shown(slot: &Slot) -> &'static str {
    match slot {
        Slot::Optional(None) => "an optional without element",
        Slot::Optional(Some(_)) => "an optional with an element",
        Slot::Value(_) | Slot::Sequence(_) | Slot::Absent | Slot::Poisoned => slot.kind(),
    }
}

/// [`choose`] of tensors.
pub(crate) fn choose_value(
    c: &mut Ctx<'_>,
    condition: Value,
    yes: Value,
    no: Value,
    what: &str,
) -> Result<Value, Fail> {
    if yes == no {
        return Ok(yes);
    }
    if c.b.ty(yes) != c.b.ty(no) {
        let types = format!("{} and {}", c.b.ty(yes), c.b.ty(no));
        return Err(depends(c, condition, what, &types));
    }
    c.select(condition, yes, no)
}

/// The failure of a condition that determines a shape.
fn depends(c: &Ctx<'_>, condition: Value, what: &str, kinds: &str) -> Fail {
    let mut fail = c.not_constant(condition, "the condition");
    fail.reason += &format!("; it decides the type of {what}: {kinds}");
    fail
}

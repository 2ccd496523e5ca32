//! The e-graph's language: applications of the IR's operators, with attributes interned.

use std::fmt;

use egg::{Id, Language};
use indexmap::IndexSet;
use lacuna_ir::Op;

/// An entry of the table of operators with their attributes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct OpId(u32);

/// The operators that occur, in the order of their first use.
#[derive(Clone, Debug, Default)]
pub struct OpTable(IndexSet<Op>);

impl OpTable {
    /// The entry of an operator, made if there is none.
    pub fn intern(&mut self, op: Op) -> OpId {
        OpId(self.0.insert_full(op).0 as u32)
    }
}

impl std::ops::Index<OpId> for OpTable {
    type Output = Op;

    fn index(&self, id: OpId) -> &Op {
        &self.0[id.0 as usize]
    }
}

/// What patterns tell terms apart by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// A parameter of the function.
    Param,
    /// One result of a call.
    Result,
    /// An operator: the function's name for `unary` and `binary`, else the operator's.
    Op(&'static str),
}

impl Kind {
    /// The kind of an operator.
    pub fn of(op: &Op) -> Kind {
        Kind::Op(match op {
            Op::Unary { op } => op.name(),
            Op::Binary { op } => op.name(),
            other => other.name(),
        })
    }
}

/// A term over e-classes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Term {
    /// A parameter of the function, by number.
    Param(u32),
    /// An operator on operands.
    Apply(Kind, OpId, Box<[Id]>),
    /// Result number of a call.
    Result(u32, [Id; 1]),
}

impl Term {
    /// The operator's entry; `None` for parameters and results of calls.
    pub fn op(&self) -> Option<OpId> {
        match self {
            Term::Apply(_, op, _) => Some(*op),
            Term::Param(_) | Term::Result(..) => None,
        }
    }
}

impl Language for Term {
    type Discriminant = Kind;

    fn discriminant(&self) -> Kind {
        match self {
            Term::Param(_) => Kind::Param,
            Term::Apply(kind, ..) => *kind,
            Term::Result(..) => Kind::Result,
        }
    }

    fn matches(&self, other: &Term) -> bool {
        match (self, other) {
            (Term::Param(a), Term::Param(b)) => a == b,
            (Term::Apply(_, a, xs), Term::Apply(_, b, ys)) => a == b && xs.len() == ys.len(),
            (Term::Result(a, _), Term::Result(b, _)) => a == b,
            (Term::Param(_) | Term::Apply(..) | Term::Result(..), _) => false,
        }
    }

    fn children(&self) -> &[Id] {
        match self {
            Term::Param(_) => &[],
            Term::Apply(_, _, args) => args,
            Term::Result(_, call) => call,
        }
    }

    fn children_mut(&mut self) -> &mut [Id] {
        match self {
            Term::Param(_) => &mut [],
            Term::Apply(_, _, args) => args,
            Term::Result(_, call) => call,
        }
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Term::Param(n) => write!(f, "param{n}"),
            Term::Apply(Kind::Op(name), ..) => f.write_str(name),
            Term::Apply(kind, ..) => write!(f, "{kind:?}"),
            Term::Result(n, _) => write!(f, "result{n}"),
        }
    }
}

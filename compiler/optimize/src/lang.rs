//! The e-graph's language: applications of the IR's operators, with attributes interned.

use std::fmt;

use egg::{Id, Language};
use indexmap::IndexSet;
use lacuna_ir::Op;

/// An entry of the table of operators with their attributes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct OpId(u32);

impl OpId {
    /// Its place in the table.
    pub fn number(self) -> u64 {
        u64::from(self.0)
    }
}

/// The operators that occur, in the order of their first use, with hashes that break ties.
#[derive(Clone, Debug, Default)]
pub struct OpTable {
    ops: IndexSet<Op>,
    hashes: Vec<u64>,
}

impl OpTable {
    /// The entry of an operator, made if there is none.
    pub fn intern(&mut self, op: Op) -> OpId {
        if let Some(known) = self.ops.get_index_of(&op) {
            return OpId(known as u32);
        }
        let mut hasher = Fnv::default();
        hasher.bytes(format!("{op:?}").as_bytes());
        self.hashes.push(hasher.0);
        OpId(self.ops.insert_full(op).0 as u32)
    }

    /// A hash of what the entry says.
    pub fn hash(&self, id: OpId) -> u64 {
        self.hashes[id.0 as usize]
    }
}

/// A 64-bit FNV-1a hash: the standard library does not promise its own from one version to the next.
pub struct Fnv(pub u64);

impl Default for Fnv {
    fn default() -> Fnv {
        Fnv(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    /// Adds bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.0 = (self.0 ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// Adds a number.
    pub fn number(&mut self, n: u64) {
        self.bytes(&n.to_le_bytes());
    }
}

impl std::ops::Index<OpId> for OpTable {
    type Output = Op;

    fn index(&self, id: OpId) -> &Op {
        &self.ops[id.0 as usize]
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

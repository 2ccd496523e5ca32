//! The e-graph with its provenance, and constructors that keep terms in canonical form.
//!
//! Canonical form: the constant operand of a commutative operator is the second; movement that moves nothing is
//! never built; arithmetic on constants that repeat one element is done at once.

use std::cell::RefCell;

use egg::{EGraph, Id};
use indexmap::{IndexMap, IndexSet};
use lacuna_ir::infer::infer;
use lacuna_ir::op::{BinaryOp, Dims, UnaryOp};
use lacuna_ir::{Constant, ConstantData, Module, Op, OriginId, Shape, TensorType};
use lacuna_isa::format::ScalarType;

use crate::facts::{Facts, Hint, Tables, code_of};
use crate::lang::{Kind, OpTable, Term};

/// Where a term comes from.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// ONNX nodes, ascending.
    pub origins: Vec<OriginId>,
    /// Rule applications that built it, ascending; empty for terms of the input.
    pub applications: Vec<u32>,
}

impl Source {
    /// Adds another source.
    pub fn join(&mut self, other: &Source) {
        self.origins.extend(&other.origins);
        self.origins.sort_unstable();
        self.origins.dedup();
        self.applications.extend(&other.applications);
        self.applications.sort_unstable();
        self.applications.dedup();
    }
}

/// The e-graph, its tables and the provenance of its terms.
pub struct Graph {
    /// The e-graph.
    pub eg: EGraph<Term, Tables>,
    /// Provenance by term, in canonical form as of the last [`Graph::rebuild`].
    pub sources: IndexMap<Term, Source>,
    /// Given to each term that is made.
    pub source: Source,
    /// Whether conversions have kernels of their own: one joins its operand's only where nobody else reads that, which no
    /// cost of a term can tell.
    pub converts_apart: bool,
    /// What constant masks of attention are, by class.
    pub bands: IndexMap<Id, Option<Band>>,
    made: IndexSet<Term>,
    vanished: Vec<Vanished>,
}

/// A term that became equal to one that was there already.
#[derive(Clone, Debug)]
struct Vanished {
    class: Id,
    term: Term,
    source: Source,
}

impl Graph {
    /// An empty graph for a function with the given parameters.
    pub fn new(module: Module, params: Vec<TensorType>, hints: Vec<Hint>) -> Graph {
        let tables = Tables {
            module,
            ops: OpTable::default(),
            params,
            hints,
            error: None,
            splats: IndexMap::default(),
            made: IndexMap::default(),
            extents: RefCell::default(),
            scans: RefCell::default(),
        };
        Graph {
            eg: EGraph::new(tables),
            sources: IndexMap::default(),
            source: Source::default(),
            converts_apart: false,
            bands: IndexMap::default(),
            made: IndexSet::default(),
            vanished: Vec::new(),
        }
    }

    /// Restores congruence and canonical provenance after unions.
    pub fn rebuild(&mut self) {
        self.eg.rebuild();
        self.made.clear();
        let mut sources: IndexMap<Term, Source> = IndexMap::with_capacity(self.sources.len());
        for (term, source) in std::mem::take(&mut self.sources) {
            let canonical = egg::Language::map_children(term, |id| self.eg.find(id));
            sources.entry(canonical).or_default().join(&source);
        }
        self.sources = sources;
    }

    /// Records that `term` of `class` was found equal to something known: whatever computes the class in its place
    /// also does what `term` did.
    pub fn vanish(&mut self, class: Id, term: Term, source: Source) {
        self.vanished.push(Vanished { class, term, source });
    }

    /// For each class, the sources of terms that were found equal to something known, apart from those of the term
    /// that `chosen` names for the class.
    pub fn vanished(&self, chosen: impl Fn(Id) -> Option<Term>) -> IndexMap<Id, Source> {
        let mut by_class: IndexMap<Id, Source> = IndexMap::new();
        for v in &self.vanished {
            let class = self.eg.find(v.class);
            let term = egg::Language::map_children(v.term.clone(), |id| self.eg.find(id));
            if chosen(class).is_some_and(|c| c != term) {
                by_class.entry(class).or_default().join(&v.source);
            }
        }
        by_class
    }

    /// Facts about a class.
    pub fn facts(&self, id: Id) -> &Facts {
        &self.eg[id].data
    }

    /// Type of a class that is no call.
    pub fn ty(&self, id: Id) -> &TensorType {
        &self.eg[id].data.types[0]
    }

    /// Shape of a class that is no call.
    pub fn shape(&self, id: Id) -> &Shape {
        &self.ty(id).shape
    }

    /// Scalar element type; `None` where grouped.
    pub fn elem(&self, id: Id) -> Option<ScalarType> {
        self.ty(id).elem.scalar()
    }

    /// Whether the elements are floating-point numbers on their own.
    pub fn is_float(&self, id: Id) -> bool {
        self.elem(id).is_some_and(ScalarType::is_float)
    }

    /// Whether a class depends on no parameter.
    pub fn is_const(&self, id: Id) -> bool {
        self.eg[id].data.constant
    }

    /// Whether every element is known to be zero, of either sign.
    pub fn is_zero(&self, id: Id) -> bool {
        self.facts(id).zeros.all
    }

    /// The number that a class repeats, if known.
    pub fn splat(&self, id: Id) -> Option<f64> {
        self.eg[id].data.splat.map(|v| v.0)
    }

    /// The operator of a term.
    pub fn op(&self, term: &Term) -> Option<&Op> {
        term.op().map(|id| &self.eg.analysis.ops[id])
    }

    /// The operators that compute a class, with their operands.
    pub fn terms(&self, id: Id) -> impl Iterator<Item = (&Op, &[Id])> {
        self.eg[id].nodes.iter().filter_map(|t| Some((self.op(t)?, egg::Language::children(t))))
    }

    /// Adds a term of any kind with the current source.
    pub fn add_term(&mut self, term: Term) -> Id {
        let canonical = egg::Language::map_children(term, |id| self.eg.find(id));
        let known = self.eg.lookup(canonical.clone()).is_some();
        if !known || self.made.contains(&canonical) {
            self.made.insert(canonical.clone());
            let source = self.source.clone();
            self.sources.entry(canonical.clone()).or_default().join(&source);
        }
        self.eg.add(canonical)
    }

    /// An operator on operands; `None` where they do not fit it.
    pub fn add(&mut self, op: Op, args: &[Id]) -> Option<Id> {
        let types: Option<Vec<&TensorType>> = args.iter().map(|&a| self.eg[a].data.types.first()).collect();
        infer(&self.eg.analysis.module, &op, &types?).ok()?;
        let kind = Kind::of(&op);
        let op = self.eg.analysis.ops.intern(op);
        Some(self.add_term(Term::Apply(kind, op, args.into())))
    }

    /// A constant that repeats one number; `None` for types that cannot hold it.
    pub fn splat_const(&mut self, ty: &TensorType, value: f64) -> Option<Id> {
        let code = code_of(ty.elem.scalar()?, value)?;
        let tables = &mut self.eg.analysis;
        let id = match tables.splats.get(&(ty.clone(), code)) {
            Some(&id) => id,
            None => {
                let id =
                    tables.module.constants.push(Constant::new(ty.clone(), ConstantData::Splat(code), ""));
                tables.splats.insert((ty.clone(), code), id);
                id
            }
        };
        self.add(Op::Const { value: id }, &[])
    }

    /// A constant made by a rule; one of equal elements that a rule made before is taken instead.
    pub fn shared_const(&mut self, constant: Constant) -> Option<Id> {
        let tables = &mut self.eg.analysis;
        let key = *constant.hash();
        let id = *tables.made.entry(key).or_insert_with(|| tables.module.constants.push(constant));
        self.add(Op::Const { value: id }, &[])
    }

    /// A function of one operand.
    pub fn unary(&mut self, op: UnaryOp, x: Id) -> Option<Id> {
        if let (Some(v), Some(ScalarType::F32), true) = (self.splat(x), self.elem(x), self.is_const(x)) {
            let recip = Some(f64::from(1.0 / v as f32)).filter(|_| op == UnaryOp::Recip && v != 0.0);
            if let Some(value) = Some(-v).filter(|_| op == UnaryOp::Neg).or(recip) {
                let ty = self.ty(x).clone();
                return self.splat_const(&ty, value);
            }
        }
        self.add(Op::Unary { op }, &[x])
    }

    /// A function of two operands, constants second where it commutes.
    pub fn binary(&mut self, op: BinaryOp, a: Id, b: Id) -> Option<Id> {
        let (a, b) = if commutes(op) && self.is_const(a) && !self.is_const(b) { (b, a) } else { (a, b) };
        if let (Some(x), Some(y), Some(ScalarType::F32)) = (self.splat(a), self.splat(b), self.elem(a)) {
            let (x, y) = (x as f32, y as f32);
            let value = match op {
                BinaryOp::Add => Some(x + y),
                BinaryOp::Sub => Some(x - y),
                BinaryOp::Mul => Some(x * y),
                BinaryOp::Div => Some(x / y),
                BinaryOp::Mod | BinaryOp::Rem | BinaryOp::Pow | BinaryOp::Min | BinaryOp::Max => None,
                BinaryOp::And | BinaryOp::Or | BinaryOp::Xor | BinaryOp::Shl | BinaryOp::Shr => None,
            };
            if let Some(value) = value.filter(|v| v.is_finite()) {
                let ty = self.ty(a).clone();
                return self.splat_const(&ty, f64::from(value));
            }
        }
        self.add(Op::Binary { op }, &[a, b])
    }

    /// The same elements under another shape.
    pub fn reshape(&mut self, x: Id, shape: impl Into<Shape>) -> Option<Id> {
        let shape = shape.into();
        if *self.shape(x) == shape { Some(x) } else { self.add(Op::Reshape { shape }, &[x]) }
    }

    /// Dimensions in another order.
    pub fn permute(&mut self, x: Id, perm: &[u8]) -> Option<Id> {
        let same =
            perm.len() == self.shape(x).rank() && perm.iter().enumerate().all(|(i, &p)| i == p as usize);
        if same { Some(x) } else { self.add(Op::Permute { perm: perm.to_vec() }, &[x]) }
    }

    /// Dimension `i` of `x` as dimension `dims[i]` of `shape`, which repeats along the others.
    pub fn broadcast(&mut self, x: Id, dims: &[u8], shape: &Shape) -> Option<Id> {
        if *self.shape(x) == *shape && dims.len() == shape.rank() {
            return Some(x);
        }
        if let Some(value) = self.splat(x).filter(|_| self.is_const(x)) {
            let ty = TensorType { elem: self.ty(x).elem, shape: shape.clone() };
            if let Some(id) = self.splat_const(&ty, value) {
                return Some(id);
            }
        }
        self.add(Op::Broadcast { dims: dims.to_vec(), shape: shape.clone() }, &[x])
    }

    /// Elements at regular distances; the step of a dimension with one element is 1.
    pub fn slice(&mut self, x: Id, starts: Vec<i64>, shape: Shape, mut steps: Vec<i64>) -> Option<Id> {
        for (step, &n) in steps.iter_mut().zip(shape.iter()) {
            if n <= 1 {
                *step = 1;
            }
        }
        let all = shape == *self.shape(x) && starts.iter().all(|&s| s == 0) && steps.iter().all(|&s| s == 1);
        if all { Some(x) } else { self.add(Op::Slice { starts, shape, steps }, &[x]) }
    }

    /// Shape without some dimensions.
    pub fn drop_dims(&mut self, x: Id, drop: impl Fn(usize) -> bool) -> Option<Id> {
        let shape: Shape =
            self.shape(x).iter().enumerate().filter(|&(d, _)| !drop(d)).map(|(_, &n)| n).collect();
        self.reshape(x, shape)
    }
}

/// Whether operands may change places.
pub fn commutes(op: BinaryOp) -> bool {
    match op {
        BinaryOp::Add | BinaryOp::Mul | BinaryOp::Min | BinaryOp::Max => true,
        BinaryOp::And | BinaryOp::Or | BinaryOp::Xor => true,
        BinaryOp::Sub | BinaryOp::Div | BinaryOp::Mod | BinaryOp::Rem => false,
        BinaryOp::Pow | BinaryOp::Shl | BinaryOp::Shr => false,
    }
}

/// The permutation that undoes `perm`.
pub fn inverse(perm: &[u8]) -> Dims {
    let mut inverse = vec![0; perm.len()];
    for (i, &p) in perm.iter().enumerate() {
        inverse[p as usize] = i as u8;
    }
    inverse
}

/// A mask that positions alone describe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Band {
    /// Position of the first query among the keys, if keys behind a query's position are rejected; else all are kept.
    pub causal: Option<i64>,
    /// Number of keys up to a query's position that are kept, or 0 for all.
    pub window: u64,
    /// Whether rejected keys can have no weight, be the row otherwise empty.
    pub rejects: bool,
}

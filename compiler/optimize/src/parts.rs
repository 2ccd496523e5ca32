//! Attention in parts: from the product with the values back through the softmax to the product of queries and keys.
//!
//! Dimensions may be merged, split and permuted on the way. Each is therefore a list of *atoms*, outermost first; an atom
//! is split in two where a reshape cuts it. At the end every atom belongs to a batch or group of keys (it occurs in
//! queries, keys and values), to the rows (in queries only) or to the keys (in keys and values).

use egg::Id;
use lacuna_ir::op::{BinaryOp, ContractMap, Dims, EmptyRow, Real, UnaryOp};
use lacuna_ir::{Op, Shape};
use lacuna_isa::format::ScalarType;

use crate::graph::Graph;
use crate::masks::{LOW, PLAIN, every_row_exceeds};
use crate::module::is_binary;
use crate::views::compact;

/// Classes that a search visits before it gives up.
const MAX_VISITS: usize = 200;

/// A list of atoms, outermost first.
type Axis = Vec<usize>;

/// The atoms: sizes, and what split ones became.
#[derive(Clone, Default, Debug)]
struct Atoms {
    sizes: Vec<u64>,
    halves: Vec<Option<(usize, usize)>>,
}

impl Atoms {
    fn add(&mut self, size: u64) -> usize {
        self.sizes.push(size);
        self.halves.push(None);
        self.sizes.len() - 1
    }

    fn of_shape(&mut self, shape: &Shape) -> Vec<Axis> {
        shape.iter().map(|&n| if n == 1 { Vec::new() } else { vec![self.add(n)] }).collect()
    }

    /// What the atoms of a list are made of now.
    fn resolve(&self, axis: &[usize]) -> Axis {
        axis.iter()
            .flat_map(|&a| match self.halves[a] {
                Some((outer, inner)) => self.resolve(&[outer, inner]),
                None => vec![a],
            })
            .collect()
    }

    fn size(&self, axis: &[usize]) -> u64 {
        self.resolve(axis).iter().map(|&a| self.sizes[a]).product()
    }

    /// The dimensions `dims` in row-major order as those of another shape.
    fn reshape(&mut self, dims: &[Axis], shape: &Shape) -> Option<Vec<Axis>> {
        let mut left: Vec<usize> = dims.iter().flat_map(|d| self.resolve(d)).rev().collect();
        let mut result = Vec::new();
        for &n in shape.iter() {
            let (mut axis, mut size) = (Axis::new(), 1);
            while size < n {
                let atom = left.pop()?;
                let whole = self.sizes[atom];
                let want = (n % size == 0).then_some(n / size)?;
                if whole <= want {
                    axis.push(atom);
                    size *= whole;
                } else {
                    whole.is_multiple_of(want).then_some(())?;
                    let (outer, inner) = (self.add(want), self.add(whole / want));
                    self.halves[atom] = Some((outer, inner));
                    axis.push(outer);
                    left.push(inner);
                    size *= want;
                }
            }
            (size == n).then_some(())?;
            result.push(axis);
        }
        left.is_empty().then_some(result)
    }
}

/// The softmax behind a value.
pub struct Weights {
    /// Its operand.
    pub scores: Id,
    /// Atoms of the operand's dimensions.
    pub dims: Vec<Axis>,
    atoms: Atoms,
    /// Atoms of the value's own dimensions.
    outer: Vec<Axis>,
    axis: usize,
    guarded: bool,
}

/// The softmax that `id` is, seen through movement and a guard against NaN.
pub fn weights(g: &Graph, id: Id) -> Option<Weights> {
    let mut atoms = Atoms::default();
    let outer = atoms.of_shape(g.shape(id));
    let mut todo = vec![(g.eg.find(id), outer.clone(), atoms, false)];
    let mut seen: Vec<Id> = Vec::new();
    while let Some((class, dims, atoms, guarded)) = todo.pop() {
        if seen.contains(&class) || seen.len() > MAX_VISITS {
            continue;
        }
        seen.push(class);
        for (op, args) in g.terms(class) {
            if let Op::Softmax { axis, log: false } = op {
                let scores = g.eg.find(args[0]);
                return Some(Weights { scores, dims, atoms, outer, axis: usize::from(*axis), guarded });
            }
            if let Some(kept) = nan_guard(g, op, args) {
                todo.push((kept, dims.clone(), atoms.clone(), true));
            }
            let mut atoms = atoms.clone();
            if let Some((inner, dims)) = moved(g, &mut atoms, &dims, op, args) {
                todo.push((inner, dims, atoms, guarded));
            }
        }
    }
    None
}

/// The value that `select(isnan(x), 0, x)` guards, in any of its spellings.
fn nan_guard(g: &Graph, op: &Op, args: &[Id]) -> Option<Id> {
    let (Op::Select {}, &[c, a, b]) = (op, args) else { return None };
    let x = g.eg.find(b);
    let tests = g
        .terms(c)
        .any(|(op, args)| *op == Op::Unary { op: UnaryOp::IsNan } && args.iter().all(|&a| g.eg.find(a) == x));
    (tests && g.is_zero(a)).then_some(x)
}

/// The operand of a movement that keeps every element, with the atoms of its dimensions.
fn moved(g: &Graph, atoms: &mut Atoms, dims: &[Axis], op: &Op, args: &[Id]) -> Option<(Id, Vec<Axis>)> {
    let x = g.eg.find(*args.first()?);
    if let Op::Permute { perm } = op {
        let mut inner = vec![Axis::new(); dims.len()];
        for (d, &p) in perm.iter().enumerate() {
            inner[usize::from(p)].clone_from(&dims[d]);
        }
        return Some((x, inner));
    }
    let plain = match op {
        Op::Reshape { .. } => true,
        Op::Broadcast { shape, .. } => g.shape(x).elements() == shape.elements(),
        _ => false,
    };
    let inner = plain.then(|| atoms.reshape(dims, g.shape(x)))??;
    Some((x, inner))
}

/// A mask on the way: the class, the atoms of its dimensions, and how it acts.
#[derive(Clone, Debug)]
pub struct Mask {
    class: Id,
    dims: Vec<Axis>,
    how: How,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum How {
    /// Added to the scores.
    Added,
    /// Scores where it is false become this number.
    Kept(f64),
    /// Scores where it is true become this number.
    Replaced(f64),
}

/// The product of queries and keys behind scores.
pub struct Product {
    map: ContractMap,
    a: Id,
    b: Id,
    /// Atoms of the product's dimensions.
    dims: Vec<Axis>,
    atoms: Atoms,
    scale: f64,
    softcap: f64,
    /// What masks the scores.
    pub masks: Vec<Mask>,
}

/// A product that `scores` are made of, with dimensions of their own.
pub fn product(g: &Graph, scores: Id) -> Option<Product> {
    let mut atoms = Atoms::default();
    let dims = atoms.of_shape(g.shape(scores));
    products_behind(g, scores, dims, atoms).into_iter().next()
}

#[derive(Clone)]
struct State {
    class: Id,
    dims: Vec<Axis>,
    atoms: Atoms,
    /// Factor of the scores since the last cap.
    factor: f64,
    softcap: f64,
    masks: Vec<Mask>,
}

/// The products that scores are made of: one product has several forms, with keys repeated or not.
fn products_behind(g: &Graph, scores: Id, dims: Vec<Axis>, atoms: Atoms) -> Vec<Product> {
    let mut found = Vec::new();
    let start = State { class: g.eg.find(scores), dims, atoms, factor: 1.0, softcap: 0.0, masks: Vec::new() };
    let mut todo = vec![start];
    let mut seen: Vec<Id> = Vec::new();
    while let Some(state) = todo.pop() {
        if seen.contains(&state.class) || seen.len() > MAX_VISITS {
            continue;
        }
        seen.push(state.class);
        for (op, args) in g.terms(state.class) {
            if let Op::Contract { map, elem: ScalarType::F32 } = op {
                let (a, b) = (g.eg.find(args[0]), g.eg.find(args[1]));
                let State { dims, atoms, factor, softcap, masks, .. } = state.clone();
                found.push(Product { map: map.clone(), a, b, dims, atoms, scale: factor, softcap, masks });
                continue;
            }
            todo.extend(behind(g, &state, op, args));
        }
    }
    found
}

/// One step from scores towards their product.
fn behind(g: &Graph, state: &State, op: &Op, args: &[Id]) -> Vec<State> {
    let to = |class: Id| State { class: g.eg.find(class), ..state.clone() };
    let masked = |class: Id, mask: Id, how: How| {
        let mut next = to(class);
        next.masks.push(Mask { class: mask, dims: state.dims.clone(), how });
        next
    };
    let mut atoms = state.atoms.clone();
    if let Some((class, dims)) = moved(g, &mut atoms, &state.dims, op, args) {
        return vec![State { dims, atoms, ..to(class) }];
    }
    let scaled = |class: Id, by: f64| {
        let mut next = to(class);
        next.factor *= by;
        (by.is_finite() && by > 0.0).then_some(next)
    };
    if is_binary(op, BinaryOp::Mul) {
        let by = |i: usize| scaled(args[1 - i], g.splat(args[i])?);
        return [by(1), by(0)].into_iter().flatten().take(1).collect();
    }
    if is_binary(op, BinaryOp::Div) {
        return g.splat(args[1]).and_then(|by| scaled(args[0], 1.0 / by)).into_iter().collect();
    }
    if *op == (Op::Unary { op: UnaryOp::Tanh }) && state.softcap == 0.0 {
        return vec![State { softcap: state.factor, factor: 1.0, ..to(args[0]) }];
    }
    // Below a cap or a factor, masks would be bent or scaled with the scores.
    if state.softcap > 0.0 || state.factor != 1.0 {
        return Vec::new();
    }
    if is_binary(op, BinaryOp::Add) {
        return vec![masked(args[1], args[0], How::Added), masked(args[0], args[1], How::Added)];
    }
    if let (Op::Select {}, &[c, a, b]) = (op, args) {
        let low = |id: Id| g.splat(id).filter(|&v| v <= LOW);
        let kept = low(b).map(|v| masked(a, c, How::Kept(v)));
        let replaced = low(a).map(|v| masked(b, c, How::Replaced(v)));
        return kept.or(replaced).into_iter().collect();
    }
    Vec::new()
}

/// The parts of an attention.
pub struct Found {
    q: Id,
    k: Id,
    v: Id,
    /// Atoms or own extents of their dimensions, and of the result's.
    q_dims: Vec<Side>,
    k_dims: Vec<Side>,
    v_dims: Vec<Side>,
    out: Vec<Side>,
    atoms: Atoms,
    masks: Vec<Mask>,
    scale: f64,
    softcap: f64,
    guarded: bool,
    /// Atoms of batches and groups, of rows, and of keys.
    shared: Axis,
    rows: Axis,
    keys: Axis,
}

/// What a dimension of an operand is.
#[derive(Clone, PartialEq, Debug)]
enum Side {
    Atoms(Axis),
    /// A label of one operand or product alone, and its size.
    Own(u8, u64),
}

fn sides(g: &Graph, id: Id, labels: &[u8], known: &dyn Fn(u8) -> Option<Axis>) -> Vec<Side> {
    let of = |(&label, &n): (&u8, &u64)| known(label).map_or(Side::Own(label, n), Side::Atoms);
    labels.iter().zip(g.shape(id).iter()).map(of).collect()
}

fn own(sides: &[Side]) -> Vec<u8> {
    let label = |s: &Side| match s {
        Side::Own(label, _) => Some(*label),
        Side::Atoms(_) => None,
    };
    sides.iter().filter_map(label).collect()
}

/// The attention that the product of `p` and `v` by `map` ends.
pub fn find(g: &Graph, map: &ContractMap, p: Id, v: Id) -> Option<Found> {
    let weights = weights(g, p)?;
    let all = products_behind(g, weights.scores, weights.dims.clone(), weights.atoms.clone());
    all.into_iter().find_map(|product| joined(g, map, &weights, product, v))
}

fn joined(g: &Graph, map: &ContractMap, weights: &Weights, found: Product, v: Id) -> Option<Found> {
    let outer = weights.outer.clone();
    let atoms = found.atoms;
    let at = |labels: &[u8], dims: &[Axis], label: u8| {
        labels.iter().position(|&l| l == label).map(|d| atoms.resolve(&dims[d]))
    };
    let of_weights = |label: u8| at(&map.a, &outer, label);
    let v_dims = sides(g, v, &map.b, &of_weights);
    let out_shape: Vec<Side> = map
        .out
        .iter()
        .map(|&label| match of_weights(label) {
            Some(axis) => Side::Atoms(axis),
            None => {
                let d = map.b.iter().position(|&l| l == label).unwrap_or(0);
                Side::Own(label, g.shape(v)[d])
            }
        })
        .collect();
    let of_product = |label: u8| at(&found.map.out, &found.dims, label);
    let (mut q, mut k) = (found.a, found.b);
    let mut q_dims = sides(g, q, &found.map.a, &of_product);
    let mut k_dims = sides(g, k, &found.map.b, &of_product);
    let keys = atoms.resolve(&weights.dims[weights.axis]);
    let all = |dims: &[Side]| -> Axis {
        let list = |s: &Side| match s {
            Side::Atoms(axis) => axis.clone(),
            Side::Own(..) => Vec::new(),
        };
        dims.iter().flat_map(list).collect()
    };
    if keys.iter().any(|a| all(&q_dims).contains(a)) {
        std::mem::swap(&mut q, &mut k);
        std::mem::swap(&mut q_dims, &mut k_dims);
    }
    let (in_q, in_k, in_v) = (all(&q_dims), all(&k_dims), all(&v_dims));
    // Weights are summed over the keys and nothing else.
    let mut summed: Axis = map.summed().into_iter().filter_map(of_weights).flatten().collect();
    let mut sorted = keys.clone();
    summed.sort_unstable();
    sorted.sort_unstable();
    (summed == sorted).then_some(())?;
    let order: Axis = outer.iter().flat_map(|d| atoms.resolve(d)).collect();
    let shared: Axis = order.iter().copied().filter(|a| in_k.contains(a) && !keys.contains(a)).collect();
    let rows: Axis = order.iter().copied().filter(|a| !in_k.contains(a) && !keys.contains(a)).collect();
    let fits = order.iter().all(|a| {
        let (key, of_keys) = (keys.contains(a), shared.contains(a));
        in_q.contains(a) != key
            && in_k.contains(a) == (key || of_keys)
            && in_v.contains(a) == (key || of_keys)
    });
    // Both sum over the same labels, and only values have more.
    let mut labels = (own(&q_dims), own(&k_dims));
    labels.0.sort_unstable();
    labels.1.sort_unstable();
    (fits && labels.0 == labels.1).then_some(())?;
    let masks = found.masks;
    Some(Found {
        q,
        k,
        v: g.eg.find(v),
        q_dims,
        k_dims,
        v_dims,
        out: out_shape,
        atoms,
        masks,
        scale: found.scale,
        softcap: found.softcap,
        guarded: weights.guarded,
        shared,
        rows,
        keys,
    })
}

impl Found {
    /// Classes where the parts begin.
    pub fn ends(&self) -> [Id; 3] {
        [self.q, self.k, self.v]
    }

    fn size(&self, axis: &[usize]) -> u64 {
        self.atoms.size(axis)
    }

    /// Atoms of the batch and of the groups.
    fn batch(&self) -> (&[usize], &[usize]) {
        self.shared.split_at(self.shared.len().saturating_sub(1))
    }

    /// Atoms of the heads that share a group, and of the queries.
    fn heads(&self) -> (&[usize], &[usize]) {
        self.rows.split_at(self.rows.len().saturating_sub(1))
    }

    /// The operator in place of the parts.
    pub fn build(&self, g: &mut Graph, root: Id) -> Option<Id> {
        let (batch, groups) = self.batch();
        let (share, queries) = self.heads();
        let (batch_size, group_size) = (self.size(batch), self.size(groups));
        let heads = group_size * self.size(share);
        let (length, keys) = (self.size(queries), self.size(&self.keys));
        let (q, q_scale) = unscaled(g, self.q);
        let (k, k_scale) = unscaled(g, self.k);
        let scale = self.scale * q_scale * k_scale;
        let labels = own(&self.q_dims);
        let size: u64 = self.q_dims.iter().map(|s| if let Side::Own(_, n) = s { *n } else { 1 }).product();
        let width: u64 = self.v_dims.iter().map(|s| if let Side::Own(_, n) = s { *n } else { 1 }).product();
        let q_order = [&self.shared[..], &self.rows].concat();
        let k_order = [&self.shared[..], &self.keys].concat();
        let q = self.ordered(g, q, &self.q_dims, &q_order, &labels, [batch_size, heads, length, size])?;
        let k = self.ordered(g, k, &self.k_dims, &k_order, &labels, [batch_size, group_size, keys, size])?;
        let value_labels = own(&self.v_dims);
        let full = [batch_size, group_size, keys, width];
        let v = self.ordered(g, self.v, &self.v_dims, &k_order, &value_labels, full)?;
        let mut args = vec![q, k, v];
        args.extend(self.mask(g, [batch_size, heads, length, keys])?);
        let softcap = self.softcap;
        // The factor below the cap is of scores over the cap.
        let scale = if softcap > 0.0 { scale * softcap } else { scale };
        let empty_row = if self.guarded { EmptyRow::Zero } else { EmptyRow::Nan };
        let a =
            lacuna_ir::expand::Attention { scale: Real(scale), softcap: Real(softcap), empty_row, ..PLAIN };
        let y = g.add(a.op(), &args)?;
        self.result(g, y, &q_order, &value_labels, root)
    }

    /// An operand with its atoms in order and then its own labels, as four dimensions.
    fn ordered(
        &self,
        g: &mut Graph,
        x: Id,
        dims: &[Side],
        order: &[usize],
        labels: &[u8],
        shape: [u64; 4],
    ) -> Option<Id> {
        let flat: Vec<Side> = dims
            .iter()
            .flat_map(|side| match side {
                Side::Atoms(axis) => axis.iter().map(|&a| Side::Atoms(vec![a])).collect(),
                Side::Own(..) => vec![side.clone()],
            })
            .collect();
        let sizes: Shape = flat
            .iter()
            .map(|s| match s {
                Side::Atoms(axis) => self.size(axis),
                Side::Own(_, n) => *n,
            })
            .collect();
        let at = |want: &dyn Fn(&Side) -> bool| flat.iter().position(want).map(|d| d as u8);
        let mut perm = Dims::new();
        for &atom in order {
            perm.push(at(&|s| *s == Side::Atoms(vec![atom]))?);
        }
        for &label in labels {
            perm.push(at(&|s| matches!(s, Side::Own(l, _) if *l == label))?);
        }
        rearranged(g, x, sizes, &perm, shape.to_vec().into())
    }

    /// The result's dimensions in the order and shape of the product that it replaces.
    fn result(&self, g: &mut Graph, y: Id, order: &[usize], labels: &[u8], root: Id) -> Option<Id> {
        let own_size = |label: u8| {
            self.v_dims.iter().find_map(|s| match s {
                Side::Own(l, n) if *l == label => Some(*n),
                Side::Own(..) | Side::Atoms(_) => None,
            })
        };
        let mut sizes: Vec<u64> = order.iter().map(|&a| self.size(&[a])).collect();
        for &label in labels {
            sizes.push(own_size(label)?);
        }
        let mut perm = Dims::new();
        for side in &self.out {
            match side {
                Side::Atoms(axis) => {
                    for atom in axis {
                        perm.push(order.iter().position(|a| a == atom)? as u8);
                    }
                }
                Side::Own(label, _) => {
                    perm.push((order.len() + labels.iter().position(|l| l == label)?) as u8);
                }
            }
        }
        let shape = g.shape(root).clone();
        rearranged(g, y, sizes.into(), &perm, shape)
    }

    /// The masks as one operand `[batch, heads, length, keys]`, each dimension whole or 1.
    ///
    /// A finite number in place of a score is one that is added where it absorbs the score, or where every row has keys that
    /// leave it no weight.
    fn mask(&self, g: &mut Graph, full: [u64; 4]) -> Option<Option<Id>> {
        let (mut kept, mut added) = (None, None);
        // The greatest number that does not absorb scores.
        let mut shallow: Option<f64> = None;
        // From the product outwards: what a number replaces is everything that was added before.
        for mask in self.masks.iter().rev() {
            let four = self.spread(g, mask, full)?;
            let (keep, low) = match mask.how {
                How::Added => {
                    added = Some(self.together(g, BinaryOp::Add, added, four)?);
                    continue;
                }
                How::Kept(low) => (four, low),
                How::Replaced(low) => (g.unary(UnaryOp::Not, four)?, low),
            };
            if low == f64::NEG_INFINITY {
                kept = Some(self.together(g, BinaryOp::And, kept, keep)?);
                continue;
            }
            // Keys that were rejected before would be back.
            kept.is_none().then_some(())?;
            if low > ABSORBS {
                shallow = Some(shallow.map_or(low, |other| other.max(low)));
            }
            added = Some(match added {
                None => self.addend(g, keep, low)?,
                Some(before) => self.replaced(g, keep, before, low)?,
            });
        }
        let whole = match (kept, added) {
            (Some(keep), Some(_)) => {
                let addend = self.addend(g, keep, f64::NEG_INFINITY)?;
                Some(self.together(g, BinaryOp::Add, added, addend)?)
            }
            (kept, added) => kept.or(added),
        };
        if let (Some(low), Some(mask)) = (shallow, whole) {
            every_row_exceeds(g, mask, low / 2.0).then_some(())?;
        }
        Some(whole)
    }

    /// A mask to add with `low` where another keeps nothing.
    fn replaced(&self, g: &mut Graph, keep: Id, mask: Id, low: f64) -> Option<Id> {
        let pairs = g.shape(keep).iter().zip(g.shape(mask).iter());
        let shape: Shape = pairs.map(|(&a, &b)| a.max(b)).collect();
        let dims: Dims = (0..4).collect();
        let (keep, mask) = (g.broadcast(keep, &dims, &shape)?, g.broadcast(mask, &dims, &shape)?);
        let low = g.splat_const(&lacuna_ir::TensorType::new(ScalarType::F32, shape), low)?;
        g.add(Op::Select {}, &[keep, mask, low])
    }

    /// Zero where a mask keeps a key, and `low` elsewhere.
    fn addend(&self, g: &mut Graph, keep: Id, low: f64) -> Option<Id> {
        let ty = lacuna_ir::TensorType::new(ScalarType::F32, g.shape(keep).clone());
        let (zero, low) = (g.splat_const(&ty, 0.0)?, g.splat_const(&ty, low)?);
        g.add(Op::Select {}, &[keep, zero, low])
    }

    /// Two masks in one; each repeats to the other's dimensions.
    fn together(&self, g: &mut Graph, op: BinaryOp, one: Option<Id>, other: Id) -> Option<Id> {
        let Some(one) = one else { return Some(other) };
        let pairs = g.shape(one).iter().zip(g.shape(other).iter());
        let shape: Shape = pairs.map(|(&a, &b)| a.max(b)).collect();
        let dims: Dims = (0..4).collect();
        let (a, b) = (g.broadcast(one, &dims, &shape)?, g.broadcast(other, &dims, &shape)?);
        g.binary(op, a, b)
    }

    fn spread(&self, g: &mut Graph, mask: &Mask, full: [u64; 4]) -> Option<Id> {
        let (core, dims) = compact(g, mask.class)?;
        let present: Axis =
            dims.iter().flat_map(|&d| self.atoms.resolve(&mask.dims[usize::from(d)])).collect();
        let sizes: Shape = present.iter().map(|&a| self.size(&[a])).collect();
        let (batch, groups) = self.batch();
        let (share, queries) = self.heads();
        let heads = [groups, share].concat();
        let mut order = Axis::new();
        let mut four = [1; 4];
        for (d, axis) in [batch, &heads, queries, &self.keys].into_iter().enumerate() {
            if axis.iter().any(|a| present.contains(a)) {
                order.extend(axis);
                four[d] = full[d];
            }
        }
        let place = |a: &usize| present.iter().position(|p| p == a).map(|d| d as u8);
        let perm: Dims = order.iter().filter_map(place).collect();
        (perm.len() == present.len()).then_some(())?;
        let places: Dims =
            (0..order.len()).filter(|&i| present.contains(&order[i])).map(|i| i as u8).collect();
        let whole: Shape = order.iter().map(|&a| self.size(&[a])).collect();
        let core = g.reshape(core, sizes)?;
        let core = g.permute(core, &perm)?;
        let core = g.broadcast(core, &places, &whole)?;
        g.reshape(core, four.to_vec())
    }
}

/// A value reshaped to `sizes`, permuted, and reshaped to `shape`; one reshape where nothing moves.
fn rearranged(g: &mut Graph, x: Id, sizes: Shape, perm: &[u8], shape: Shape) -> Option<Id> {
    let moves = perm.iter().enumerate().any(|(i, &p)| i != usize::from(p));
    let x = if moves {
        let x = g.reshape(x, sizes)?;
        g.permute(x, perm)?
    } else {
        x
    };
    g.reshape(x, shape)
}

/// A number whose sum with a score is itself in f32.
const ABSORBS: f64 = -1e30;

/// A value without the factor that all its elements have, and the factor.
fn unscaled(g: &Graph, id: Id) -> (Id, f64) {
    let (mut id, mut scale) = (g.eg.find(id), 1.0);
    for _ in 0..4 {
        let factor = g.terms(id).find_map(|(op, args)| {
            let by = |i: usize| g.splat(args[i]).filter(|v| v.is_finite() && *v != 0.0);
            if is_binary(op, BinaryOp::Mul) {
                by(1).map(|v| (args[0], v)).or_else(|| by(0).map(|v| (args[1], v)))
            } else if is_binary(op, BinaryOp::Div) {
                by(1).map(|v| (args[0], 1.0 / v))
            } else {
                None
            }
        });
        let Some((inner, by)) = factor.filter(|(inner, _)| g.eg.find(*inner) != id) else { break };
        (id, scale) = (g.eg.find(inner), scale * by);
    }
    (id, scale)
}

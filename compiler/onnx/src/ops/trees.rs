//! Ensembles of decision trees: every row walks all trees at once, one level in each step.

use lacuna_ir::eval::Tensor;
use lacuna_ir::op::{BinaryOp, CompareOp, ReduceOp, UnaryOp};
use lacuna_ir::{Constant, Op, Shape, TensorType, Value};
use lacuna_isa::format::ScalarType;

use crate::call::Call;
use crate::context::{Ctx, invalid, unsupported};
use crate::diagnostic::Fail;
use crate::tensor::decode_tensor;

type Results = Result<Vec<Value>, Fail>;

/// Trees deeper than this are refused.
const MAX_DEPTH: usize = 256;

/// `nodes_modes`: how a value is compared with the split of its node.
mod mode {
    pub const LEQ: i64 = 0;
    pub const LT: i64 = 1;
    pub const GTE: i64 = 2;
    pub const GT: i64 = 3;
    pub const EQ: i64 = 4;
    pub const NEQ: i64 = 5;
    pub const MEMBER: i64 = 6;
}

/// Inner nodes, and behind them the leaves, which lead to themselves.
struct Nodes {
    features: Vec<i64>,
    modes: Vec<i64>,
    splits: Vec<f64>,
    /// Members of each node's set, padded with NaN to the same number.
    sets: Vec<f64>,
    missing: Vec<i64>,
    if_true: Vec<i64>,
    if_false: Vec<i64>,
    weights: Vec<f64>,
    targets: Vec<i64>,
    n_inner: usize,
}

fn numbers(c: &Ctx<'_>, n: &Call<'_>, name: &str) -> Result<Option<Vec<f64>>, Fail> {
    let Some(tensor) = n.tensor(name)? else { return Ok(None) };
    let (_, literal) = decode_tensor(tensor.clone(), c.external).map_err(|d| invalid(d.reason))?;
    let tensor = Tensor::from_bytes(literal.ty, literal.data.bytes()).map_err(|e| invalid(e.to_string()))?;
    Ok(Some(tensor.to_f64().to_vec()))
}

impl Nodes {
    fn read(c: &Ctx<'_>, n: &Call<'_>) -> Result<Nodes, Fail> {
        let ints = |name: &str| Ok::<_, Fail>(n.ints(name)?.unwrap_or_default().to_vec());
        let need = |name: &str| numbers(c, n, name)?.ok_or_else(|| invalid(format!("{name} is missing")));
        let (mut features, mut splits) = (ints("nodes_featureids")?, need("nodes_splits")?);
        let mut modes: Vec<i64> = need("nodes_modes")?.iter().map(|&m| m as i64).collect();
        let (leaf_weights, leaf_targets) = (need("leaf_weights")?, ints("leaf_targetids")?);
        let n_inner = features.len();
        let mut missing = ints("nodes_missing_value_tracks_true")?;
        missing.resize(n_inner, 0);
        let branch = |to: &str, leaf: &str| -> Result<Vec<i64>, Fail> {
            let (to, leaf) = (ints(to)?, ints(leaf)?);
            if to.len() != n_inner || leaf.len() != n_inner {
                return Err(invalid("lists of nodes differ in length"));
            }
            let place = |(&to, &leaf): (&i64, &i64)| {
                let (first, end) = if leaf != 0 { (n_inner, leaf_weights.len()) } else { (0, n_inner) };
                let inside = usize::try_from(to).is_ok_and(|to| to < end);
                inside.then_some(to + first as i64).ok_or_else(|| invalid(format!("there is no node {to}")))
            };
            to.iter().zip(&leaf).map(place).collect()
        };
        let mut if_true = branch("nodes_truenodeids", "nodes_trueleafs")?;
        let mut if_false = branch("nodes_falsenodeids", "nodes_falseleafs")?;
        if modes.len() != n_inner || splits.len() != n_inner || leaf_targets.len() != leaf_weights.len() {
            return Err(invalid("lists of nodes differ in length"));
        }
        let sets = sets(&modes, numbers(c, n, "membership_values")?.unwrap_or_default(), leaf_weights.len())?;
        let (mut weights, mut targets) = (vec![0.0; n_inner], vec![0; n_inner]);
        for (i, (&weight, &target)) in leaf_weights.iter().zip(&leaf_targets).enumerate() {
            features.push(0);
            modes.push(mode::LEQ);
            splits.push(0.0);
            missing.push(0);
            if_true.push((n_inner + i) as i64);
            if_false.push((n_inner + i) as i64);
            weights.push(weight);
            targets.push(target);
        }
        Ok(Nodes { features, modes, splits, sets, missing, if_true, if_false, weights, targets, n_inner })
    }

    /// Steps from the roots to the deepest leaf.
    fn depth(&self, roots: &[i64]) -> Result<usize, Fail> {
        let mut level: Vec<usize> = roots.iter().map(|&r| r as usize).collect();
        for depth in 0..=MAX_DEPTH {
            level.retain(|&node| node < self.n_inner);
            if level.is_empty() {
                return Ok(depth);
            }
            level =
                level.iter().flat_map(|&n| [self.if_true[n] as usize, self.if_false[n] as usize]).collect();
            level.sort_unstable();
            level.dedup();
        }
        Err(unsupported(format!("trees deeper than {MAX_DEPTH}")))
    }
}

/// Members of the sets, which end with NaN each and stand in the order of the nodes that have one.
fn sets(modes: &[i64], members: Vec<f64>, n_leaves: usize) -> Result<Vec<f64>, Fail> {
    let mut given = members.split(|m| m.is_nan());
    let mut each: Vec<&[f64]> = Vec::new();
    for &of in modes {
        each.push(match of {
            mode::MEMBER => given.next().ok_or_else(|| invalid("membership_values has too few sets"))?,
            mode::LEQ..=mode::NEQ => &[],
            other => return Err(invalid(format!("a node has mode {other}"))),
        });
    }
    each.resize(modes.len() + n_leaves, &[]);
    let width = each.iter().map(|set| set.len()).max().unwrap_or(0);
    Ok(each
        .iter()
        .flat_map(|set| set.iter().copied().chain(std::iter::repeat(f64::NAN)).take(width))
        .collect())
}

/// Whether a value `x` takes the branch for true, by the modes that occur.
fn taken(c: &mut Ctx<'_>, nodes: &Nodes, at: &At, x: Value) -> Result<Value, Fail> {
    let split = at.floats(c, &nodes.splits)?;
    let own = at.ints(c, &nodes.modes)?;
    let mut hit: Option<Value> = None;
    for of in mode::LEQ..=mode::MEMBER {
        if !nodes.modes[..nodes.n_inner].contains(&of) {
            continue;
        }
        let holds = match of {
            mode::LEQ => c.compare(CompareOp::Le, x, split)?,
            mode::LT => c.compare(CompareOp::Lt, x, split)?,
            mode::GTE => c.compare(CompareOp::Le, split, x)?,
            mode::GT => c.compare(CompareOp::Lt, split, x)?,
            mode::EQ => c.compare(CompareOp::Eq, x, split)?,
            mode::NEQ => {
                let equal = c.compare(CompareOp::Eq, x, split)?;
                c.unary(UnaryOp::Not, equal)?
            }
            _ => {
                let set = at.rows(c, &nodes.sets, nodes.modes.len())?;
                let shape = c.shape(set);
                let x = c.emit(Op::Broadcast { dims: vec![0, 1], shape }, &[x])?;
                let member = c.compare(CompareOp::Eq, x, set)?;
                c.reduce(ReduceOp::Max, member, &[2], false)?
            }
        };
        hit = Some(match hit {
            None => holds,
            Some(hit) => {
                let is = c.compare_splat(CompareOp::Eq, own, of as f64)?;
                c.select(is, holds, hit)?
            }
        });
    }
    let hit = hit.ok_or_else(|| invalid("a tree has no nodes"))?;
    if nodes.missing.iter().all(|&m| m == 0) {
        return Ok(hit);
    }
    let tracks = at.ints(c, &nodes.missing)?;
    let tracks = c.compare_splat(CompareOp::Lt, tracks, 1.0)?;
    let tracks = c.unary(UnaryOp::Not, tracks)?;
    let absent = c.unary(UnaryOp::IsNan, x)?;
    let absent = c.binary(BinaryOp::And, absent, tracks)?;
    c.binary(BinaryOp::Or, hit, absent)
}

/// Where every row stands in every tree: node numbers `[rows, trees]`, and the type of values.
struct At {
    node: Value,
    elem: ScalarType,
}

impl At {
    fn ints(&self, c: &mut Ctx<'_>, table: &[i64]) -> Result<Value, Fail> {
        let table = c.ints(vec![table.len() as u64], table)?;
        c.emit(Op::Gather { axis: 0, batch: 0 }, &[table, self.node])
    }

    fn floats(&self, c: &mut Ctx<'_>, table: &[f64]) -> Result<Value, Fail> {
        let table = self.constant(c, vec![table.len() as u64], table)?;
        c.emit(Op::Gather { axis: 0, batch: 0 }, &[table, self.node])
    }

    fn rows(&self, c: &mut Ctx<'_>, table: &[f64], n_rows: usize) -> Result<Value, Fail> {
        let width = table.len() / n_rows.max(1);
        let table = self.constant(c, vec![n_rows as u64, width as u64], table)?;
        c.emit(Op::Gather { axis: 0, batch: 0 }, &[table, self.node])
    }

    fn constant(&self, c: &mut Ctx<'_>, shape: Vec<u64>, table: &[f64]) -> Result<Value, Fail> {
        let tensor = Tensor::from_f64(self.elem, shape.clone(), table).map_err(|e| invalid(e.to_string()))?;
        c.constant(Constant::dense(TensorType::new(self.elem, shape), tensor.to_bytes(), ""))
    }
}

/// The weights of the leaves that each row reaches, aggregated by target: `[rows, targets]`.
pub(super) fn tree_ensemble(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let x = n.input(0)?;
    let [rows, n_features] = c.shape(x)[..] else {
        return Err(invalid(format!("TreeEnsemble of {}", c.b.ty(x))));
    };
    if n.int("post_transform", 0)? != 0 {
        return Err(unsupported(format!("post_transform is {}", n.int("post_transform", 0)?)));
    }
    let nodes = Nodes::read(c, n)?;
    // How often nodes were reached in training.
    n.pass_over(&["nodes_hitrates"]);
    let roots = n.ints("tree_roots")?.unwrap_or_default();
    let n_targets = u64::try_from(n.int("n_targets", 1)?).unwrap_or(0);
    let inside = |list: &[i64], end: u64| list.iter().all(|&i| u64::try_from(i).is_ok_and(|i| i < end));
    let fits = inside(roots, nodes.n_inner as u64)
        && inside(&nodes.features, n_features)
        && inside(&nodes.targets, n_targets);
    if roots.is_empty() || !fits {
        return Err(invalid("a root, a feature or a target is out of range"));
    }
    let places: Shape = vec![rows, roots.len() as u64].into();
    let first = c.ints(vec![roots.len() as u64], roots)?;
    let node = c.broadcast_along(first, 1, &places)?;
    let mut at = At { node, elem: c.elem(x) };
    for _ in 0..nodes.depth(roots)? {
        let feature = at.ints(c, &nodes.features)?;
        let value = c.emit(Op::Gather { axis: 1, batch: 1 }, &[x, feature])?;
        let hit = taken(c, &nodes, &at, value)?;
        let (yes, no) = (at.ints(c, &nodes.if_true)?, at.ints(c, &nodes.if_false)?);
        at.node = c.select(hit, yes, no)?;
    }
    let (weight, target) = (at.floats(c, &nodes.weights)?, at.ints(c, &nodes.targets)?);
    let (op, rest, mean) = match n.int("aggregate_function", 1)? {
        0 => (ReduceOp::Sum, 0.0, true),
        1 => (ReduceOp::Sum, 0.0, false),
        2 => (ReduceOp::Min, f64::INFINITY, false),
        3 => (ReduceOp::Max, f64::NEG_INFINITY, false),
        other => return Err(invalid(format!("aggregate_function is {other}"))),
    };
    let all: Shape = vec![rows, roots.len() as u64, n_targets].into();
    let mut spread = |v| c.emit(Op::Broadcast { dims: vec![0, 1], shape: all.clone() }, &[v]);
    let (weight, target) = (spread(weight)?, spread(target)?);
    let number = c.iota(ScalarType::I64, &all, 2)?;
    let own = c.compare(CompareOp::Eq, target, number)?;
    let rest = c.splat_like(weight, rest)?;
    let part = c.select(own, weight, rest)?;
    let y = c.reduce(op, part, &[1], false)?;
    Ok(vec![if mean { c.binary_splat(BinaryOp::Div, y, roots.len() as f64)? } else { y }])
}

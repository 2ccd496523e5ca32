//! Values as repeated, permuted views of smaller ones.

use egg::Id;
use lacuna_ir::op::Dims;
use lacuna_ir::{Op, Shape};

use crate::graph::{Graph, inverse};

/// A value as a view of `core`: dimension `i` of the core is dimension `map[i]` of the value, or has size 1 and no
/// counterpart. The value repeats along dimensions that the map does not name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct View {
    /// The class viewed.
    pub core: Id,
    /// The value's dimension for each dimension of the core.
    pub map: Vec<Option<u8>>,
}

/// All views of a class through permutations, broadcasts and reshapes of unit dimensions; the class itself first.
pub fn views(g: &Graph, id: Id) -> Vec<View> {
    let id = g.eg.find(id);
    let mut found = vec![View { core: id, map: (0..g.shape(id).rank()).map(|d| Some(d as u8)).collect() }];
    let mut next = 0;
    // Cyclic classes are cut by the equality test; the bound only caps pathological graphs.
    while next < found.len() && found.len() < 32 {
        let view = found[next].clone();
        next += 1;
        for (op, args) in g.terms(view.core) {
            let map = if let Op::Broadcast { dims, shape } = op {
                through_broadcast(&view.map, dims, shape, g.shape(args[0]))
            } else if let Op::Permute { perm } = op {
                Some(inverse(perm).iter().map(|&i| view.map[i as usize]).collect())
            } else if let Op::Reshape { shape } = op {
                through_reshape(&view.map, shape, g.shape(args[0]))
            } else {
                None
            };
            if let Some(map) = map {
                let view = View { core: g.eg.find(args[0]), map };
                if !found.contains(&view) {
                    found.push(view);
                }
            }
        }
    }
    found
}

fn through_broadcast(
    outer: &[Option<u8>],
    dims: &[u8],
    shape: &Shape,
    inner: &Shape,
) -> Option<Vec<Option<u8>>> {
    Some(
        dims.iter()
            .zip(inner.iter())
            .map(|(&d, &n)| outer[d as usize].filter(|_| n == shape[d as usize]))
            .collect(),
    )
}

fn through_reshape(outer: &[Option<u8>], shape: &Shape, inner: &Shape) -> Option<Vec<Option<u8>>> {
    let mut others = (0..shape.rank()).filter(|&d| shape[d] != 1);
    let mut map = Vec::with_capacity(inner.rank());
    for &n in inner.iter() {
        if n == 1 {
            map.push(None);
        } else {
            let d = others.next().filter(|&d| shape[d] == n)?;
            map.push(outer[d]);
        }
    }
    others.next().is_none().then_some(map)
}

/// A value `core` with dimensions `dims` (any order, sizes as in `id`) such that `id` repeats it along all others;
/// `None` if `id` varies along another dimension.
pub fn along(g: &mut Graph, id: Id, dims: &[u8]) -> Option<Id> {
    let sizes: Shape = dims.iter().map(|&d| g.shape(id)[d as usize]).collect();
    if let Some(value) = g.splat(id).filter(|_| g.is_const(id)) {
        let ty = lacuna_ir::TensorType { elem: g.ty(id).elem, shape: sizes };
        return g.splat_const(&ty, value);
    }
    let fits = |g: &Graph, v: &View| {
        let shape = g.shape(v.core);
        v.map.iter().enumerate().all(|(i, d)| shape[i] == 1 || d.is_some_and(|d| dims.contains(&d)))
    };
    let view = views(g, id).into_iter().rev().find(|v| fits(g, v))?;
    let (core, map) = squeeze(g, &view)?;
    // Core dimensions into the order of `dims`, then repetition along those that the core lacks.
    let order: Vec<usize> = dims.iter().filter_map(|d| map.iter().position(|m| m == d)).collect();
    let perm: Dims = order.iter().map(|&i| i as u8).collect();
    let core = g.permute(core, &perm)?;
    let places: Dims = (0..dims.len()).filter(|&i| map.contains(&dims[i])).map(|i| i as u8).collect();
    g.broadcast(core, &places, &sizes)
}

/// The core of a view without its unit dimensions, and what its dimensions are in the value.
fn squeeze(g: &mut Graph, view: &View) -> Option<(Id, Dims)> {
    let shape = g.shape(view.core).clone();
    let map = view
        .map
        .iter()
        .enumerate()
        .filter(|&(i, _)| shape[i] != 1)
        .map(|(_, d)| *d)
        .collect::<Option<_>>()?;
    Some((g.drop_dims(view.core, |d| shape[d] == 1)?, map))
}

/// The smallest value that `id` repeats, and the ascending dimensions of `id` that it has; `id` itself, with all of
/// its dimensions, where it repeats nothing.
pub fn compact(g: &mut Graph, id: Id) -> Option<(Id, Dims)> {
    let rank = g.shape(id).rank() as u8;
    if let Some(value) = g.splat(id).filter(|_| g.is_const(id)) {
        let ty = lacuna_ir::TensorType { elem: g.ty(id).elem, shape: Shape::default() };
        return Some((g.splat_const(&ty, value)?, Vec::new()));
    }
    let size = |g: &Graph, v: &View| g.shape(v.core).elements();
    let all = views(g, id);
    let best = all.iter().min_by_key(|v| size(g, v))?;
    if size(g, best) == g.shape(id).elements() {
        return Some((id, (0..rank).collect()));
    }
    let (core, map) = squeeze(g, best)?;
    let mut order: Vec<u8> = (0..map.len() as u8).collect();
    order.sort_by_key(|&i| map[i as usize]);
    let core = g.permute(core, &order)?;
    let mut dims = map;
    dims.sort_unstable();
    Some((core, dims))
}

/// For a reshape from `inner` to `outer` that merges neighbours: the dimensions of `inner` that each outer one
/// consists of, without those of size 1.
pub fn parts(inner: &Shape, outer: &Shape) -> Option<Vec<Dims>> {
    let mut next = (0..inner.rank()).filter(|&d| inner[d] != 1).peekable();
    let mut parts = Vec::with_capacity(outer.rank());
    for &n in outer.iter() {
        let (mut dims, mut product) = (Dims::new(), 1u64);
        while product < n {
            let d = next.next()?;
            product = product.checked_mul(inner[d])?;
            dims.push(d as u8);
        }
        if product != n {
            return None;
        }
        parts.push(dims);
    }
    next.peek().is_none().then_some(parts)
}

/// The coarsest shape that both `inner` and `outer` merge into theirs, for a reshape from one to the other; `None`
/// where a dimension of one ends within an element of the other.
pub fn refined(inner: &Shape, outer: &Shape) -> Option<Shape> {
    let ends = |shape: &Shape| {
        shape
            .iter()
            .scan(1u64, |before, &n| {
                *before = before.checked_mul(n)?;
                Some(*before)
            })
            .collect::<Vec<u64>>()
    };
    let mut all: Vec<u64> = ends(inner).into_iter().chain(ends(outer)).filter(|&n| n != 1).collect();
    all.sort_unstable();
    all.dedup();
    let mut before = 1;
    all.into_iter()
        .map(|end| {
            let n = end.checked_div(before).filter(|n| n * before == end)?;
            before = end;
            Some(n)
        })
        .collect()
}

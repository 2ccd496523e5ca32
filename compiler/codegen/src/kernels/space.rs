//! Iteration spaces as the kernels want them: few dimensions, in the result's physical order.

use crate::emit::Tile;
use crate::nest::{Axis, Nest, TileDim};
use crate::place::StorageId;

/// One operand's movement along one dimension.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Walk {
    /// Stride in the operand's storage.
    pub stride: i64,
    /// Coordinate of index 0; not 0 only for padded operands.
    pub origin: i64,
    /// Elements that exist along this dimension.
    pub bound: u64,
}

/// One dimension of a space.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SpaceDim {
    /// Elements.
    pub size: u64,
    /// Movement of each operand.
    pub walks: Vec<Walk>,
    /// Logical dimensions that this one is made of, outermost first.
    pub logical: Vec<usize>,
    /// Whether it must stay apart: its coordinate or its padding matters.
    pub apart: bool,
}

impl SpaceDim {
    fn joins(&self, inner: &SpaceDim) -> bool {
        !self.apart
            && !inner.apart
            && self.walks.iter().zip(&inner.walks).all(|(o, i)| o.stride == i.stride * inner.size as i64)
    }
}

/// Drops unit dimensions and joins neighbours that every operand walks alike.
///
/// At least one dimension stays; `operands` is the number of walks that each dimension has.
pub fn coalesce(dims: Vec<SpaceDim>, operands: usize) -> Vec<SpaceDim> {
    let mut joined: Vec<SpaceDim> = Vec::new();
    for dim in dims {
        if dim.size == 1 && !dim.apart {
            continue;
        }
        match joined.last_mut() {
            Some(last) if last.joins(&dim) => {
                last.size *= dim.size;
                for (walk, inner) in last.walks.iter_mut().zip(&dim.walks) {
                    *walk = Walk {
                        stride: inner.stride,
                        origin: 0,
                        bound: walk.bound.saturating_mul(inner.bound),
                    };
                }
                last.logical.extend(dim.logical);
            }
            _ => joined.push(dim),
        }
    }
    if joined.is_empty() {
        let still = Walk { stride: 0, origin: 0, bound: 1 };
        joined.push(SpaceDim { size: 1, walks: vec![still; operands], logical: Vec::new(), apart: false });
    }
    joined
}

/// The box of an operand over the axes of `nest` (`axes[i]` is dimension i's axis, if it is tiled), widest stride first;
/// repeated dimensions are left out. The second value maps each space dimension to the box's.
pub fn tile_of(
    storage: StorageId,
    offset: i64,
    dims: &[SpaceDim],
    operand: usize,
    axes: &[Axis],
    k_dim: Option<usize>,
) -> (Tile, Vec<Option<usize>>) {
    let mut order: Vec<usize> =
        (0..dims.len()).filter(|&d| dims[d].walks.get(operand).is_some_and(|w| w.stride != 0)).collect();
    order.sort_by_key(|&d| std::cmp::Reverse(dims[d].walks[operand].stride.unsigned_abs()));
    tile_in_order(storage, offset, dims, operand, axes, &order, k_dim)
}

/// Like [`tile_of`], with the box's dimensions in a given order.
pub fn tile_in_order(
    storage: StorageId,
    offset: i64,
    dims: &[SpaceDim],
    operand: usize,
    axes: &[Axis],
    order: &[usize],
    k_dim: Option<usize>,
) -> (Tile, Vec<Option<usize>>) {
    let mut at = vec![None; dims.len()];
    let mut tile_dims = Vec::new();
    for &d in order {
        let walk = dims[d].walks[operand];
        at[d] = Some(tile_dims.len());
        tile_dims.push(TileDim {
            axis: Some((d, 1)),
            size: axes[d].tile,
            stride: walk.stride,
            origin: walk.origin,
            bound: walk.bound,
        });
    }
    let k_dim = k_dim.and_then(|d| at[d]);
    (Tile { storage, offset, dims: tile_dims, k_dim }, at)
}

/// Cuts dimensions into tiles of at most `limit` elements, and small enough that `n_pes` PEs have work. A tile has a whole
/// multiple of `units[d]` indices along dimension d, or all of them: a unit of the dimension's size leaves it uncut. Inner
/// dimensions are filled first. `None` where even single units are too large.
pub fn cut(dims: &[SpaceDim], units: &[u64], limit: u64, n_pes: u64) -> Option<Vec<u64>> {
    let counts: Vec<u64> = dims.iter().zip(units).map(|(d, &unit)| d.size.div_ceil(unit.max(1))).collect();
    let smallest: u64 = units.iter().product();
    if smallest > limit {
        return None;
    }
    let open: u64 = counts.iter().product();
    // A tile below a few hundred elements costs more to issue than to compute.
    let fair = open.div_ceil(n_pes).max((MIN_TILE / smallest.max(1)).max(1));
    let mut left = (limit / smallest.max(1)).min(fair).max(1);
    let mut tiles = vec![1; dims.len()];
    for d in (0..dims.len()).rev() {
        let tile = counts[d].min(left).max(1);
        // Equal parts leave no short last tile.
        let tile = counts[d].div_ceil(counts[d].div_ceil(tile).max(1));
        tiles[d] = (tile * units[d]).min(dims[d].size).max(1);
        left = (left / tile.max(1)).max(1);
    }
    Some(tiles)
}

const MIN_TILE: u64 = 512;

/// A nest over the dimensions with the given tiles; those in one piece have no loop.
pub fn nest_of(dims: &[SpaceDim], tiles: &[u64], rows: u16, cols: u16) -> Nest {
    const NAMES: [&str; 5] = ["d0", "d1", "d2", "d3", "d4"];
    let axes = dims
        .iter()
        .zip(tiles)
        .enumerate()
        .map(|(d, (dim, &t))| Axis::new(NAMES[d.min(4)], dim.size, t))
        .collect();
    let spread: Vec<bool> = dims.iter().zip(tiles).map(|(d, &t)| t < d.size).collect();
    Nest::distribute(axes, &spread, rows, cols)
}

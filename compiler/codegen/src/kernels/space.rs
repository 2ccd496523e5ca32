//! Iteration spaces as the kernels want them: few dimensions, in the result's physical order.

use lacuna_isa::target::Target;
use lacuna_isa::view::VIEW_DIMS;

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

/// Dimensions of a space that no view has: tiles have one element along the first ones, and [`crate::nest::folds`] moves them.
pub fn folded(dims: usize) -> usize {
    dims.saturating_sub(VIEW_DIMS)
}

/// Puts dimensions first that can be folded, where there are too many for a view; the others keep their order.
pub fn fold_first(dims: &mut [SpaceDim]) {
    for at in 0..folded(dims.len()) {
        if let Some(d) = (at..dims.len()).find(|&d| !dims[d].apart) {
            dims[at..=d].rotate_right(1);
        }
    }
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

/// Cuts dimensions into tiles of at most `limit` elements and deals them to the PEs of a target, so that the PE with the most
/// elements has few. A tile has a whole multiple of `units[d]` indices along dimension d, or all of them: a unit of the
/// dimension's size leaves it uncut. Inner dimensions are filled first. `None` where even single units are too large.
pub fn cut(dims: &[SpaceDim], units: &[u64], limit: u64, target: &Target) -> Option<Nest> {
    let counts: Vec<u64> = dims.iter().zip(units).map(|(d, &unit)| d.size.div_ceil(unit.max(1))).collect();
    let smallest = units.iter().product::<u64>().max(1);
    let most = limit / smallest;
    if most == 0 {
        return None;
    }
    let open: u64 = counts.iter().product();
    // A tile below a few hundred elements costs more to issue than to compute.
    let fair = open.div_ceil(target.n_pes().into()).max(MIN_TILE / smallest).clamp(1, most);
    // Parts of dimensions seldom come to the fair share: a little more in a tile may take a round less, and two rounds of half as much
    // overlap. The first load and the last store meet nothing, which is as long as two rounds.
    let larger = (0..=STEPS).map(|i| fair + fair * i / STEPS).filter(|&share| share <= most);
    let smaller =
        (1..=STEPS).map(|i| fair - fair * i / (2 * STEPS)).filter(|share| share * smallest >= MIN_TILE);
    let mut tiles: Vec<Vec<u64>> =
        larger.chain(smaller).map(|share| filled(dims, units, &counts, share)).collect();
    // Neighbouring shares often come to the same parts.
    tiles.dedup();
    tiles.iter().map(|tiles| nest_of(dims, tiles, target)).min_by_key(|nest| {
        let (tile, rounds) =
            nest.axes.iter().fold((1, 1), |(tile, rounds), a| (tile * a.tile, rounds * a.trip));
        (!nest.fits(), tile * (rounds + 2) + rounds * ROUND)
    })
}

/// Whether a dimension of a space is dealt evenly: where some are folded these are, and the innermost two, of which one carries them.
fn is_even(n_dims: usize, d: usize, count: u64) -> bool {
    folded(n_dims) > 0 && (d < folded(n_dims) || d + 2 >= n_dims || count == 1)
}

/// The tile of at most `left` units that inner dimensions are filled first in.
fn filled(dims: &[SpaceDim], units: &[u64], counts: &[u64], mut left: u64) -> Vec<u64> {
    let mut tiles = vec![1; dims.len()];
    let n_folded = folded(dims.len());
    for d in (n_folded..dims.len()).rev() {
        let mut tile = counts[d].min(left).max(1);
        if is_even(dims.len(), d, counts[d]) {
            // What carries another dimension is never clipped.
            tile = (1..=tile).rev().find(|&t| counts[d].is_multiple_of(t)).unwrap_or(1);
        }
        // Equal parts leave no short last tile.
        let tile = counts[d].div_ceil(counts[d].div_ceil(tile).max(1));
        tiles[d] = (tile * units[d]).min(dims[d].size).max(1);
        left = (left / tile.max(1)).max(1);
    }
    tiles
}

const MIN_TILE: u64 = 512;
/// Elements that a round counts for, beside those of its tile: latency. Fitted to replays.
const ROUND: u64 = 1024;
/// Sizes of tiles that are tried, up to twice the fair share and down to half of it.
const STEPS: u64 = 8;

/// A nest over the dimensions with the given tiles; those in one piece have no loop.
fn nest_of(dims: &[SpaceDim], tiles: &[u64], target: &Target) -> Nest {
    const NAMES: [&str; 8] = ["d0", "d1", "d2", "d3", "d4", "d5", "d6", "d7"];
    let axis = |(d, (dim, &tile)): (usize, (&SpaceDim, &u64))| Axis {
        even: is_even(dims.len(), d, dim.size),
        ..Axis::new(NAMES[d.min(NAMES.len() - 1)], dim.size, tile)
    };
    let axes = dims.iter().zip(tiles).enumerate().map(axis).collect();
    let spread: Vec<bool> = dims.iter().zip(tiles).map(|(d, &t)| t < d.size).collect();
    Nest::distribute(axes, &spread, target.rows, target.cols)
}

#[cfg(test)]
mod tests {
    use lacuna_isa::target_file::target;

    use super::*;

    #[test]
    fn tiles_come_to_the_fair_share_of_each_pe() {
        let target = target("mtia-300").unwrap();
        let dim = |size: u64, stride: i64| SpaceDim {
            size,
            walks: vec![Walk { stride, origin: 0, bound: size }],
            logical: vec![0],
            apart: false,
        };
        for (rows, columns) in [(3072, 384), (3072, 64), (1000, 1000), (72, 4096), (71, 4096), (144, 640)] {
            let dims = [dim(rows, columns as i64), dim(columns, 1)];
            let nest = cut(&dims, &[1, 32], 1 << 20, &target).unwrap();
            let all: u64 = nest.axes.iter().map(|a| a.tile * a.trip).product();
            let fair = (rows * columns).div_ceil(target.n_pes().into());
            assert!(all <= fair * 5 / 4 + 32, "{rows} x {columns}: {all} elements of a PE, {fair} is fair");
        }
        assert!(cut(&[dim(64, 1)], &[64], 63, &target).is_none());
    }
}

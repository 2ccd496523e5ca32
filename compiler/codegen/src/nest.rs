//! Tiles, loops and the PE grid: how an iteration space is cut and who does which piece.
//!
//! A [`Nest`] is a list of axes, outermost loop first. Each axis is cut into tiles; the tiles are dealt to PE coordinates in
//! contiguous blocks, and a loop walks each PE's block. PE coordinates and loop counters therefore advance the
//! coordinate of an axis by constant steps, which is what views can express.

use lacuna_isa::view::{Advance, Dim, LOOP_LEVELS, PE_COORDS, VIEW_DIMS};

/// One axis of an iteration space.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Axis {
    /// Name in the text form.
    pub name: &'static str,
    /// Elements.
    pub size: u64,
    /// Elements of one tile.
    pub tile: u64,
    /// Number of PEs along each logical coordinate that divide this axis; 1 where a coordinate does not.
    pub pes: [u16; PE_COORDS],
    /// Tiles that one PE walks.
    pub trip: u64,
    /// Whether every PE has the same number of tiles, so that no tile is ever clipped.
    pub even: bool,
}

impl Axis {
    /// An axis in tiles of `tile` elements, before distribution.
    pub fn new(name: &'static str, size: u64, tile: u64) -> Axis {
        let trip = size.div_ceil(tile.max(1)).max(1);
        Axis { name, size, tile, pes: [1; PE_COORDS], trip, even: false }
    }

    /// Whether no tile reaches past the end.
    fn is_covered(&self) -> bool {
        let n_pes: u64 = self.pes.iter().map(|&n| u64::from(n)).product();
        n_pes * self.trip * self.tile == self.size
    }

    /// Tiles of the whole axis.
    pub fn n_tiles(&self) -> u64 {
        self.size.div_ceil(self.tile.max(1)).max(1)
    }

    /// Elements between neighbours along a PE coordinate.
    pub fn coord_step(&self, coord: usize) -> u64 {
        self.pes[coord + 1..].iter().map(|&n| u64::from(n)).product::<u64>() * self.trip * self.tile
    }
}

/// What a tile of the longest PE takes, and a figure for ties, for the PEs along each coordinate that divide each axis.
pub type GridCost<'a> = dyn Fn(&[[u16; PE_COORDS]]) -> (f64, u64) + 'a;

/// An iteration space cut into tiles and dealt to PEs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Nest {
    /// Axes, outermost loop first.
    pub axes: Vec<Axis>,
    /// Logical grid.
    pub grid: [u16; PE_COORDS],
}

impl Nest {
    /// Deals the tiles of `axes` to a grid of `rows` x `cols` PEs so that the longest PE has the fewest tiles. An axis
    /// whose `spread` is false stays on one PE. The choice is deterministic: the first best in a fixed order.
    pub fn distribute(axes: Vec<Axis>, spread: &[bool], rows: u16, cols: u16) -> Nest {
        Nest::distribute_by(axes, spread, rows, cols, &|_| (1.0, 0))
    }

    /// The same where tiles may not be equal; of the ways that are equally fast the one with the least second figure of
    /// `cost` is taken.
    pub fn distribute_by(
        axes: Vec<Axis>,
        spread: &[bool],
        rows: u16,
        cols: u16,
        cost: &GridCost<'_>,
    ) -> Nest {
        let tiles: Vec<u64> = axes.iter().map(Axis::n_tiles).collect();
        let open: Vec<usize> = (0..axes.len()).filter(|&a| spread[a] && tiles[a] > 1).collect();
        let cost_of = |pes: &[[u16; PE_COORDS]]| -> (f64, u64) {
            let of_axis =
                |(&n, p): (&u64, &[u16; PE_COORDS])| n.div_ceil(p.iter().map(|&x| u64::from(x)).product());
            let rounds: u64 = tiles.iter().zip(pes).map(of_axis).product();
            let (time, traffic) = cost(pes);
            (rounds as f64 * time, traffic)
        };
        let none = vec![[1; PE_COORDS]; axes.len()];
        let mut best = (cost_of(&none), none.clone());
        if !open.is_empty() {
            for rh in divisors(rows) {
                for ch in divisors(cols) {
                    let split = [rh, rows / rh, ch, cols / ch];
                    let mut pick = [0usize; PE_COORDS];
                    loop {
                        let mut pes = none.clone();
                        for (c, &p) in pick.iter().enumerate() {
                            pes[open[p]][c] = split[c];
                        }
                        let is_even = |(axis, pes): (&Axis, &[u16; PE_COORDS])| {
                            let n_pes: u64 = pes.iter().map(|&n| u64::from(n)).product();
                            !axis.even || axis.n_tiles().is_multiple_of(n_pes)
                        };
                        if axes.iter().zip(&pes).all(is_even) {
                            let cost = cost_of(&pes);
                            if cost < best.0 {
                                best = (cost, pes);
                            }
                        }
                        let Some(c) = (0..PE_COORDS).find(|&c| split[c] > 1 && pick[c] + 1 < open.len())
                        else {
                            break;
                        };
                        pick[c] += 1;
                        pick[..c].fill(0);
                    }
                }
            }
        }
        let mut nest = Nest { axes, grid: [1; PE_COORDS] };
        for (axis, mut pes) in nest.axes.iter_mut().zip(best.1) {
            let n = axis.n_tiles();
            let all: u64 = pes.iter().map(|&x| u64::from(x)).product();
            axis.trip = n.div_ceil(all).max(1);
            // PEs that would only see clipped tiles are left out of the grid, outermost coordinate first.
            let needed = n.div_ceil(axis.trip);
            let mut inner = 1u64;
            for c in (0..PE_COORDS).rev() {
                pes[c] = u64::from(pes[c]).min(needed.div_ceil(inner)).max(1) as u16;
                inner *= u64::from(pes[c]);
            }
            axis.pes = pes;
            for (g, &p) in nest.grid.iter_mut().zip(&pes) {
                *g = (*g).max(p);
            }
        }
        nest
    }

    /// Axes with a loop, outermost first.
    pub fn loops(&self) -> Vec<usize> {
        (0..self.axes.len()).filter(|&a| self.axes[a].trip > 1).collect()
    }

    /// Whether the loops fit the machine's levels.
    pub fn fits(&self) -> bool {
        self.loops().len() <= LOOP_LEVELS
    }

    /// Loop level of an axis, if it has a loop.
    pub fn level(&self, axis: usize) -> Option<u8> {
        self.loops().iter().position(|&a| a == axis).map(|l| l as u8)
    }

    /// Tiles that the busiest PE walks.
    pub fn rounds(&self) -> u64 {
        self.axes.iter().map(|a| a.trip).product()
    }

    /// PEs that take part.
    pub fn n_pes(&self) -> u64 {
        self.grid.iter().map(|&n| u64::from(n)).product()
    }
}

fn divisors(n: u16) -> Vec<u16> {
    (1..=n).filter(|d| n.is_multiple_of(*d)).collect()
}

/// One dimension of the box that a PE touches in one tile.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TileDim {
    /// The axis that moves the box, and coordinates per element of the axis.
    pub axis: Option<(usize, i64)>,
    /// Size of the box.
    pub size: u64,
    /// Stride in the storage, in elements.
    pub stride: i64,
    /// Coordinate of the first element of tile 0.
    pub origin: i64,
    /// Coordinates below this exist.
    pub bound: u64,
}

impl TileDim {
    /// The dimension that follows `axis` element by element.
    pub fn follow(nest: &[Axis], axis: usize, stride: i64) -> TileDim {
        TileDim { axis: Some((axis, 1)), size: nest[axis].tile, stride, origin: 0, bound: nest[axis].size }
    }

    /// A dimension taken whole.
    pub fn whole(size: u64, stride: i64) -> TileDim {
        TileDim { axis: None, size, stride, origin: 0, bound: size }
    }
}

/// For each dimension of a tile the one that carries its advances, if a view has no dimension for it.
///
/// A view has five dimensions, and a tile may have more. One of a single element, whose axis is dealt evenly, needs none of its own: its
/// advances move another dimension, whose stride divides its own and which is never clipped. Rows of 8 images of `[14, 14]` of which a tile takes one,
/// with strides (196, 14, 1), are then seen as `[14, 14]` with strides (14, 1), and the next image starts 14 rows further on. `k_dim`, along which
/// groups run, carries nothing. Returns `None` when too few dimensions can be folded.
pub fn folds(nest: &Nest, tile: &[TileDim], k_dim: Option<usize>) -> Option<Vec<Option<usize>>> {
    let mut carriers = vec![None; tile.len()];
    let mut left = tile.len().saturating_sub(VIEW_DIMS);
    let is_single = |t: &TileDim| {
        t.size == 1
            && t.origin == 0
            && t.axis.is_some_and(|(a, _)| nest.axes[a].even && nest.axes[a].is_covered())
    };
    let is_whole = |t: &TileDim| match t.axis {
        None => t.origin == 0 && t.size <= t.bound,
        Some((a, scale)) => {
            let axis = &nest.axes[a];
            let last = (axis.size - axis.tile) as i64 * scale + t.size as i64;
            t.origin == 0 && scale > 0 && axis.is_covered() && last <= t.bound as i64
        }
    };
    for (d, t) in tile.iter().enumerate() {
        if left == 0 {
            break;
        }
        if !is_single(t) || k_dim == Some(d) {
            continue;
        }
        let carries = |&c: &usize| {
            let other = &tile[c];
            let ratio = t.stride.checked_div(other.stride).unwrap_or(0);
            c != d
                && Some(c) != k_dim
                && carriers[c].is_none()
                && is_whole(other)
                && !is_single(other)
                && ratio > 0
                && ratio * other.stride == t.stride
        };
        carriers[d] = (0..tile.len()).find(carries);
        left -= usize::from(carriers[d].is_some());
    }
    (left == 0).then_some(carriers)
}

/// Dimensions, loop advances and PE advances of a view.
pub type Moves = ([Dim; VIEW_DIMS], [Option<Advance>; LOOP_LEVELS], [Option<Advance>; PE_COORDS]);

/// The dimensions, loop advances and PE advances of a view: the tile dimensions that are not folded, padded in front with unit ones.
///
/// Returns `None` when more than five dimensions stay or a figure does not fit the view's fields.
pub fn view_dims(nest: &Nest, tile: &[TileDim], folds: &[Option<usize>]) -> Option<Moves> {
    let kept: Vec<usize> = (0..tile.len()).filter(|&d| folds[d].is_none()).collect();
    let pad = VIEW_DIMS.checked_sub(kept.len())?;
    let slot = |d: usize| kept.iter().position(|&k| k == d).map(|at| pad + at);
    let mut dims = [Dim::UNIT; VIEW_DIMS];
    let mut levels = [None; LOOP_LEVELS];
    let mut coords = [None; PE_COORDS];
    for &i in &kept {
        let t = &tile[i];
        // Coordinates that are reached through what this dimension carries.
        let further = |d: usize| -> Option<u64> {
            let (axis, scale) = tile[d].axis?;
            let ratio = u64::try_from(tile[d].stride.checked_div(t.stride)?).ok()?;
            (nest.axes[axis].size - 1).checked_mul(u64::try_from(scale).ok()?)?.checked_mul(ratio)
        };
        let mut bound = t.bound;
        for d in (0..tile.len()).filter(|&d| folds[d] == Some(i)) {
            bound = bound.checked_add(further(d)?)?;
        }
        dims[slot(i)?] = Dim {
            size: u32::try_from(t.size).ok()?,
            stride: i32::try_from(t.stride).ok()?,
            origin: i32::try_from(t.origin).ok()?,
            bound: u32::try_from(bound).ok()?,
        };
    }
    for (i, t) in tile.iter().enumerate() {
        let Some((axis, mut scale)) = t.axis else { continue };
        if let Some(carrier) = folds[i] {
            scale = scale.checked_mul(t.stride.checked_div(tile[carrier].stride)?)?;
        }
        let d = slot(folds[i].unwrap_or(i))?;
        let data = &nest.axes[axis];
        let step = |elements: u64| -> Option<i32> {
            i32::try_from(i64::try_from(elements).ok()?.checked_mul(scale)?).ok()
        };
        if let Some(level) = nest.level(axis) {
            levels[level as usize] = Some(Advance { dim: d as u8, step: step(data.tile)? });
        }
        for (c, coord) in coords.iter_mut().enumerate() {
            if data.pes[c] > 1 {
                *coord = Some(Advance { dim: d as u8, step: step(data.coord_step(c))? });
            }
        }
    }
    Some((dims, levels, coords))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_axis_uses_the_whole_grid() {
        let nest = Nest::distribute(vec![Axis::new("m", 1000, 10)], &[true], 12, 6);
        // 100 tiles in pairs need 50 PEs; whole rows of the grid are kept.
        assert_eq!((nest.n_pes(), nest.axes[0].trip), (54, 2));
    }

    #[test]
    fn every_tile_has_one_owner() {
        for (m, n, tm, tn) in [(7, 300, 1, 32), (112, 64, 4, 32), (1, 5, 1, 1), (360, 40, 8, 16)] {
            let axes = vec![Axis::new("m", m, tm), Axis::new("n", n, tn)];
            let nest = Nest::distribute(axes, &[true, true], 12, 6);
            let mut seen = vec![0; (m.div_ceil(tm) * n.div_ceil(tn)) as usize];
            let g = nest.grid;
            for p in 0..nest.n_pes() as u16 {
                let c = [p / (g[1] * g[2] * g[3]), p / (g[2] * g[3]) % g[1], p / g[3] % g[2], p % g[3]];
                for i in 0..nest.axes[0].trip {
                    for j in 0..nest.axes[1].trip {
                        let at = |a: usize, k: u64| -> u64 {
                            let axis = &nest.axes[a];
                            (0..PE_COORDS)
                                .filter(|&x| axis.pes[x] > 1)
                                .map(|x| axis.coord_step(x) * u64::from(c[x]))
                                .sum::<u64>()
                                + k * axis.tile
                        };
                        let (x, y) = (at(0, i), at(1, j));
                        if x < m && y < n {
                            seen[(x / tm * n.div_ceil(tn) + y / tn) as usize] += 1;
                        }
                    }
                }
            }
            assert!(seen.iter().all(|&s| s == 1), "{m} {n}: {seen:?} {nest:?}");
        }
    }
}

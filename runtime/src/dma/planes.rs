//! Pieces of boxes, and walks over the planes of both sides of a transfer.

use lacuna_isa::format::Format;
use lacuna_isa::view::{PlaneMap, Position, VIEW_DIMS, View};

use crate::boxes::{WALK_DIMS, Walk, plane_strides};
use crate::trap::{Fault, TrapKind};

/// A part of a view's box: first index, number of indices, and coordinate of the first index, per dimension.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub first: [u32; VIEW_DIMS],
    pub counts: [u32; VIEW_DIMS],
    pub coords: [i64; VIEW_DIMS],
}

impl Piece {
    pub fn is_empty(&self) -> bool {
        self.counts.contains(&0)
    }

    /// The part of `view`'s box with these ranges of indices.
    pub fn of(view: &View, at: &Position, ranges: [(u32, u32); VIEW_DIMS]) -> Piece {
        let base = view.base_coords(at);
        Piece {
            first: ranges.map(|r| r.0),
            counts: ranges.map(|r| r.1),
            coords: std::array::from_fn(|d| base[d] + i64::from(ranges[d].0)),
        }
    }

    /// The indices `first..first + count` of dimension `dim`, at coordinate `coord`.
    pub fn cut(mut self, dim: usize, first: u32, count: u32, coord: i64) -> Piece {
        (self.first[dim], self.coords[dim]) = (first, coord);
        // A piece that is empty in another dimension stays so.
        self.counts[dim] = count;
        self
    }

    /// Number of indices.
    pub fn elements(&self) -> u64 {
        self.counts.iter().map(|&n| u64::from(n)).product()
    }

    /// Element number of the first coordinate in the tensor.
    pub fn global_base(&self, view: &View) -> Result<i64, Fault> {
        let mut at = i128::from(view.offset);
        for (dim, &coord) in view.dims.iter().zip(&self.coords) {
            at += i128::from(dim.stride) * i128::from(coord);
        }
        element(at)
    }

    /// Element number of the first index in a slot.
    pub fn local_base(&self, offset: i64, strides: &[i64; VIEW_DIMS]) -> Result<i64, Fault> {
        let mut at = i128::from(offset);
        for (&stride, &first) in strides.iter().zip(&self.first) {
            at += i128::from(stride) * i128::from(first);
        }
        element(at)
    }
}

pub(crate) fn element(at: i128) -> Result<i64, Fault> {
    if (0..1 << 60).contains(&at) {
        Ok(at as i64)
    } else {
        Err(Fault::new(TrapKind::OutOfBounds, format!("element number {at}")))
    }
}

/// One side of a transfer.
#[derive(Clone, Copy)]
pub(crate) struct Side {
    pub map: PlaneMap,
    pub base: i64,
    pub strides: [i64; VIEW_DIMS],
}

/// The walks over the planes of both sides: elements or stored elements, scales, indices.
pub(crate) struct PlaneWalks {
    pub codes: Walk,
    pub scales: Option<Walk>,
    pub indices: Option<Walk>,
}

pub(crate) fn partial(what: &str) -> Fault {
    Fault::new(TrapKind::PartialGroup, format!("the box does not consist of whole {what}"))
}

/// Walks over the planes of a box of `counts` whose k dimension is `k_dim`; both sides have one group size and pattern.
pub(crate) fn plane_walks(
    counts: [u32; VIEW_DIMS],
    k_dim: usize,
    source: Side,
    target: Side,
) -> Result<Option<PlaneWalks>, Fault> {
    let sides = [source, target];
    let grouped = |size: u32, kept: i64, what: &str, number: &dyn Fn(&Side) -> i64| {
        let mut blocks = counts;
        if !blocks[k_dim].is_multiple_of(size) {
            return Err(partial(what));
        }
        blocks[k_dim] /= size;
        let mut strides = [[0; WALK_DIMS]; 2];
        let mut base = [0; 2];
        for (side, place) in sides.iter().enumerate() {
            let s = place.map.k_stride.max(1) as i64;
            if place.base / s % i64::from(size) != 0 {
                return Err(partial(what));
            }
            let plane =
                plane_strides(&place.strides, &blocks, k_dim, place.map.k_stride, i64::from(size), kept)
                    .ok_or_else(|| partial(what))?;
            strides[side][..VIEW_DIMS].copy_from_slice(&plane);
            strides[side][VIEW_DIMS] = s;
            base[side] = number(place);
        }
        Ok((blocks, strides, base))
    };
    let codes = match source.map.pattern {
        None => Walk::new(&counts, &source.strides, &target.strides, [source.base, target.base]),
        Some(pattern) => {
            let number = |side: &Side| side.map.stored_idx(side.base as u64) as i64;
            let (blocks, strides, base) =
                grouped(u32::from(pattern.m), i64::from(pattern.n), "pattern groups", &number)?;
            let mut all = [1; WALK_DIMS];
            all[..VIEW_DIMS].copy_from_slice(&blocks);
            all[VIEW_DIMS] = u32::from(pattern.n);
            // Outermost first, so that what lies side by side becomes one run.
            let mut order: [usize; WALK_DIMS] = std::array::from_fn(|d| d);
            order.sort_by_key(|&d| std::cmp::Reverse(strides[1][d].unsigned_abs()));
            let sorted = |values: [i64; WALK_DIMS]| order.map(|d| values[d]);
            Walk::new(&order.map(|d| all[d]), &sorted(strides[0]), &sorted(strides[1]), base)
        }
    };
    let Some(codes) = codes else { return Ok(None) };
    let scales = match source.map.format {
        Format::Scalar(_) => None,
        Format::Grouped(format) => {
            let number = |side: &Side| side.map.scale_idx(side.base as u64) as i64;
            let (blocks, strides, base) = grouped(u32::from(format.size), 1, "groups", &number)?;
            Walk::new(&blocks, &strides[0][..VIEW_DIMS], &strides[1][..VIEW_DIMS], base)
        }
    };
    let indices = source.map.pattern.map(|_| codes.clone());
    Ok(Some(PlaneWalks { codes, scales, indices }))
}

/// The indices of two boxes of the same sizes that take part on both sides; coordinates are those of `to`.
pub(crate) fn intersect(from: &View, to: &View, at: &Position) -> Piece {
    let (a, b) = (from.clip(at), to.clip(at));
    Piece::of(
        to,
        at,
        std::array::from_fn(|d| {
            let first = a[d].0.max(b[d].0);
            (first, (a[d].0 + a[d].1).min(b[d].0 + b[d].1).saturating_sub(first))
        }),
    )
}

/// `view` where indices give the coordinates of dimension `dim`: of any size, from 0, never advanced.
pub(crate) fn open_dim(view: &View, dim: usize) -> View {
    let mut open = view.clone();
    (open.dims[dim].origin, open.dims[dim].bound) = (0, u32::MAX);
    for advance in open.levels.iter_mut().chain(&mut open.coords) {
        advance.take_if(|a| usize::from(a.dim) == dim);
    }
    open.shift.take_if(|shift| usize::from(shift.dim) == dim);
    open
}

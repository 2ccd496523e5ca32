//! Views: which elements of a tensor or of a buffer slot an operand names.
//!
//! A view is a box of five dimensions. The index `i[d]` runs over `0..size`; the *coordinate* of dimension d is
//! `c[d] = origin + (sum of the steps of the loop levels and PE coordinates that advance d) + i[d]`, and an element takes
//! part when `0 <= c[d] < bound` in every dimension: engines clip, so edge tiles shrink, and a view whose every element is
//! clipped performs only its buffer actions.
//!
//! A launch parameter may move a view: its [`Shift`] adds multiples of the parameter's value to the origin and to the bound
//! of one dimension.
//!
//! A **global** view addresses a tensor behind a base register: element number `offset + sum(c[d] * stride[d])`.
//! A **local** view addresses a slot: element number `offset + sum(i[d] * stride[d])`; coordinates only clip.
//!
//! Grouped and N:M tensors and slots consist of planes: stored codes, then scales, then N:M indices. A group has one entry
//! in the scale plane: its scale, and behind it the shifts of its pairs where the format has them. All strides count logical
//! elements of the dense code plane; [`PlaneMap`] derives the position in the other planes.

use crate::format::{Format, ScalarType};
use crate::inst::Order;

/// Dimensions of a view.
pub const VIEW_DIMS: usize = 5;
/// Loop levels that can advance a view.
pub const LOOP_LEVELS: usize = 4;
/// Logical PE coordinates that can advance a view.
pub const PE_COORDS: usize = 4;

/// One dimension of a view.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Dim {
    /// Number of indices.
    pub size: u32,
    /// Distance of neighbours in elements.
    pub stride: i32,
    /// Coordinate of index 0 before any advance.
    pub origin: i32,
    /// Coordinates from 0 up to this take part.
    pub bound: u32,
}

impl Dim {
    /// A dimension of one index, which never clips.
    pub const UNIT: Dim = Dim { size: 1, stride: 0, origin: 0, bound: u32::MAX };

    /// A dimension that never clips.
    pub const fn free(size: u32, stride: i32) -> Dim {
        Dim { size, stride, origin: 0, bound: u32::MAX }
    }
}

/// The dimension that a loop level or PE coordinate advances, and by how much per step.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Advance {
    /// Dimension number, below [`VIEW_DIMS`].
    pub dim: u8,
    /// Coordinates per step.
    pub step: i32,
}

/// How a launch parameter of value v moves one dimension of a view: its origin by `origin * v`, its bound by `bound * v` (not
/// below 0).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Shift {
    /// Number of the parameter.
    pub param: u8,
    /// Dimension number, below [`VIEW_DIMS`].
    pub dim: u8,
    /// Coordinates per unit.
    pub origin: i32,
    /// Bound per unit.
    pub bound: i32,
}

/// Structured sparsity: in each `m` consecutive elements along a dimension, at most `n` are stored.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Pattern {
    /// Elements stored of each `m`.
    pub n: u8,
    /// Elements of one pattern group; at most 16.
    pub m: u8,
}

impl Pattern {
    /// Two of four.
    pub const P2_4: Pattern = Pattern { n: 2, m: 4 };

    /// What [`Pattern::nested`] takes, for people.
    pub const NESTED: &'static str = "N:M with N below M, and M one of 2, 4, 8 and 16";

    /// The pattern of these sizes if its groups nest in groups of a scale, as weights can be pruned to it.
    pub fn nested(n: u8, m: u8) -> Option<Pattern> {
        (n >= 1 && n < m && [2, 4, 8, 16].contains(&m)).then_some(Pattern { n, m })
    }

    /// Type of a stored index: the narrowest unsigned type that counts to `m`.
    pub const fn index_type(self) -> ScalarType {
        if self.m <= 4 { ScalarType::U2 } else { ScalarType::U4 }
    }

    /// Bits that a pattern group of this element type takes, codes and indices.
    pub const fn group_bits(self, element: ScalarType) -> u32 {
        self.n as u32 * (element.bits() + self.index_type().bits())
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.n, self.m)
    }
}

/// Where a view's elements live.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Space {
    /// In the slot that the operand names.
    Local,
    /// In the tensor behind this base register of the launch.
    Global(u8),
}

/// An entry of a kernel's view table: 128 bytes in the object file.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct View {
    /// What is stored.
    pub format: Format,
    /// The N:M pattern that the stored codes follow, along [`View::k_dim`].
    pub pattern: Option<Pattern>,
    /// The dimension that groups and patterns run along; 0 where there are none.
    pub k_dim: u8,
    /// Slot or tensor.
    pub space: Space,
    /// Element number of index (or coordinate) 0.
    pub offset: i64,
    /// The box, outermost dimension first.
    pub dims: [Dim; VIEW_DIMS],
    /// Advance of each loop level.
    pub levels: [Option<Advance>; LOOP_LEVELS],
    /// Advance of each logical PE coordinate.
    pub coords: [Option<Advance>; PE_COORDS],
    /// What a launch parameter does.
    pub shift: Option<Shift>,
}

/// Most parameters of a kernel.
pub const MAX_PARAMS: usize = 16;

/// Loop counters, PE coordinates and parameters at one dynamic instruction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Position {
    /// Counter of each loop level.
    pub levels: [u32; LOOP_LEVELS],
    /// Logical coordinates of the PE.
    pub coords: [u32; PE_COORDS],
    /// Values of the launch's parameters.
    pub params: [i32; MAX_PARAMS],
}

impl View {
    /// A local view of a dense box in row-major order.
    pub fn dense(format: Format, sizes: [u32; VIEW_DIMS]) -> View {
        let mut dims = [Dim::UNIT; VIEW_DIMS];
        let mut stride = 1i32;
        for d in (0..VIEW_DIMS).rev() {
            dims[d] = Dim::free(sizes[d], stride);
            stride *= sizes[d] as i32;
        }
        View {
            format,
            pattern: None,
            k_dim: (VIEW_DIMS - 1) as u8,
            space: Space::Local,
            offset: 0,
            dims,
            levels: [None; LOOP_LEVELS],
            coords: [None; PE_COORDS],
            shift: None,
        }
    }

    /// Sizes of the whole box.
    pub fn sizes(&self) -> [u32; VIEW_DIMS] {
        self.dims.map(|d| d.size)
    }

    /// Number of indices of the whole box.
    pub fn elements(&self) -> u64 {
        self.dims.iter().map(|d| u64::from(d.size)).product()
    }

    /// Dense elements of the smallest slot that the whole box of a local view lies in, in whole groups: what the planes
    /// of a slot that is pushed through this view are made for.
    pub fn slot_elements(&self) -> u64 {
        if self.dims.iter().any(|d| d.size == 0) {
            return 0;
        }
        let reach: u64 =
            self.dims.iter().map(|d| u64::from(d.size - 1) * u64::from(d.stride.max(0).unsigned_abs())).sum();
        let span = self.offset.max(0).unsigned_abs() + reach + 1;
        let group = self.planes().unit();
        if group == 1 { span } else { span.next_multiple_of(self.planes().k_stride.max(1) * group) }
    }

    /// Coordinate of index 0 of each dimension at `at`.
    pub fn base_coords(&self, at: &Position) -> [i64; VIEW_DIMS] {
        let mut base = self.dims.map(|d| i64::from(d.origin));
        let advances = self.levels.iter().zip(&at.levels).chain(self.coords.iter().zip(&at.coords));
        for (advance, &count) in advances {
            if let Some(Advance { dim, step }) = advance {
                base[*dim as usize] += i64::from(*step) * i64::from(count);
            }
        }
        if let Some(Shift { param, dim, origin, bound: _ }) = self.shift {
            base[dim as usize] += i64::from(origin) * i64::from(at.params[param as usize]);
        }
        base
    }

    /// Bound of each dimension at `at`.
    pub fn bounds(&self, at: &Position) -> [i64; VIEW_DIMS] {
        let mut bounds = self.dims.map(|d| i64::from(d.bound));
        if let Some(Shift { param, dim, origin: _, bound }) = self.shift {
            let moved = &mut bounds[dim as usize];
            *moved = (*moved + i64::from(bound) * i64::from(at.params[param as usize])).max(0);
        }
        bounds
    }

    /// The part of the box that takes part at `at`: for each dimension the first index and the number of indices.
    /// All counts are 0 when any is.
    pub fn clip(&self, at: &Position) -> [(u32, u32); VIEW_DIMS] {
        let (base, bounds) = (self.base_coords(at), self.bounds(at));
        let mut ranges = [(0, 0); VIEW_DIMS];
        for d in 0..VIEW_DIMS {
            let dim = &self.dims[d];
            let first = (-base[d]).max(0);
            let end = (bounds[d] - base[d]).min(i64::from(dim.size));
            if end <= first {
                return [(0, 0); VIEW_DIMS];
            }
            ranges[d] = (first as u32, (end - first) as u32);
        }
        ranges
    }

    /// The second operand of a product, dense in row-major order, whose blocks this view of a packed one holds where `mask`
    /// has set flags; it clips where `mask` does. `None` where the view is not one block for each index of dimension 0, or
    /// a figure does not fit its field.
    pub fn unpacked(&self, mask: &View, order: Order) -> Option<View> {
        let [_, x, y, z, last] = self.sizes();
        let (ones, (n_dim, n), (k_dim, k)) = match order {
            Order::Kn => ([x, y], (4, last), (3, z)),
            Order::Nk => ([y, z], (1, x), (4, last)),
        };
        if ones != [1, 1] {
            return None;
        }
        let mut whole =
            View { format: self.format, pattern: self.pattern, k_dim: self.k_dim, ..mask.clone() };
        for (d, times) in [(n_dim, n), (k_dim, k)] {
            let steps = i32::try_from(times).ok()?;
            let dim = &mut whole.dims[d];
            dim.size = dim.size.checked_mul(times)?;
            dim.origin = dim.origin.checked_mul(steps)?;
            dim.bound = dim.bound.saturating_mul(times);
            for advance in whole.levels.iter_mut().chain(&mut whole.coords).flatten() {
                if usize::from(advance.dim) == d {
                    advance.step = advance.step.checked_mul(steps)?;
                }
            }
            if let Some(shift) = whole.shift.as_mut().filter(|shift| usize::from(shift.dim) == d) {
                shift.origin = shift.origin.checked_mul(steps)?;
                shift.bound = shift.bound.checked_mul(steps)?;
            }
        }
        let mut stride = 1i32;
        for dim in whole.dims.iter_mut().rev() {
            dim.stride = stride;
            stride = stride.checked_mul(i32::try_from(dim.size).ok()?)?;
        }
        whole.offset = 0;
        Some(whole)
    }

    /// How the planes of the slot or tensor relate.
    pub fn planes(&self) -> PlaneMap {
        PlaneMap {
            format: self.format,
            pattern: self.pattern,
            k_stride: u64::from(self.dims[self.k_dim as usize].stride.unsigned_abs()),
        }
    }
}

/// Derives positions in the planes of a grouped or N:M tensor from dense element numbers.
///
/// With `s` the stride of the dimension that groups run along and `g` their size, dense element
/// `e = hi * (s * g) + j * s + lo` (`j < g`, `lo < s`) has scale number `hi * s + lo`. Likewise the pattern group of
/// element e has number `hi * s + lo` with `m` for `g`, and its stored elements are `hi * (s * n) + j * s + lo`, `j < n`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PlaneMap {
    /// Format of the tensor.
    pub format: Format,
    /// Pattern of the stored codes.
    pub pattern: Option<Pattern>,
    /// Stride, in dense elements, of the dimension that groups and patterns run along; at least 1.
    pub k_stride: u64,
}

impl PlaneMap {
    /// Number of the scale of dense element `e`.
    pub fn scale_idx(&self, e: u64) -> u64 {
        self.group_place(e).0
    }

    /// Number of the scale of dense element `e`, and the element's place in its group.
    pub fn group_place(&self, e: u64) -> (u64, u64) {
        split(e, self.k_stride, u64::from(self.format.group_size()))
    }

    /// Number of the first stored element of the pattern group that holds dense element `e`; the group's others follow
    /// at distance [`PlaneMap::k_stride`]. For dense tensors, `e` itself.
    pub fn stored_idx(&self, e: u64) -> u64 {
        match self.pattern {
            None => e,
            Some(Pattern { n, m }) => {
                let s = self.k_stride.max(1);
                let (hi, lo) = (e / (s * u64::from(m)), e % s);
                hi * s * u64::from(n) + lo
            }
        }
    }

    /// Elements along the k dimension of the shortest run of whole groups and whole pattern groups; 1 where there are
    /// neither.
    pub fn unit(&self) -> u64 {
        let (group, pattern) =
            (self.format.group_size().max(1), self.pattern.map_or(1, |p| u32::from(p.m.max(1))));
        let divisor =
            (1..=group.min(pattern)).rev().find(|d| group.is_multiple_of(*d) && pattern.is_multiple_of(*d));
        u64::from(group) * u64::from(pattern) / u64::from(divisor.unwrap_or(1))
    }

    /// Bytes of each plane (codes, scales, indices) of a tensor of `elements` dense elements, in whole groups.
    pub fn plane_bytes(&self, elements: u64) -> [u64; 3] {
        let stored = match self.pattern {
            None => elements,
            Some(Pattern { n, m }) => elements.div_ceil(u64::from(m)) * u64::from(n),
        };
        let codes = self.format.element().bytes_for(stored);
        let scales = match self.format {
            Format::Scalar(_) => 0,
            Format::Grouped(g) => g.scale_bytes(elements.div_ceil(u64::from(g.size))),
        };
        let indices = self.pattern.map_or(0, |p| p.index_type().bytes_for(stored));
        [codes, scales, indices]
    }

    /// Byte offset of each plane when they follow one another without gaps.
    pub fn plane_offsets(&self, elements: u64) -> [u64; 3] {
        let [codes, scales, _] = self.plane_bytes(elements);
        [0, codes, codes + scales]
    }
}

fn split(e: u64, s: u64, g: u64) -> (u64, u64) {
    let s = s.max(1);
    let (hi, rest) = (e / (s * g), e % (s * g));
    (hi * s + rest % s, rest / s)
}

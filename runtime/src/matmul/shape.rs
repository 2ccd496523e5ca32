//! The shape of a product: everything about it that the same instruction finds again wherever its views clip alike.

use std::borrow::Cow;
use std::sync::OnceLock;

use lacuna_isa::format::Format;
use lacuna_isa::inst::{Operand, Order};
use lacuna_isa::object::Kernel;
use lacuna_isa::view::{VIEW_DIMS, View};

use super::mask::{self, Grain};
use super::panels::SharedPanels;
use super::product::{Origin, Product, Side, check_groups, offsets, reach};
use super::schedule::Schedule;
use crate::slots::{Layout, Placement};
use crate::trap::{Fault, TrapKind};

type Ranges = [(u32, u32); VIEW_DIMS];
/// Where the elements of each operand lie, if that is apart.
type Places<'p> = [Option<&'p Placement>; 2];
/// Clipping, and the views by whose placements operands lie apart.
type Key = ([Ranges; 2], [Option<u16>; 2]);

/// An instruction's operands: bank, first, second, and what chooses terms.
#[derive(Clone, Copy)]
pub(super) struct Operands {
    pub bank: Operand,
    pub a: Operand,
    pub b: Operand,
    pub order: Order,
    pub mask: Option<(Grain, Operand)>,
}

/// What no clipping changes.
#[derive(Clone, Debug)]
pub(super) struct Sizes {
    pub m: u64,
    pub n: u64,
    /// The second operand's view with all its blocks, where it holds the set ones alone.
    pub whole: Option<View>,
    pub layout: Layout,
}

impl Sizes {
    /// Checks that the operands make a product.
    pub fn new(kernel: &Kernel, of: &Operands) -> Result<Sizes, Fault> {
        let view = |operand: Operand| &kernel.views[usize::from(operand.view)];
        let (bank_view, a_view, near) = (view(of.bank), view(of.a), view(of.b));
        let (n_dims, k_dims) = mask::second_dims(of.order);
        let whole = match of.mask {
            Some((grain, mask)) => match mask::whole(grain, near, view(mask), of.order)? {
                Cow::Owned(whole) => Some(whole),
                Cow::Borrowed(_) => None,
            },
            None => None,
        };
        let b_view = whole.as_ref().unwrap_or(near);
        let size =
            |view: &View, dims: &[usize]| dims.iter().map(|&d| u64::from(view.dims[d].size)).product::<u64>();
        let (m, n, k) = (size(a_view, &[0, 1]), size(b_view, &n_dims), size(a_view, &[2, 3, 4]));
        let shape = |message: String| Err(Fault::new(TrapKind::ShapeMismatch, message));
        if size(b_view, &k_dims) != k {
            return shape(format!("the operands sum over {k} and {}", size(b_view, &k_dims)));
        }
        if bank_view.elements() != m * n {
            return shape(format!("a product of {m} x {n} for a bank of {}", bank_view.elements()));
        }
        check_groups(a_view, &[2, 3, 4])?;
        check_groups(b_view, &k_dims)?;
        check_groups(near, &k_dims)?;
        if let Some((grain, mask)) = of.mask {
            mask::check(grain, a_view, b_view, view(mask), of.order)?;
        }
        Ok(Sizes { m, n, layout: Layout::of(bank_view), whole })
    }
}

fn key(ranges: [Ranges; 2], places: Places<'_>) -> Key {
    (ranges, places.map(|place| place.map(|at| at.view)))
}

/// A product under one clipping.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    key: Key,
    pub rows: Vec<(usize, i64)>,
    pub cols: Vec<(usize, i64)>,
    pub a_k: Vec<i64>,
    pub b_k: Vec<i64>,
    /// Which k take part; all when empty.
    pub inside: Vec<bool>,
    /// Number of k that take part.
    pub n_in: u64,
    pub group: Option<usize>,
    /// Least and greatest element of each operand; `None` when nothing takes part.
    pub reach: Option<[(i64, i64); 2]>,
    /// The schedule of a product of all terms.
    pub schedule: Option<Schedule>,
}

impl Shape {
    fn new(
        views: [&View; 2],
        k_dims: [usize; 3],
        n_dims: [usize; 2],
        (ranges, places): ([Ranges; 2], Places<'_>),
    ) -> Result<Shape, Fault> {
        let compose = |side: usize| places[side].and_then(|at| at.compose(views[side]));
        let composed = [compose(0), compose(1)];
        let [a_view, b_view] = [0, 1].map(|side| composed[side].as_ref().unwrap_or(views[side]));
        let numbered = |view: &View, dims: &[usize], ranges: &Ranges| -> Vec<(usize, i64)> {
            let all = offsets(view, dims, ranges).into_iter().enumerate();
            all.filter(|(_, (_, inside))| *inside).map(|(i, (at, _))| (i, view.offset + at)).collect()
        };
        let a_k = offsets(a_view, &[2, 3, 4], &ranges[0]);
        let b_k = offsets(b_view, &k_dims, &ranges[1]);
        let mut inside: Vec<bool> = a_k.iter().zip(&b_k).map(|(a, b)| a.1 && b.1).collect();
        let n_in = inside.iter().filter(|&&inside| inside).count() as u64;
        if n_in == a_k.len() as u64 {
            inside.clear();
        }
        let units = [a_view, b_view].map(|view| view.planes().unit() as usize);
        let cut =
            |unit: usize| inside.chunks(unit).any(|group| group.iter().any(|&inside| inside != group[0]));
        if units.into_iter().any(cut) {
            return Err(Fault::new(TrapKind::PartialGroup, "clipping cuts through a group"));
        }
        let group = match (a_view.format, b_view.format) {
            (Format::Grouped(a), Format::Grouped(b)) => Some(usize::from(a.size.min(b.size))),
            (Format::Scalar(_), _) | (_, Format::Scalar(_)) => None,
        };
        if let (Some(size), Some(pattern)) = (group, b_view.pattern)
            && !size.is_multiple_of(usize::from(pattern.m))
        {
            let message = format!("groups of {size} do not hold whole groups of the pattern {pattern}");
            return Err(Fault::new(TrapKind::PartialGroup, message));
        }
        let mut shape = Shape {
            key: key(ranges, places),
            rows: numbered(a_view, &[0, 1], &ranges[0]),
            cols: numbered(b_view, &n_dims, &ranges[1]),
            a_k: a_k.into_iter().map(|k| k.0).collect(),
            b_k: b_k.into_iter().map(|k| k.0).collect(),
            inside,
            n_in,
            group,
            reach: None,
            schedule: None,
        };
        if n_in > 0 && !shape.rows.is_empty() && !shape.cols.is_empty() {
            let span = |lines: &[(usize, i64)], k: &[i64]| {
                let taken = k.iter().enumerate().filter(|(k, _)| shape.inside.is_empty() || shape.inside[*k]);
                let (low, high) = reach(lines.iter().map(|line| line.1));
                let (k_low, k_high) = reach(taken.map(|(_, &at)| at));
                (low + k_low, high + k_high)
            };
            shape.reach = Some([span(&shape.rows, &shape.a_k), span(&shape.cols, &shape.b_k)]);
        }
        Ok(shape)
    }

    /// The product of these planes.
    pub fn product<'s>(
        &'s self,
        planes: [[&'s [u8]; 3]; 2],
        layouts: [Layout; 2],
        stride: u64,
        b_origin: Origin,
    ) -> Product<'s> {
        let side = |number: usize, k_offsets: &'s [i64]| Side {
            planes: planes[number],
            map: layouts[number].map,
            k_offsets: k_offsets.into(),
        };
        Product {
            a: side(0, &self.a_k),
            b: side(1, &self.b_k),
            rows: (&self.rows[..]).into(),
            cols: (&self.cols[..]).into(),
            mask: (&self.inside[..]).into(),
            stride: stride as usize,
            b_origin,
            group: self.group,
        }
    }
}

/// Most clippings of one instruction that are kept.
const MAX_SHAPES: usize = 64;

/// The shapes of one instruction, in the order in which PEs met them.
#[derive(Default, Debug)]
pub(super) struct Shapes {
    sizes: OnceLock<Result<Sizes, Fault>>,
    known: OnceLock<Vec<OnceLock<Box<Shape>>>>,
}

/// A shape that is kept, or one that there was no room for.
pub(super) enum Met<'p> {
    Kept(&'p Shape),
    Own(Box<Shape>),
}

impl Shapes {
    /// What no clipping changes.
    pub fn sizes(&self, kernel: &Kernel, of: &Operands) -> Result<&Sizes, Fault> {
        self.sizes.get_or_init(|| Sizes::new(kernel, of)).as_ref().map_err(Fault::clone)
    }

    /// The shape of operands so clipped and placed; `schedule` makes the schedule of a new one.
    pub fn get(
        &self,
        views: [&View; 2],
        order: Order,
        (ranges, places): ([Ranges; 2], Places<'_>),
        schedule: impl FnOnce(&Shape) -> Option<Schedule>,
    ) -> Result<Met<'_>, Fault> {
        let key = key(ranges, places);
        let places_for = self.known.get_or_init(|| vec![OnceLock::new(); MAX_SHAPES]);
        let known = || places_for.iter().map_while(OnceLock::get);
        if let Some(shape) = known().find(|shape| shape.key == key) {
            return Ok(Met::Kept(shape));
        }
        let (n_dims, k_dims) = mask::second_dims(order);
        let mut shape = Box::new(Shape::new(views, k_dims, n_dims, (ranges, places))?);
        shape.schedule = schedule(&shape);
        for place in places_for {
            match place.set(shape) {
                Ok(()) => return place.get().map(|shape| Met::Kept(shape)).ok_or_else(lost),
                // Another PE was faster.
                Err(refused) => shape = refused,
            }
        }
        Ok(Met::Own(shape))
    }
}

/// A place that was set and is not: cannot be.
fn lost() -> Fault {
    Fault::new(TrapKind::OutOfBounds, "a shape of a product was lost")
}

/// What a kernel's products have in common over all PEs, launches and runs.
#[derive(Debug)]
pub(crate) struct Products {
    /// By instruction.
    pub(super) shapes: Vec<Shapes>,
    pub(super) panels: SharedPanels,
}

impl Products {
    /// Nothing known yet of a stream of `n` instructions.
    pub fn new(n: usize) -> Products {
        let shapes = std::iter::repeat_with(Shapes::default).take(n).collect();
        Products { shapes, panels: SharedPanels::default() }
    }
}

/// The shapes that a PE met last, by instruction.
#[derive(Default)]
pub(crate) struct LastShapes<'p>(Vec<Option<&'p Shape>>);

impl<'p> LastShapes<'p> {
    /// The shape that instruction `pc` of `n` met last, if its operands were so clipped and placed.
    pub(super) fn get(
        &mut self,
        pc: usize,
        n: usize,
        ranges: &[Ranges; 2],
        places: &Places<'_>,
    ) -> Option<&'p Shape> {
        if self.0.is_empty() {
            self.0.resize(n, None);
        }
        let views = places.map(|place| place.map(|at| at.view));
        self.0[pc].filter(|shape| shape.key.0 == *ranges && shape.key.1 == views)
    }

    /// Keeps the shape of instruction `pc`.
    pub(super) fn put(&mut self, pc: usize, shape: &'p Shape) {
        self.0[pc] = Some(shape);
    }
}

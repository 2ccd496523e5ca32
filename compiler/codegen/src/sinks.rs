//! Where a kernel stores its result: as it is, quantised, or both.
//!
//! A value that is quantised is stored in groups by the kernel that computes it, if its tiles consist of whole groups:
//! the value itself then crosses memory only where somebody else reads it.

use cranelift_entity::SecondaryMap;
use lacuna_ir::{ElemType, Function, Node, Op, Value};
use lacuna_isa::format::{Format, GroupFormat, ScalarType, ScaleMode};
use lacuna_isa::inst::{Action, Operand};
use lacuna_isa::object::BufferKind;
use lacuna_isa::program::Stream;

use crate::emit::{KernelBuilder, LocalDim, Tile};
use crate::place::Place;
use crate::refusal::Lowered;

/// A quantised copy of a kernel's result.
#[derive(Clone, Debug)]
pub struct GroupedSink {
    /// The quantised value.
    pub value: Value,
    /// Its place; strides are those of the result.
    pub place: Place,
    /// Its format.
    pub format: GroupFormat,
    /// How its scales are chosen.
    pub mode: ScaleMode,
    /// The dimension of the result that groups run along.
    pub axis: usize,
}

/// Everything that a kernel stores of its result.
#[derive(Clone, Debug)]
pub struct Sinks {
    /// Place of the result itself.
    pub plain: Place,
    /// Whether anybody reads it there.
    pub keeps_plain: bool,
    /// Its quantised copies.
    pub grouped: Vec<GroupedSink>,
}

impl Sinks {
    /// The result alone.
    pub fn plain(place: Place) -> Sinks {
        Sinks { plain: place, keeps_plain: true, grouped: Vec::new() }
    }

    /// Leaves the copies that do not fit to kernels of their own, which read the result.
    pub fn retain(&mut self, fits: impl Fn(&GroupedSink) -> bool) {
        let before = self.grouped.len();
        self.grouped.retain(fits);
        self.keeps_plain |= self.grouped.len() < before;
    }

    /// The dimension of the result that groups run along, and the greatest size of a group, a multiple of every other.
    pub fn group(&self) -> Option<(usize, u64)> {
        let sizes = self.grouped.iter().map(|g| u64::from(g.format.size));
        Some((self.grouped.first()?.axis, sizes.max()?))
    }

    /// Bytes of local memory for each element of the result: at most those of f32 for the result itself, and codes with
    /// their scales for each copy.
    pub fn element_bytes(&self) -> u64 {
        4 + 2 * self.grouped.len() as u64
    }

    /// Bytes of each element that cross memory, where the result itself is in the format `plain` and every copy is kept.
    pub fn stored_bytes(&self, plain: Format) -> f64 {
        let each = |format: Format, elements: u64| {
            KernelBuilder::slot_bytes(format, None, elements) as f64 / elements as f64
        };
        let copies = self.grouped.iter().map(|g| each(Format::Grouped(g.format), g.format.size.into()));
        copies.sum::<f64>() + if self.keeps_plain { each(plain, 1) } else { 0.0 }
    }
}

/// Quantisations of each value, and whether it has another user.
pub struct Quantised {
    /// Quantised copies of a value: node results, in order.
    pub copies: SecondaryMap<Value, Vec<Value>>,
    /// Whether something else than a quantisation reads it.
    pub is_read: SecondaryMap<Value, bool>,
    /// The node that alone reads a value.
    reader: SecondaryMap<Value, Option<Node>>,
}

impl Quantised {
    /// Finds the quantisations of `func`.
    pub fn of(func: &Function) -> Quantised {
        let mut found = Quantised {
            copies: SecondaryMap::new(),
            is_read: SecondaryMap::new(),
            reader: SecondaryMap::new(),
        };
        let mut uses: SecondaryMap<Value, u32> = SecondaryMap::new();
        for (node, data) in &func.nodes {
            for &arg in &data.args {
                uses[arg] += 1;
                found.reader[arg] = (uses[arg] == 1).then_some(node);
            }
            if let Op::MxQuantize { .. } = data.op {
                found.copies[data.args[0]].push(data.results[0]);
            } else {
                for &arg in &data.args {
                    found.is_read[arg] = true;
                }
            }
        }
        for &result in &func.results {
            found.is_read[result] = true;
            found.reader[result] = None;
        }
        found
    }

    /// The node that alone reads a value, if it is no result.
    pub fn only_reader(&self, value: Value) -> Option<Node> {
        self.reader[value]
    }

    /// The quantisation that alone reads a value through permutations and reshapes, behind these.
    pub fn behind_views(&self, func: &Function, value: Value) -> Option<Vec<Node>> {
        let mut path = Vec::new();
        let mut value = value;
        loop {
            let reader = self.reader[value]?;
            path.push(reader);
            match func.nodes[reader].op {
                Op::MxQuantize { .. } => return Some(path),
                Op::Permute { .. } | Op::Reshape { .. } => value = func.nodes[reader].results[0],
                _ => return None,
            }
        }
    }

    /// The format and axis of the first copy of an f32 value whose groups are all whole.
    pub fn grouping(&self, func: &Function, value: Value) -> Option<(GroupFormat, usize)> {
        let ty = func.ty(value);
        let first = self.copies[value].first()?;
        let ElemType::Grouped { format, axis } = func.ty(*first).elem else { return None };
        let whole = ty.shape[axis as usize].is_multiple_of(u64::from(format.size));
        (whole && ty.elem.scalar() == Some(ScalarType::F32)).then_some((format, axis as usize))
    }
}

/// A result on its way out of a kernel: its slot and its box.
pub struct Outlet {
    buffer: u8,
    tile: Tile,
    /// The slot as the program stores to it.
    pub stream: Stream,
}

impl Outlet {
    /// A buffer for the box `tile`, seen by the program through `dims`; groups run along `dims[k]` of the view.
    pub fn new(
        kb: &mut KernelBuilder<'_>,
        tile: Tile,
        format: Format,
        mode: ScaleMode,
        k: Option<usize>,
        dims: &[LocalDim],
    ) -> Lowered<Outlet> {
        let bytes = KernelBuilder::slot_bytes(format, None, tile.elements());
        let buffer = kb.buffer("y", BufferKind::Local, bytes, kb.inner_slots)?;
        let view = kb.local(format, None, k, dims)?;
        let stream = Stream { operand: Operand::new(buffer, Action::Push, view), mode };
        Ok(Outlet { buffer, tile, stream })
    }

    /// Stores the slot and frees it.
    pub fn store(&self, kb: &mut KernelBuilder<'_>) -> Lowered {
        self.store_from(kb, None)
    }

    /// The same for a box that lies further along a dimension of the tile, if `further` names one.
    pub fn store_from(&self, kb: &mut KernelBuilder<'_>, further: Option<(usize, i64)>) -> Lowered {
        let mut tile = self.tile.clone();
        if let Some((dim, by)) = further {
            tile.dims[dim].origin += by;
        }
        kb.store(self.buffer, &tile)
    }
}

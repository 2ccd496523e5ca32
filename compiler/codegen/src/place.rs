//! Where values live: storages (one allocation each) and places (a strided window onto a storage).
//!
//! Movement operators cost nothing where they only relabel: `permute`, `broadcast`, `slice`, `window` and most `reshape`s
//! give their result a place on the operand's storage.

use std::fmt;

use cranelift_entity::entity_impl;
use lacuna_ir::{ConstId, Constant, Shape};
use lacuna_isa::Blob;
use lacuna_isa::format::{Format, ScalarType};
use lacuna_isa::inst::MaskCode;
use lacuna_isa::view::{Pattern, PlaneMap};

/// Columns of a weight panel.
pub const PANEL: u64 = 32;

/// One allocation of HBM, shared SRAM or weights.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StorageId(u32);
entity_impl!(StorageId, "s");

/// How a constant is laid out in the object's weights.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Packing {
    /// As in the constant pool: row-major.
    Plain,
    /// The second operand of a product.
    Panels(Panels),
    /// For each panel and each `k` elements of K whether any of its codes is not zero: `[N/32][K/k]` flags.
    Flags {
        /// The layout of the codes.
        panels: Panels,
        /// Elements of K that share a flag.
        k: u64,
    },
    /// The blocks of the second operand of a product that are not zero.
    Blocks {
        /// The layout that they are cut from.
        panels: Panels,
        /// The tiles that they are cut into.
        tiles: BlockTiles,
    },
}

/// The blocks of panels that are not zero, tile by tile as a product loads them: `[tile along N][chunk of K][room][k][32]`. The
/// blocks of a tile stand in row-major order of panel and position along K, and what is left of its room is zero.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct BlockTiles {
    /// Elements of K in a block.
    pub k: u64,
    /// Blocks of a panel along the summed dimensions outside the one that is cut into chunks, along it, and inside it.
    pub along: [u64; 3],
    /// Blocks of a chunk along the dimension that is cut.
    pub flags: u64,
    /// Panels of a tile.
    pub panels: u64,
    /// Blocks that a tile has room for.
    pub room: u64,
    /// Elements from a tile along N to the next, for each of its panels.
    pub stride: u64,
}

impl BlockTiles {
    /// Elements of a block.
    pub fn block(&self) -> u64 {
        self.k * PANEL
    }

    /// Number of chunks.
    pub fn chunks(&self) -> u64 {
        self.along[1].div_ceil(self.flags.max(1))
    }

    /// For every block of panels whose flag in `set` is not 0, its first element there and here.
    pub fn moves(&self, set: &[u8]) -> Vec<(u64, u64)> {
        let [outer, cut, inner] = self.along;
        let of_panel = outer * cut * inner;
        let n_panels = set.len() as u64 / of_panel.max(1);
        let mut moves = Vec::new();
        for (tile, first) in (0..n_panels).step_by(self.panels.max(1) as usize).enumerate() {
            for chunk in 0..self.chunks() {
                let start = tile as u64 * self.panels * self.stride + chunk * self.room * self.block();
                let mut rank = 0;
                for panel in first..(first + self.panels).min(n_panels) {
                    for o in 0..outer {
                        let from = (o * cut + chunk * self.flags) * inner;
                        let to = (o * cut + ((chunk + 1) * self.flags).min(cut)) * inner;
                        for flag in from..to {
                            let at = panel * of_panel + flag;
                            if set[at as usize] != 0 {
                                moves.push((at * self.block(), start + rank * self.block()));
                                rank += 1;
                            }
                        }
                    }
                }
                debug_assert!(rank <= self.room, "{rank} blocks in room for {}", self.room);
            }
        }
        moves
    }

    /// Elements of all tiles of panels with `n_flags` blocks altogether.
    pub fn elements(&self, n_flags: u64) -> u64 {
        let panels = n_flags / self.along.iter().product::<u64>().max(1);
        panels.div_ceil(self.panels.max(1)) * self.panels * self.stride
    }
}

/// The second operand of a product: `[N/32][K][32]` codes, `[N/32][K/g][32]` scales, N:M indices like the codes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Panels {
    /// Column dimensions of the constant, from outermost to innermost; they merge into N.
    pub columns: Vec<u8>,
    /// Summed dimensions from outermost to innermost; they merge into K.
    pub summed: Vec<u8>,
    /// Size of the innermost summed dimension after padding to whole groups.
    pub k_inner: u64,
    /// N:M compression.
    pub pattern: Option<Pattern>,
    /// Type of the stored codes, which loads widen, where that is not the constant's: it has every value of the constant.
    pub narrow: Option<ScalarType>,
    /// How the masks of records are coded where zero codes are left out.
    pub code: Option<MaskCode>,
}

impl fmt::Display for Panels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("panels")?;
        self.narrow.iter().try_for_each(|ty| write!(f, " {ty}"))?;
        self.pattern.iter().try_for_each(|pattern| write!(f, " {pattern}"))?;
        f.write_str(if self.code.is_some() { " compressed" } else { "" })
    }
}

impl Panels {
    /// Type of the stored codes of a constant.
    pub fn stored(&self, constant: &Constant) -> ScalarType {
        self.narrow.unwrap_or(constant.ty.elem.format().element())
    }
}

/// What a storage holds.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum StorageKind {
    /// A constant of the pool.
    Const(ConstId, Packing),
    /// A parameter of the entry.
    Input(usize),
    /// A result of the entry.
    Output(usize),
    /// An intermediate tensor.
    Temp,
}

/// One allocation.
#[derive(Clone, Debug)]
pub struct Storage {
    /// What it holds.
    pub kind: StorageKind,
    /// Element format.
    pub format: Format,
    /// N:M pattern of the stored codes.
    pub pattern: Option<Pattern>,
    /// Stride of the dimension that groups and patterns run along.
    pub k_stride: u64,
    /// Dense elements, padded dimensions included.
    pub elements: u64,
    /// Format of the slots that loads of it make: `format`, or one that widens it.
    pub slot: Format,
    /// The bytes of a compressed tensor.
    pub records: Option<Records>,
}

/// A compressed tensor as the object has it.
#[derive(Clone, Debug)]
pub struct Records {
    /// How masks are coded.
    pub code: MaskCode,
    /// Records, scales and offsets.
    pub bytes: Blob,
    /// Byte offset of each of these planes.
    pub planes: [u64; 3],
}

impl Storage {
    /// A dense allocation without a pattern, whose groups run along neighbouring elements.
    pub fn dense(kind: StorageKind, format: Format, elements: u64) -> Storage {
        Storage { kind, format, pattern: None, k_stride: 1, elements, slot: format, records: None }
    }

    fn map(&self) -> PlaneMap {
        PlaneMap { format: self.format, pattern: self.pattern, k_stride: self.k_stride }
    }

    /// Bytes of all planes.
    pub fn bytes(&self) -> u64 {
        if let Some(records) = &self.records {
            return records.bytes.bytes().len() as u64;
        }
        self.map().plane_bytes(self.elements).iter().sum()
    }

    /// Byte offset of each plane.
    pub fn planes(&self) -> [u64; 3] {
        if let Some(records) = &self.records {
            return records.planes;
        }
        self.map().plane_offsets(self.elements)
    }
}

/// A strided window onto a storage: element `i` of a value is element `offset + sum(i[d] * strides[d])` of the storage.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// The storage.
    pub storage: StorageId,
    /// First element.
    pub offset: i64,
    /// Stride of each logical dimension; 0 where it repeats.
    pub strides: Vec<i64>,
}

impl Place {
    /// The part from coordinate `first` of a dimension on.
    pub fn part_from(&self, dim: usize, first: i64) -> Place {
        Place { offset: self.offset + first * self.strides[dim], ..self.clone() }
    }
}

/// Strides of a dense layout whose physical dimension order, outermost first, is `order`.
pub fn strides_in_order(shape: &[u64], order: &[usize]) -> Vec<i64> {
    let mut strides = vec![0; shape.len()];
    let mut stride = 1i64;
    for &d in order.iter().rev() {
        strides[d] = stride;
        stride *= shape[d].max(1) as i64;
    }
    strides
}

/// The dimensions from the widest stride to the narrowest; equal strides keep their order.
pub fn order_of(strides: &[i64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..strides.len()).collect();
    order.sort_by_key(|&d| std::cmp::Reverse(strides[d].unsigned_abs()));
    order
}

/// Strides of `new` over the elements of a window (`old`, `strides`), when a reshape needs no copy.
pub fn reshape_strides(old: &Shape, strides: &[i64], new: &Shape) -> Option<Vec<i64>> {
    if old.elements() == 0 {
        return Some(strides_in_order(new, &(0..new.rank()).collect::<Vec<_>>()));
    }
    let dims: Vec<(u64, i64)> =
        old.iter().zip(strides).filter(|(n, _)| **n != 1).map(|(&n, &s)| (n, s)).collect();
    let mut result = vec![0i64; new.rank()];
    let (mut i, mut j) = (0, 0);
    while i < dims.len() {
        // The shortest runs of old and new dimensions with equal products reshape into one another.
        let (first_i, first_j) = (i, j);
        let (mut from, mut to) = (dims[i].0, 1);
        i += 1;
        while j < new.rank() && (to < from || new[j] == 1) {
            to *= new[j];
            j += 1;
            while from < to && i < dims.len() {
                from *= dims[i].0;
                i += 1;
            }
        }
        if from != to || (first_i + 1..i).any(|d| dims[d - 1].1 != dims[d].1 * dims[d].0 as i64) {
            return None;
        }
        let mut stride = dims[i - 1].1;
        for d in (first_j..j).rev() {
            result[d] = stride;
            stride *= new[d] as i64;
        }
    }
    Some(result)
}

/// An input and an output that are one tensor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State {
    /// Name, that of the input.
    pub name: String,
    /// Number of the input.
    pub input: usize,
    /// Number of the output.
    pub output: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(old: &[u64], strides: &[i64], new: &[u64], expect: Option<&[i64]>) {
        let got = reshape_strides(&old.into(), strides, &new.into());
        assert_eq!(got.as_deref(), expect, "{old:?} {strides:?} -> {new:?}");
    }

    #[test]
    fn reshapes_without_copy() {
        check(&[2, 3, 4], &[12, 4, 1], &[6, 4], Some(&[4, 1]));
        check(&[2, 3, 4], &[12, 4, 1], &[2, 1, 12], Some(&[12, 12, 1]));
        check(&[6, 4], &[4, 1], &[2, 3, 2, 2], Some(&[12, 4, 2, 1]));
        check(&[2, 3], &[1, 2], &[6], None);
        check(&[2, 3], &[1, 2], &[2, 3, 1], Some(&[1, 2, 2]));
        check(&[4, 6], &[6, 1], &[3, 8], Some(&[8, 1]));
        check(&[1, 1], &[7, 9], &[1], Some(&[0]));
        check(&[2, 8], &[0, 1], &[2, 2, 4], Some(&[0, 4, 1]));
    }

    #[test]
    fn orders_are_physical() {
        assert_eq!(strides_in_order(&[2, 3, 4, 5], &[0, 2, 3, 1]), [60, 1, 15, 3]);
        assert_eq!(order_of(&[60, 1, 15, 3]), [0, 2, 3, 1]);
    }
}

//! The masks of `mmblk` and `mmact`: which k take part in which columns, and what a DPE does then.
//!
//! Flags are read once, into sets of k; columns with the same set share one, and a product with a mask is one product for
//! each set. The machine model uses the same sets where the flags are constants.

use std::borrow::Cow;
use std::collections::BTreeMap;

use lacuna_isa::inst::Order;
use lacuna_isa::timing::{DPE_COLUMNS, DpeActions, dpe_skip_elements};
use lacuna_isa::view::{Position, VIEW_DIMS, View};

use crate::trap::{Fault, TrapKind};

/// How flags choose terms.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Grain {
    /// Blocks of the second operand, which may hold the set ones alone.
    Blocks { packed: bool },
    /// Single k.
    Active,
}

/// Dimensions of the second operand: columns, then summed ones.
pub(crate) fn second_dims(order: Order) -> ([usize; 2], [usize; 3]) {
    match order {
        Order::Kn => ([0, 4], [1, 2, 3]),
        Order::Nk => ([0, 1], [2, 3, 4]),
    }
}

/// The second operand with all its blocks, of a product by `b`'s view.
pub(crate) fn whole<'a>(
    grain: Grain,
    b: &'a View,
    mask: &View,
    order: Order,
) -> Result<Cow<'a, View>, Fault> {
    match grain {
        Grain::Active | Grain::Blocks { packed: false } => Ok(Cow::Borrowed(b)),
        Grain::Blocks { packed: true } => b.unpacked(mask, order).map(Cow::Owned).ok_or_else(|| {
            let message = format!("{:?} are not blocks for a mask of {:?}", b.sizes(), mask.sizes());
            Fault::new(TrapKind::ShapeMismatch, message)
        }),
    }
}

/// Checks that the view of a mask fits the operands, the second one with all its blocks.
pub(crate) fn check(grain: Grain, a: &View, b: &View, mask: &View, order: Order) -> Result<(), Fault> {
    let shape = |message: String| Err(Fault::new(TrapKind::ShapeMismatch, message));
    match grain {
        Grain::Active => {
            let sizes = a.sizes();
            if mask.sizes() != [1, 1, sizes[2], sizes[3], sizes[4]] {
                return shape(format!("a mask of {:?} for a first operand of {sizes:?}", mask.sizes()));
            }
        }
        Grain::Blocks { .. } => {
            let sizes = b.sizes().into_iter().zip(mask.sizes());
            if sizes.clone().any(|(s, t)| t == 0 || s % t != 0) {
                return shape(format!(
                    "a mask of {:?} for a second operand of {:?}",
                    mask.sizes(),
                    b.sizes()
                ));
            }
            // Flags change only after whole runs of this length along the summed elements.
            let mut run = 1u64;
            for d in second_dims(order).1.into_iter().rev() {
                run *= u64::from(b.dims[d].size / mask.dims[d].size);
                if mask.dims[d].size > 1 {
                    break;
                }
            }
            let unit = u64::from(a.format.group_size().max(b.format.group_size()));
            if !run.is_multiple_of(unit) {
                let message = format!("blocks of {run} summed elements are no whole groups of {unit}");
                return Err(Fault::new(TrapKind::PartialGroup, message));
            }
        }
    }
    Ok(())
}

/// The flags of a mask at one position, in row-major order.
pub(crate) struct Flags {
    sizes: [u32; VIEW_DIMS],
    set: Vec<bool>,
}

impl Flags {
    /// Reads the flags that are not clipped; `get` is the flag of a slot's element.
    pub fn new(view: &View, at: &Position, get: impl Fn(i64) -> bool) -> Flags {
        let (sizes, ranges) = (view.sizes(), view.clip(at));
        let read = |number: usize| {
            let mut rest = number;
            let mut element = view.offset;
            for d in (0..VIEW_DIMS).rev() {
                let i = (rest % sizes[d] as usize) as u32;
                rest /= sizes[d] as usize;
                let (first, n) = ranges[d];
                if i < first || i - first >= n {
                    return false;
                }
                element += i64::from(view.dims[d].stride) * i64::from(i);
            }
            get(element)
        };
        Flags { sizes, set: (0..view.elements() as usize).map(read).collect() }
    }

    /// The first `n` set flags; later ones count as not set.
    pub fn first(mut self, n: u32) -> Flags {
        let set = self.set.iter_mut().filter(|set| **set);
        set.skip(n as usize).for_each(|set| *set = false);
        self
    }

    fn number(&self, idx: [u32; VIEW_DIMS]) -> usize {
        idx.iter().zip(self.sizes).fold(0, |number, (&i, size)| number * size as usize + i as usize)
    }

    fn is_set(&self, idx: [u32; VIEW_DIMS]) -> bool {
        self.set[self.number(idx)]
    }
}

/// Columns with the same k.
pub(crate) struct Part {
    /// Number in the bank and dense element, for k 0 where `elements` does not say it.
    pub cols: Vec<(usize, i64)>,
    /// For every k whether it takes part.
    pub set: Vec<bool>,
    /// Element of every k that takes part, from those of the columns on, where that differs from part to part.
    pub elements: Option<Vec<i64>>,
}

/// A packed second operand: where its set blocks lie.
pub(crate) struct Packed<'a> {
    view: &'a View,
    flags: &'a Flags,
    order: Order,
    /// For every flag the number of set ones before it.
    ranks: Vec<usize>,
}

impl<'a> Packed<'a> {
    pub fn new(view: &'a View, flags: &'a Flags, order: Order) -> Packed<'a> {
        let ranks = flags.set.iter().scan(0, |n, &set| {
            let before = *n;
            *n += usize::from(set);
            Some(before)
        });
        Packed { view, flags, order, ranks: ranks.collect() }
    }

    /// The columns of each block, of the columns `cols` and the k `inside` (all when it is empty) that take part.
    pub fn parts(&self, cols: &[(usize, i64)], inside: &[bool]) -> Vec<Part> {
        let (n_dims, _) = second_dims(self.order);
        let lanes = self.view.dims[n_dims[1]];
        let blocks = cols.chunk_by(|a, b| a.0 / lanes.size as usize == b.0 / lanes.size as usize);
        let part = |block: &[(usize, i64)]| {
            let lane = |col: usize| i64::from(lanes.stride) * (col % lanes.size as usize) as i64;
            let (mut set, elements) = self.k_of(block[0].0 / lanes.size as usize);
            set.iter_mut().zip(inside).for_each(|(set, inside)| *set &= *inside);
            let cols = block.iter().map(|&(col, _)| (col, self.view.offset + lane(col))).collect();
            Part { cols, set, elements: Some(elements) }
        };
        blocks.map(part).collect()
    }

    /// Which k the set blocks of column block `number` have, and the element of each for the first column.
    fn k_of(&self, number: usize) -> (Vec<bool>, Vec<i64>) {
        let (n_dims, k_dims) = second_dims(self.order);
        let k = self.view.dims[k_dims[2]];
        let inner = self.flags.sizes[n_dims[1]] as usize;
        let mut idx = [0; VIEW_DIMS];
        (idx[n_dims[0]], idx[n_dims[1]]) = ((number / inner) as u32, (number % inner) as u32);
        let [x, y, z] = k_dims.map(|d| self.flags.sizes[d]);
        let (mut set, mut elements) = (Vec::new(), Vec::new());
        for at in 0..x * y * z {
            (idx[k_dims[0]], idx[k_dims[1]], idx[k_dims[2]]) = (at / (y * z), at / z % y, at % z);
            let flag = self.flags.number(idx);
            let on = self.flags.set[flag];
            let start = i64::from(self.view.dims[0].stride) * self.ranks[flag] as i64;
            set.extend((0..k.size).map(|_| on));
            elements
                .extend((0..i64::from(k.size)).map(|e| if on { start + i64::from(k.stride) * e } else { 0 }));
        }
        (set, elements)
    }
}

/// Which k take part, by column.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Chosen {
    /// The distinct sets, each with a flag per k.
    pub sets: Vec<Vec<bool>>,
    /// For every column that takes part, in ascending order, the number of its set.
    pub of: Vec<usize>,
    /// Flags read.
    flags: u64,
}

impl Chosen {
    /// Reads the flags. `columns` are the numbers of the columns that take part, `inside` the k that clipping leaves: all
    /// when it is empty.
    pub fn new(
        grain: Grain,
        b: &View,
        order: Order,
        flags: &Flags,
        columns: &[usize],
        inside: &[bool],
    ) -> Chosen {
        let keep = |k: usize| inside.is_empty() || inside[k];
        match grain {
            Grain::Active => {
                let [_, _, x, y, z] = flags.sizes;
                let mut set = Vec::new();
                for i in 0..x {
                    for j in 0..y {
                        for l in 0..z {
                            set.push(keep(set.len()) && flags.is_set([0, 0, i, j, l]));
                        }
                    }
                }
                let n_flags = set.len() as u64;
                Chosen { sets: vec![set], of: vec![0; columns.len()], flags: n_flags }
            }
            Grain::Blocks { .. } => {
                let (n_dims, k_dims) = second_dims(order);
                let block: [u32; VIEW_DIMS] = std::array::from_fn(|d| b.dims[d].size / flags.sizes[d].max(1));
                let [x, y, z] = k_dims.map(|d| b.dims[d].size);
                let mut numbers: BTreeMap<Vec<bool>, usize> = BTreeMap::new();
                let mut of_block: BTreeMap<[u32; 2], usize> = BTreeMap::new();
                let mut sets = Vec::new();
                let mut of = Vec::with_capacity(columns.len());
                for &column in columns {
                    let inner = b.dims[n_dims[1]].size as usize;
                    let at = [column / inner, column % inner];
                    let blocks = [0, 1].map(|i| at[i] as u32 / block[n_dims[i]]);
                    let number = *of_block.entry(blocks).or_insert_with(|| {
                        let mut idx = [0; VIEW_DIMS];
                        (idx[n_dims[0]], idx[n_dims[1]]) = (blocks[0], blocks[1]);
                        let mut set = Vec::new();
                        for i in 0..x {
                            for j in 0..y {
                                for l in 0..z {
                                    for (d, k) in k_dims.into_iter().zip([i, j, l]) {
                                        idx[d] = k / block[d];
                                    }
                                    set.push(keep(set.len()) && flags.is_set(idx));
                                }
                            }
                        }
                        let next = sets.len();
                        *numbers.entry(set).or_insert_with_key(|set| {
                            sets.push(set.clone());
                            next
                        })
                    });
                    of.push(number);
                }
                let n_flags = flags.set.len() as u64;
                Chosen { sets, of, flags: n_flags }
            }
        }
    }

    /// The columns of each set, of the columns `cols` that take part.
    pub fn parts(&self, cols: &[(usize, i64)]) -> Vec<Part> {
        let part = |(number, set): (usize, &Vec<bool>)| {
            let of_set = cols.iter().zip(&self.of).filter(|(_, of)| **of == number);
            Part { cols: of_set.map(|(col, _)| *col).collect(), set: set.clone(), elements: None }
        };
        self.sets.iter().enumerate().map(part).collect()
    }

    /// What a DPE does for `m` rows; `inside` as in [`Chosen::new`].
    pub fn actions(&self, grain: Grain, m: u64, b: &View, inside: &[bool]) -> DpeActions {
        let n_k = self.sets.first().map_or(0, Vec::len);
        let present: Vec<usize> = (0..n_k).filter(|&k| inside.is_empty() || inside[k]).collect();
        let set_in = |set: usize| self.sets[set].iter().filter(|&&on| on).count() as u64;
        let b_reads: u64 = self.of.iter().map(|&set| set_in(set)).sum();
        let (mut steps, mut a_reads) = (0, 0);
        match grain {
            Grain::Active => {
                let k = self.sets.first().map_or(0, |_| set_in(0));
                steps = m * (self.of.len() as u64).div_ceil(DPE_COLUMNS) * k;
                a_reads = m * k;
            }
            Grain::Blocks { .. } => {
                for step in present.chunks(dpe_skip_elements(b.format) as usize) {
                    let mut read = false;
                    for tile in self.of.chunks(DPE_COLUMNS as usize) {
                        if tile.iter().any(|&set| step.iter().any(|&k| self.sets[set][k])) {
                            steps += m * step.len() as u64;
                            read = true;
                        }
                    }
                    a_reads += if read { m * step.len() as u64 } else { 0 };
                }
            }
        }
        let macs = m * b_reads;
        let dense = m * self.of.len() as u64 * present.len() as u64;
        DpeActions {
            steps,
            a_reads,
            b_reads,
            macs,
            skipped: dense - macs,
            flags: self.flags,
            ..DpeActions::default()
        }
    }
}

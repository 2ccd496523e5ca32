//! The masks of `mmblk` and `mmact`: which k take part in which columns, and what a DPE does then.
//!
//! Flags are read once, into sets of k; columns with the same set share one, and a product with a mask is one product for
//! each set. The machine model uses the same sets where the flags are constants.

use std::collections::BTreeMap;

use lacuna_isa::inst::Order;
use lacuna_isa::timing::{DPE_COLUMNS, DPE_SKIP_BYTES, DpeActions};
use lacuna_isa::view::{Position, VIEW_DIMS, View};

use crate::trap::{Fault, TrapKind};

/// How flags choose terms.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Grain {
    /// Blocks of the second operand.
    Blocks,
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

/// Checks that the view of a mask fits the operands.
pub(crate) fn check(grain: Grain, a: &View, b: &View, mask: &View, order: Order) -> Result<(), Fault> {
    let shape = |message: String| Err(Fault::new(TrapKind::ShapeMismatch, message));
    match grain {
        Grain::Active => {
            let sizes = a.sizes();
            if mask.sizes() != [1, 1, sizes[2], sizes[3], sizes[4]] {
                return shape(format!("a mask of {:?} for a first operand of {sizes:?}", mask.sizes()));
            }
        }
        Grain::Blocks => {
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

/// The flags of a mask at one position.
pub(crate) struct Flags<'a, F: Fn(i64) -> bool> {
    pub view: &'a View,
    /// What clipping leaves.
    ranges: [(u32, u32); VIEW_DIMS],
    /// The flag of a slot's element.
    get: F,
}

impl<'a, F: Fn(i64) -> bool> Flags<'a, F> {
    pub fn new(view: &'a View, at: &Position, get: F) -> Flags<'a, F> {
        Flags { view, ranges: view.clip(at), get }
    }

    fn is_set(&self, idx: [u32; VIEW_DIMS]) -> bool {
        let mut element = self.view.offset;
        for (d, i) in idx.into_iter().enumerate() {
            let (first, n) = self.ranges[d];
            if i < first || i - first >= n {
                return false;
            }
            element += i64::from(self.view.dims[d].stride) * i64::from(i);
        }
        (self.get)(element)
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
    pub fn new<F: Fn(i64) -> bool>(
        grain: Grain,
        b: &View,
        order: Order,
        flags: &Flags<'_, F>,
        columns: &[usize],
        inside: &[bool],
    ) -> Chosen {
        let keep = |k: usize| inside.is_empty() || inside[k];
        match grain {
            Grain::Active => {
                let [_, _, x, y, z] = flags.view.sizes();
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
            Grain::Blocks => {
                let (n_dims, k_dims) = second_dims(order);
                let block: [u32; VIEW_DIMS] =
                    std::array::from_fn(|d| b.dims[d].size / flags.view.dims[d].size.max(1));
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
                let n_flags = flags.view.elements();
                Chosen { sets, of, flags: n_flags }
            }
        }
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
            Grain::Blocks => {
                let together = (DPE_SKIP_BYTES * 8 / u64::from(b.format.element().bits())).max(1) as usize;
                for step in present.chunks(together) {
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

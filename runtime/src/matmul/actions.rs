//! What depends on data, counted by instruction when a run is recorded: products, and loads that a mask chooses.

use std::collections::BTreeMap;

use lacuna_isa::timing::DpeActions;

use super::product::Product;
use super::scalar;

/// The products of one instruction of a launch, summed over its PEs and iterations.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ProductRecord {
    /// Number of the instruction in the kernel's stream.
    pub pc: usize,
    /// What the DPEs did.
    pub actions: DpeActions,
    /// What they would do for the same products without mask, pattern or zeros.
    pub dense: DpeActions,
}

/// The loads of one instruction of a launch that flags choose parts of, summed over its PEs and iterations.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LoadRecord {
    /// Number of the instruction in the kernel's stream.
    pub pc: usize,
    /// Bytes that crossed the port.
    pub bytes: u64,
    /// Bytes of the whole boxes.
    pub dense_bytes: u64,
}

/// The products and masked loads of a PE by instruction; empty unless it records.
#[derive(Default, Debug)]
pub(crate) struct ActionLog {
    pub records: bool,
    products: BTreeMap<usize, (DpeActions, DpeActions)>,
    loads: BTreeMap<usize, (u64, u64)>,
}

impl ActionLog {
    /// Adds one product.
    pub fn add(&mut self, pc: usize, actions: &DpeActions, dense: &DpeActions) {
        let (sum, whole) = self.products.entry(pc).or_default();
        sum.add(actions);
        whole.add(dense);
    }

    /// Adds one load of `bytes` of a box of `dense_bytes`.
    pub fn add_load(&mut self, pc: usize, bytes: u64, dense_bytes: u64) {
        let (sum, whole) = self.loads.entry(pc).or_default();
        *sum += bytes;
        *whole += dense_bytes;
    }

    /// Hands out what was counted so far, and goes on counting.
    pub fn split(&mut self) -> ActionLog {
        let products = std::mem::take(&mut self.products);
        ActionLog { records: self.records, products, loads: std::mem::take(&mut self.loads) }
    }

    /// Adds what another PE did.
    pub fn absorb(&mut self, other: &ActionLog) {
        for (&pc, (actions, dense)) in &other.products {
            self.add(pc, actions, dense);
        }
        for (&pc, &(bytes, dense_bytes)) in &other.loads {
            self.add_load(pc, bytes, dense_bytes);
        }
    }

    /// The sums of loads in ascending order of instructions.
    pub fn load_records(&self) -> Vec<LoadRecord> {
        let all = self.loads.iter();
        all.map(|(&pc, &(bytes, dense_bytes))| LoadRecord { pc, bytes, dense_bytes }).collect()
    }

    /// The sums in ascending order of instructions.
    pub fn records(&self) -> Vec<ProductRecord> {
        let all = self.products.iter();
        all.map(|(&pc, &(actions, dense))| ProductRecord { pc, actions, dense }).collect()
    }
}

/// Multiply-accumulates of `product`, and reads of its second operand, that zeros of the first one gate.
pub(super) fn gated(product: &Product<'_>) -> (u64, u64) {
    let (a, b) = (&product.a, &product.b);
    let n_k = a.k_offsets.len();
    let zero_rows: Vec<u64> = (0..n_k)
        .map(|k| {
            let is_zero = |row: i64| {
                let at = (row + a.k_offsets[k]) as usize;
                scalar::widened(a, at, at) == 0.0
            };
            if !product.takes_part(k) {
                return 0;
            }
            product.rows.iter().filter(|row| is_zero(row.1)).count() as u64
        })
        .collect();
    let (mut macs, mut reads) = (0, 0);
    for &(_, column) in product.cols.iter() {
        scalar::stored_terms(product, column, 0..n_k, |k, stored| {
            // A zero times an infinity or NaN is not 0.
            let dense = (column + b.k_offsets[k]) as usize;
            if zero_rows[k] > 0 && scalar::widened(b, stored, dense).is_finite() {
                macs += zero_rows[k];
                reads += u64::from(zero_rows[k] == product.rows.len() as u64);
            }
        });
    }
    (macs, reads)
}

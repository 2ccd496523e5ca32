//! What a product does apart from its bytes: rows, runs of k and blocks of columns, resolved once for all products that an
//! instruction computes with the same clipping.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use lacuna_isa::format::Format;

use super::product::{Product, reach};
use crate::simd::{COLUMNS, Rows, Segments};

/// The number of the next schedule.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// Up to 32 columns that are neighbours in the bank.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    /// Which of the product's columns.
    pub cols: Range<usize>,
    /// Element of the first column, for k of offset 0.
    pub first: i64,
    /// Place of the first column in a row of the bank.
    pub column: usize,
    /// Whether they are neighbours in the second operand.
    pub neighbours: bool,
}

/// The groups of the grouped rule.
#[derive(Clone, Debug)]
pub(crate) struct Groups {
    /// Runs of k of each, against a decoded panel.
    pub segments: Vec<Segments>,
    /// First k of each that takes part.
    pub firsts: Vec<usize>,
    /// Offset of that k in a row of the first operand.
    pub offsets: Vec<i64>,
    /// Whether all k of each group take part, are neighbours in the first operand and start where its groups do.
    pub even: bool,
    /// Number of the scale of each row and of each group, whose sum is that of both, where scales of the first operand follow
    /// one another along rows.
    pub scales: Option<(Vec<i64>, Vec<i64>)>,
}

/// A product without its bytes.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    /// Tells schedules apart.
    pub id: u64,
    /// The k that take part.
    pub ks: Vec<usize>,
    pub rows: Rows,
    /// Least and greatest element of the first operand.
    pub reach: (i64, i64),
    pub blocks: Vec<Block>,
    /// Runs of k in the second operand itself.
    pub direct: Segments,
    /// Runs of k in decoded panels, which have rows of 32 columns for each k.
    pub packed: Segments,
    pub groups: Option<Groups>,
}

impl Schedule {
    /// The schedule of a product that has rows, columns and k.
    pub fn new(product: &Product<'_>) -> Schedule {
        let (a, b) = (&product.a.k_offsets, &product.b.k_offsets);
        let ks: Vec<usize> = (0..a.len()).filter(|&k| product.takes_part(k)).collect();
        let a_k: Vec<i64> = ks.iter().map(|&k| a[k]).collect();
        let b_k: Vec<i64> = ks.iter().map(|&k| b[k]).collect();
        let packed: Vec<i64> = (0..ks.len()).map(|i| (i * COLUMNS) as i64).collect();
        let rows = Rows::new(product.rows.iter().map(|&(row, at)| (at, row * product.stride)));
        let (low, high) = reach(a_k.iter().copied());
        let reach = (rows.reach().0 + low, rows.reach().1 + high);
        let groups = product.group.map(|size| groups(product, size, &ks, &a_k, &packed));
        Schedule {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            rows,
            reach,
            blocks: blocks(&product.cols),
            direct: Segments::new(&a_k, &b_k),
            packed: Segments::new(&a_k, &packed),
            groups,
            ks,
        }
    }
}

fn blocks(cols: &[(usize, i64)]) -> Vec<Block> {
    let mut out = Vec::new();
    let mut start = 0;
    for run in cols.chunk_by(|a, b| a.0 + 1 == b.0) {
        for block in run.chunks(COLUMNS) {
            let (column, first) = block[0];
            let neighbours = block.iter().zip(first..).all(|(col, at)| col.1 == at);
            out.push(Block { cols: start..start + block.len(), first, column, neighbours });
            start += block.len();
        }
    }
    out
}

fn groups(product: &Product<'_>, size: usize, ks: &[usize], a_k: &[i64], packed: &[i64]) -> Groups {
    let (mut segments, mut firsts, mut offsets) = (Vec::new(), Vec::new(), Vec::new());
    let mut even = true;
    let mut i = 0;
    while i < ks.len() {
        let number = ks[i] / size;
        let n = ks[i..].iter().take_while(|&&k| k / size == number).count();
        let part = &a_k[i..i + n];
        even &= n == size && part.iter().zip(part[0]..).all(|(&at, want)| at == want);
        segments.push(Segments::new(part, &packed[i..i + n]));
        firsts.push(ks[i]);
        offsets.push(part[0]);
        i += n;
    }
    let wide = match product.a.map.format {
        Format::Grouped(format) => i64::from(format.size),
        Format::Scalar(_) => 1,
    };
    let along = product.a.map.k_stride <= 1 && product.rows.iter().all(|row| row.1 >= 0 && row.1 % wide == 0);
    let scales = (along && offsets.iter().all(|&at| at >= 0)).then(|| {
        let rows = product.rows.iter().map(|row| row.1 / wide).collect();
        (rows, offsets.iter().map(|&at| at / wide).collect())
    });
    Groups { segments, firsts, offsets, even, scales }
}

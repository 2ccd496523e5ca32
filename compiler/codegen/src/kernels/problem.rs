//! Products in normal form.
//!
//! A [`Problem`] is a contraction or a convolution brought to one form ([`super::contraction`], [`super::product_problem`]): result dimensions (batch, rows, columns), summed
//! dimensions, and how each operand moves along them. [`super::product_tiles`] chooses tiles, loop order and grid for it;
//! [`super::product`] emits the stream.

use std::rc::Rc;

use lacuna_ir::ConstId;
use lacuna_isa::format::{Format, ScalarType};
use lacuna_isa::inst::Order;
use lacuna_isa::sparse::BLOCK;

use super::space::SpaceDim;
use crate::place::{PANEL, Panels, Place, StorageId};
use crate::zeros::Form;

/// What role a result dimension plays.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Indexes both operands, or more dimensions than a tile has: one element per tile.
    Batch,
    /// Rows of the first operand.
    Row,
    /// Columns of the second operand.
    Column,
}

/// One dimension of the result.
#[derive(Clone, Debug)]
pub struct ResultDim {
    /// Its role.
    pub role: Role,
    /// Movement of the result (0), of the epilogue's loads (1..), of the first and second operand (last two). Of a second operand
    /// that is picked, batch dimensions move the indices, but for columns apart, which move the matrices.
    pub space: SpaceDim,
    /// Whether it is columns that merge with no other, and so are a dimension of the batch.
    pub apart: bool,
    /// For a row that is a window position: which summed dimension its kernel is, step, dilation, size of the kernel.
    pub window: Option<Window>,
}

/// How a spatial axis of a convolution moves.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Elements between positions.
    pub step: i64,
    /// Elements between kernel taps.
    pub dilation: i64,
    /// Kernel taps.
    pub taps: u64,
    /// Zeros before the first element.
    pub low: i64,
    /// Elements of the operand.
    pub extent: u64,
    /// Number of the summed dimension that walks the taps.
    pub k: usize,
}

/// One summed dimension.
#[derive(Clone, Copy, Debug)]
pub struct SummedDim {
    /// Elements, padded to whole groups where the operands are grouped.
    pub size: u64,
    /// Stride in the first operand.
    pub a: i64,
    /// Stride in the second operand (dense or panels).
    pub b: i64,
    /// Elements that the first operand has.
    pub a_bound: u64,
    /// Elements that the second operand has.
    pub b_bound: u64,
    /// Whether a window dimension loads it.
    pub window: bool,
}

/// The second operand.
#[derive(Clone, Debug)]
pub enum Second {
    /// A packed constant.
    Panels(Place),
    /// A tensor as it lies.
    Dense(Place, Order),
}

/// A product in normal form.
#[derive(Clone, Debug)]
pub struct Problem {
    /// Result dimensions: batch, then rows, then columns.
    pub dims: Vec<ResultDim>,
    /// Summed dimensions, outermost first; at most three.
    pub summed: Vec<SummedDim>,
    /// First operand.
    pub a: Place,
    /// Its format.
    pub a_format: Format,
    /// Second operand.
    pub b: Second,
    /// What picks it, where it is a table of matrices.
    pub pick: Option<Pick>,
    /// Its format, once it is widened.
    pub b_format: Format,
    /// How its codes are widened, where it is stored as codes with scales per block.
    pub widen: Option<Widen>,
    /// How zeros are used.
    pub form: Form,
    /// Flags of the second operand's blocks, in [`Form::Blocks`].
    pub flags: Option<BlockFlags>,
    /// Which summed dimension may be cut, and in multiples of what.
    pub chunk: (usize, u64),
}

impl Problem {
    /// Columns per step of the column axis.
    pub fn unit(&self, dim: usize) -> u64 {
        match (&self.b, self.dims[dim].role) {
            (Second::Panels(_), Role::Column) => PANEL,
            _ => 1,
        }
    }
}

/// What picks the matrices of a second operand from a table: an index for each element of the batch.
#[derive(Clone, Debug)]
pub struct Pick {
    /// Where the indices lie.
    pub storage: StorageId,
    /// The first of them.
    pub offset: i64,
    /// Elements of the table from a matrix to the next.
    pub stride: i64,
    /// Matrices of the table.
    pub bound: u64,
}

/// Flags of the blocks of a second operand.
#[derive(Clone, Debug)]
pub struct BlockFlags {
    /// Where they lie, `[N/32][K/k]`.
    pub place: Place,
    /// Elements along K that share a flag.
    pub k: u64,
    /// The constant.
    pub(super) constant: ConstId,
    /// Its layout.
    pub(super) panels: Panels,
    /// The flags themselves, a byte each.
    pub(super) set: Rc<Vec<u8>>,
    /// Flags of a panel, and how many are set in each.
    pub(super) n_flags: u64,
    pub(super) n_set: Vec<u64>,
}

impl BlockFlags {
    /// The share of flags that are set.
    pub fn share(&self) -> f64 {
        self.n_set.iter().sum::<u64>() as f64 / self.set.len().max(1) as f64
    }

    /// The share of flags that are set in the worst of the runs of `n` panels: PEs each have one, and wait for the slowest.
    pub fn worst_share(&self, n: u64) -> f64 {
        let worst = self.n_set.chunks(n.max(1) as usize).map(|run| run.iter().sum::<u64>()).max();
        worst.unwrap_or(0) as f64 / (n * self.n_flags).max(1) as f64
    }

    /// How the flags of a panel lie along the summed dimensions: those of dimensions outside the one that is cut, of it, and
    /// inside it.
    pub(super) fn along(&self, problem: &Problem) -> [u64; 3] {
        let last = problem.summed.len() - 1;
        let flags =
            |i: usize| if i == last { problem.summed[i].size / self.k } else { problem.summed[i].size };
        let cut = problem.chunk.0;
        [(0..cut).map(flags).product(), flags(cut), (cut + 1..=last).map(flags).product()]
    }

    /// Flags along the summed dimension that is cut, in a chunk of `chunk` elements.
    pub(super) fn flags_of(&self, problem: &Problem, chunk: u64) -> u64 {
        if problem.chunk.0 + 1 == problem.summed.len() { chunk / self.k } else { chunk }
    }

    /// Counts of set flags, for the tiles of `problem`.
    pub fn counts(&self, problem: &Problem) -> Counts {
        let [outer, cut, inner] = self.along(problem);
        let row = cut as usize + 1;
        let mut sums = vec![0u32; row];
        for panel in self.set.chunks(self.n_flags.max(1) as usize) {
            let above = sums.len() - row;
            let mut before = 0;
            sums.push(0);
            for x in 0..cut {
                for o in 0..outer {
                    let first = ((o * cut + x) * inner) as usize;
                    before +=
                        panel[first..first + inner as usize].iter().map(|&set| u32::from(set)).sum::<u32>();
                }
                sums.push(sums[above + x as usize + 1] + before);
            }
        }
        Counts { sums, row }
    }

    /// Blocks that a slot needs room for, in tiles of `panels` panels and chunks of `chunk` elements: a whole number of
    /// records.
    pub fn room(&self, counts: &Counts, problem: &Problem, panels: u64, chunk: u64) -> u64 {
        let whole_records = (BLOCK as u64 / (PANEL * self.k)).max(1);
        let most = counts.most(panels, self.flags_of(problem, chunk));
        most.max(1).next_multiple_of(whole_records)
    }
}

/// Sums of flags over the first panels and the first positions along the summed dimension that is cut.
pub struct Counts {
    /// Row-major, a row for each number of panels.
    sums: Vec<u32>,
    /// Length of a row.
    row: usize,
}

impl Counts {
    /// Most set flags in any tile of `panels` panels by `flags` positions.
    fn most(&self, panels: u64, flags: u64) -> u64 {
        let (panels, flags) = (panels.max(1) as usize, flags.max(1) as usize);
        let (last_row, last) = (self.sums.len() / self.row - 1, self.row - 1);
        let mut most = 0;
        for top in (0..last_row).step_by(panels) {
            let [above, below] = [top, (top + panels).min(last_row)].map(|r| &self.sums[r * self.row..]);
            for from in (0..last).step_by(flags) {
                let to = (from + flags).min(last);
                most = most.max(below[to] - below[from] - (above[to] - above[from]));
            }
        }
        u64::from(most)
    }
}

/// Scales or zeros of codes in panels.
#[derive(Clone, Debug)]
pub enum Shared {
    /// Panels `[N/32][blocks][32]`.
    Panels {
        /// Where they lie; the one stride is that of panels.
        place: Place,
        /// Stride of each summed dimension, in blocks.
        strides: Vec<i64>,
        /// Element type.
        elem: ScalarType,
    },
    /// The same for all, as bits of an f32 lane.
    One(u64),
}

/// How the codes of a product's second operand become its elements.
#[derive(Clone, Debug)]
pub struct Widen {
    /// Type of the codes.
    pub codes: ScalarType,
    /// The scales.
    pub scales: Shared,
    /// What is subtracted from codes first.
    pub zeros: Option<Shared>,
    /// Elements of each summed dimension that share a scale.
    pub blocks: Vec<u64>,
    /// Types that the products of differences and scales are rounded to, one after the other.
    pub rounds: Vec<ScalarType>,
    /// Whether all elements of a column share a scale.
    pub whole: bool,
}

impl Widen {
    /// Elements of the last summed dimension, of `size`, that a tile has multiples of.
    pub fn step(&self, size: u64) -> u64 {
        self.blocks.last().copied().filter(|&b| b < size && !self.whole).unwrap_or(1)
    }

    /// Leaves out the `n` outermost summed dimensions, which have one element.
    pub fn drop_outermost(&mut self, n: usize) {
        self.blocks.drain(..n);
        for shared in [Some(&mut self.scales), self.zeros.as_mut()].into_iter().flatten() {
            if let Shared::Panels { strides, .. } = shared {
                strides.drain(..n);
            }
        }
    }
}

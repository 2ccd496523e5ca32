//! The plan of a product: its tiles, chunks, slots and pieces.

use lacuna_isa::sparse::BLOCK;

use super::problem::{Problem, Role};
use crate::emit::DOUBLE;
use crate::nest::Nest;
use crate::place::PANEL;

/// The chosen tiles: one axis per result dimension in the problem's order, then the axis of K.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Axes and grid.
    pub nest: Nest,
    /// Elements of the cut summed dimension in one step.
    pub chunk: u64,
    /// Slots of operands that are loaded in the innermost loop.
    pub slots: u8,
    /// Pieces in which a tile of the result leaves its bank.
    pub pieces: u64,
    /// Blocks that a slot of the second operand has room for, where it holds blocks.
    pub room: u64,
}

impl Plan {
    /// Number of the axis of K.
    pub fn k_axis(&self) -> usize {
        self.nest.axes.len() - 1
    }

    /// Panels of a tile.
    pub fn panels(&self, problem: &Problem) -> u64 {
        let column = problem.dims.iter().rposition(|d| d.role == Role::Column);
        column.map_or(1, |d| self.nest.axes[d].tile)
    }

    /// Elements of a block of the second operand.
    pub fn block(&self, problem: &Problem) -> u64 {
        problem.flags.as_ref().map_or(1, |flags| flags.k) * PANEL
    }

    /// Elements from the blocks of a tile of columns to those of the next, for each panel of the tile; whole records.
    pub fn tile_stride(&self, problem: &Problem) -> u64 {
        let elements = self.nest.axes[self.k_axis()].size * self.room * self.block(problem);
        elements.div_ceil(self.panels(problem)).next_multiple_of(self.block(problem).max(BLOCK as u64))
    }

    /// Elements of summed dimension `i` in one step.
    pub fn chunk_of(&self, problem: &Problem, i: usize) -> u64 {
        if i == problem.chunk.0 { self.chunk } else { problem.summed[i].size }
    }

    /// The dimension along which a tile of the result is cut: the rows that are most.
    pub fn cut(&self, problem: &Problem) -> Option<usize> {
        let rows = (0..problem.dims.len()).filter(|&d| problem.dims[d].role == Role::Row);
        rows.max_by_key(|&d| (self.nest.axes[d].tile, std::cmp::Reverse(d)))
    }

    /// In how many pieces a tile of `bytes` leaves its bank: so many that a piece is small, in equal numbers of rows.
    pub(super) fn pieces_of(&self, problem: &Problem, bytes: u64) -> u64 {
        let rows = self.cut(problem).map_or(1, |d| self.nest.axes[d].tile);
        let divides = |p: &u64| rows.is_multiple_of(*p);
        (1..=rows.min(MAX_PIECES)).filter(divides).find(|p| bytes / p <= PIECE_BYTES).unwrap_or(1)
    }

    pub(super) fn extent(&self, problem: &Problem, role: Role) -> u64 {
        (0..problem.dims.len())
            .filter(|&d| problem.dims[d].role == role)
            .map(|d| self.nest.axes[d].tile * problem.unit(d))
            .product()
    }

    /// Rows of one tile.
    pub fn rows(&self, problem: &Problem) -> u64 {
        self.extent(problem, Role::Row)
    }

    /// Columns of one tile.
    pub fn columns(&self, problem: &Problem) -> u64 {
        self.extent(problem, Role::Column)
    }
}

/// Bytes of a result that leave a bank at once, if rows allow it.
const PIECE_BYTES: u64 = 16 << 10;

/// Each piece takes instructions of its own.
const MAX_PIECES: u64 = 16;

/// Slots of a result that leaves its bank in pieces behind the innermost loop.
const PIECE_SLOTS: u8 = 4;

/// Slots of a result that leaves its bank in `pieces`, where operands of the innermost loop have `slots`. Without a loop over K the
/// stores are a stage behind: all pieces of a tile are there when the first of the next comes.
pub fn result_slots(chunked: bool, pieces: u64, slots: u8) -> u8 {
    let pieces = u8::try_from(pieces).unwrap_or(u8::MAX);
    match (chunked, pieces) {
        (true, _) => PIECE_SLOTS.min(pieces).max(DOUBLE),
        (false, 0 | 1) => slots,
        (false, _) => slots.max(pieces.saturating_add(1)),
    }
}

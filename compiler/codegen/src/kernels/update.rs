//! A state of which one row changes: the row is written where it belongs, and nothing else moves.
//!
//! The new value is a select whose condition compares the coordinate along one dimension with a position that is an input or computed. Its
//! kernel loads the position into a parameter, which moves the view of the store; a position out of range is clipped.

use lacuna_ir::{Node, Value};
use lacuna_isa::object::Kernel;
use lacuna_isa::view::{Dim, Shift, Space, VIEW_DIMS};

use crate::expr::{Expr, Leaf};
use crate::lower::{LaunchDraft, Lowering};
use crate::place::{Place, StorageId};
use crate::positions::Position;
use crate::refusal::{Lowered, Refusal};

/// A row that is written.
struct Update {
    /// The state.
    storage: StorageId,
    /// Dimension of the select that the position counts along.
    axis: usize,
    /// Strides of the state in the dimensions of the select.
    strides: Vec<i64>,
    position: Position,
    /// The new row, repeated along the axis.
    row: Value,
}

impl Lowering<'_> {
    /// Emits the new value of a state in place, if it is the old one but for a row; says whether it is.
    ///
    /// # Errors
    /// When the kernel of the row cannot be emitted.
    pub(crate) fn update_row(&mut self, node: Node, result: Value) -> Lowered<bool> {
        let Some((output, update)) = self.row_update(node, result)? else { return Ok(false) };
        let (mut shape, axis) = (self.func.ty(result).shape.clone(), update.axis);
        let rows = shape[axis];
        shape.0[axis] = 1;
        let elem = self.func.ty(result).elem.scalar().ok_or(Refusal::Grouped("a grouped state".into()))?;
        let mut expr = Expr::new(shape);
        expr.leaf(Leaf { place: self.place(update.row)?, elem, pad: None });
        let out = Place { storage: update.storage, offset: 0, strides: update.strides.clone() };
        let (first, known) = (self.launches.len(), self.kernels.len());
        self.map("update", &expr, &out)?;
        let drafts: Vec<LaunchDraft> = self.launches.drain(first..).collect();
        let moved: Option<Vec<(Kernel, LaunchDraft)>> =
            drafts.into_iter().map(|draft| self.at_position(draft, &update, rows)).collect();
        // Nobody launches those that store row 0.
        self.kernels.truncate(known);
        let Some(moved) = moved else { return Ok(false) };
        for (kernel, draft) in moved {
            self.launch_at(kernel, draft.bases);
        }
        self.places[result] = Some(out);
        self.updated.push(output);
        Ok(true)
    }

    /// What a select writes of a state; nothing where it is another select, or somebody else reads the old value.
    fn row_update(&mut self, node: Node, result: Value) -> Lowered<Option<(usize, Update)>> {
        let Some((output, strides)) = self.outputs[result].clone() else { return Ok(None) };
        let Some(state) = self.states.iter().find(|state| state.output == output) else { return Ok(None) };
        let [condition, row, old] = self.func.nodes[node].args[..] else { return Ok(None) };
        let mut from = old;
        while self.quantised.only_reader(from).is_some() && from != self.func.params[state.input] {
            match self.func.def(from).map(|def| &self.func.nodes[def]) {
                Some(data) if data.op.is_movement() => from = data.args[0],
                Some(_) | None => return Ok(None),
            }
        }
        // Rows of narrower elements would share bytes.
        let whole_bytes = self.func.ty(result).elem.scalar().is_some_and(|elem| elem.bits() >= 8);
        let is_old = whole_bytes
            && from == self.func.params[state.input]
            && self.quantised.only_reader(from).is_some();
        let inlined = self.func.def(row).is_some_and(|def| self.fusion.inlined[def]);
        let Some((axis, position)) = self.selected_row(condition).filter(|_| is_old && !inlined) else {
            return Ok(None);
        };
        let (old, row_place) = (self.place(old)?, self.place(row)?);
        let shape = self.func.ty(result).shape.clone();
        let same = |d: usize| shape[d] == 1 || old.strides[d] == strides[d];
        let fits = old.offset == 0 && (0..shape.rank()).all(same) && row_place.strides[axis] == 0;
        let Some(position) = self.position(position).filter(|_| fits) else { return Ok(None) };
        Ok(Some((output, Update { storage: old.storage, axis, strides, position, row })))
    }

    /// The kernel of a launch that stores row 0 of the state, at the position instead; `None` where its views have no room.
    fn at_position(&self, draft: LaunchDraft, update: &Update, rows: u64) -> Option<(Kernel, LaunchDraft)> {
        let mut kernel = self.kernels.get_index(draft.kernel)?.clone();
        let mut bases = draft.bases.clone();
        let stored = bases.iter().position(|(storage, _)| *storage == update.storage)?;
        let (stride, bound) = (i32::try_from(update.strides[update.axis]).ok()?, u32::try_from(rows).ok()?);
        for view in kernel.views.iter_mut().filter(|view| view.space == Space::Global(stored as u8)) {
            let moves = |d: usize| {
                view.levels.iter().chain(&view.coords).flatten().any(|advance| usize::from(advance.dim) == d)
            };
            let free = (0..VIEW_DIMS).find(|&d| {
                let Dim { size, origin, bound, .. } = view.dims[d];
                size == 1 && origin == 0 && bound == u32::MAX && !moves(d)
            })?;
            view.dims[free] = Dim { size: 1, stride, origin: 0, bound };
            view.shift = Some(Shift { param: 0, dim: free as u8, origin: 1, bound: 0 });
        }
        update.position.load(self, &mut kernel, &mut bases, [-1, i32::try_from(rows).ok()?])?;
        Some((kernel, LaunchDraft { bases, ..draft }))
    }
}

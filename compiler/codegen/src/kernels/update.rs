//! A state of which one row changes: the row is written where it belongs, and nothing else moves.
//!
//! The new value is a select whose condition compares the coordinate along one dimension with a position that is an input or computed. Its
//! kernel loads the position into a parameter, which moves the view of the store; a position out of range is clipped.

use lacuna_ir::op::CompareOp;
use lacuna_ir::{ConstantData, Node, Op, Value};
use lacuna_isa::format::{Format, ScalarType, pack};
use lacuna_isa::inst::InstKind;
use lacuna_isa::object::{Access, Kernel, Param, TensorDecl};
use lacuna_isa::view::{Dim, Shift, Space, VIEW_DIMS, View};

use crate::expr::{Expr, Leaf};
use crate::lower::{LaunchDraft, Lowering};
use crate::place::{Place, StorageId, reshape_strides};
use crate::refusal::{Lowered, Refusal};

/// A row that is written.
struct Update {
    /// The state.
    storage: StorageId,
    /// Dimension of the select that the position counts along.
    axis: usize,
    /// Strides of the state in the dimensions of the select.
    strides: Vec<i64>,
    /// Where the position is.
    position: Place,
    elem: ScalarType,
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
        let (old, row_place, position_place) = (self.place(old)?, self.place(row)?, self.place(position)?);
        let shape = self.func.ty(result).shape.clone();
        let same = |d: usize| shape[d] == 1 || old.strides[d] == strides[d];
        let elem = self.func.ty(position).elem.scalar();
        let elem = elem.filter(|elem| matches!(elem, ScalarType::I32 | ScalarType::I64));
        let fits = old.offset == 0 && (0..shape.rank()).all(same) && row_place.strides[axis] == 0;
        let Some(elem) = elem.filter(|_| fits) else { return Ok(None) };
        let storage = old.storage;
        Ok(Some((output, Update { storage, axis, strides, position: position_place, elem, row })))
    }

    /// The dimension of a condition that is set where the coordinate along it is equal to one number, and that number.
    fn selected_row(&self, condition: Value) -> Option<(usize, Value)> {
        let mut views = Vec::new();
        let mut value = condition;
        let compare = loop {
            let data = &self.func.nodes[self.func.def(value)?];
            match data.op {
                Op::Compare { op: CompareOp::Eq } => break data,
                Op::Broadcast { .. } | Op::Reshape { .. } | Op::Permute { .. } => {
                    views.push(data);
                    value = data.args[0];
                }
                _ => return None,
            }
        };
        let [a, b] = compare.args[..] else { return None };
        let (along, position) = match (self.coordinate(a), self.coordinate(b)) {
            (Some(along), None) => (along, b),
            (None, Some(along)) => (along, a),
            _ => return None,
        };
        let places = self.places[position].as_ref()?;
        let shape = self.func.ty(value).shape.clone();
        if (0..shape.rank()).any(|d| shape[d] > 1 && places.strides[d] != 0) {
            return None;
        }
        // Where a tensor would lie that moves along that coordinate alone.
        let mut strides: Vec<i64> = (0..shape.rank()).map(|d| i64::from(d == along)).collect();
        let mut shape = shape;
        for view in views.iter().rev() {
            let to = &self.func.ty(view.results[0]).shape;
            strides = match &view.op {
                Op::Permute { perm } => perm.iter().map(|&p| strides[usize::from(p)]).collect(),
                Op::Broadcast { dims, .. } => {
                    let mut wide = vec![0; to.rank()];
                    for (i, &d) in dims.iter().enumerate() {
                        wide[usize::from(d)] = if shape[i] == 1 { 0 } else { strides[i] };
                    }
                    wide
                }
                _ => reshape_strides(&shape, &strides, to)?,
            };
            shape = to.clone();
        }
        let mut moving = (0..shape.rank()).filter(|&d| shape[d] > 1 && strides[d] != 0);
        let axis = moving.next().filter(|&d| strides[d] == 1)?;
        moving.next().is_none().then_some((axis, position))
    }

    /// The dimension that a value is the coordinate along.
    fn coordinate(&self, value: Value) -> Option<usize> {
        let shape = &self.func.ty(value).shape;
        let data = &self.func.nodes[self.func.def(value)?];
        match data.op {
            Op::Iota { axis, .. } => Some(usize::from(axis)),
            Op::Const { value } => {
                let constant = &self.module.constants[value];
                let elem = constant.ty.elem.scalar().filter(|elem| elem.is_int() && elem.bits() >= 8)?;
                let ConstantData::Dense(blob) = &constant.data else { return None };
                let mut long = (0..shape.rank()).filter(|&d| shape[d] > 1);
                let (axis, None) = (long.next()?, long.next()) else { return None };
                let counts = |i: u64| elem.decode(pack::get(blob.bytes(), elem, i as usize)) == i as f64;
                (0..shape[axis]).all(counts).then_some(axis)
            }
            _ => None,
        }
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
        let bytes = self.storages[update.position.storage].bytes();
        let register = u8::try_from(bases.len()).ok()?;
        kernel.tensors.push(TensorDecl { access: Access::In, bytes, planes: [0, bytes, bytes] });
        bases.push((update.position.storage, 0));
        let src = u16::try_from(kernel.views.len()).ok()?;
        kernel.views.push(View {
            space: Space::Global(register),
            offset: update.position.offset,
            dims: [Dim::UNIT; VIEW_DIMS],
            ..View::dense(Format::Scalar(update.elem), [1; VIEW_DIMS])
        });
        kernel.params.push(Param { name: "position".into(), lo: -1, hi: i32::try_from(rows).ok()? });
        kernel.code.insert(0, InstKind::Ldp { param: 0, src }.into());
        Some((kernel, LaunchDraft { bases, ..draft }))
    }
}

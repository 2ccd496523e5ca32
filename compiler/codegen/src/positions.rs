//! Conditions that compare the coordinate along a dimension with a position: those that choose a row of a cache, and those that hide
//! the rows behind it.

use lacuna_ir::op::{BinaryOp, CompareOp};
use lacuna_ir::{ConstantData, Op, Shape, Value};
use lacuna_isa::format::{Format, ScalarType, pack};
use lacuna_isa::inst::InstKind;
use lacuna_isa::object::{Access, Kernel, Param, TensorDecl};
use lacuna_isa::view::{Dim, Space, VIEW_DIMS, View};

use crate::lower::Lowering;
use crate::place::{Place, StorageId, reshape_strides};

/// A comparison of a coordinate with a position.
struct Compared {
    op: CompareOp,
    /// The dimension of the comparison that the coordinate counts along.
    along: usize,
    /// Whether the coordinate stands first.
    first: bool,
    position: Value,
    shape: Shape,
}

/// A bound of a coordinate: it is at most `position + beyond` where the condition holds.
#[derive(Clone, Copy)]
pub(crate) struct Bound {
    /// The value with one element that the bound follows.
    pub position: Value,
    /// See above.
    pub beyond: i64,
}

/// A position in memory.
#[derive(Clone)]
pub(crate) struct Position {
    place: Place,
    elem: ScalarType,
}

impl Position {
    /// Has a kernel load the position into its first parameter before all else; `None` where no register is left for it.
    pub(crate) fn load(
        &self,
        lowering: &Lowering<'_>,
        kernel: &mut Kernel,
        bases: &mut Vec<(StorageId, u64)>,
        [lo, hi]: [i32; 2],
    ) -> Option<()> {
        let bytes = lowering.storages[self.place.storage].bytes();
        let register = u8::try_from(bases.len()).ok()?;
        let src = u16::try_from(kernel.views.len()).ok()?;
        kernel.tensors.push(TensorDecl { access: Access::In, bytes, planes: [0, bytes, bytes] });
        bases.push((self.place.storage, 0));
        kernel.views.push(View {
            space: Space::Global(register),
            offset: self.place.offset,
            dims: [Dim::UNIT; VIEW_DIMS],
            ..View::dense(Format::Scalar(self.elem), [1; VIEW_DIMS])
        });
        kernel.params.push(Param { name: "position".into(), lo, hi });
        kernel.code.insert(0, InstKind::Ldp { param: 0, src }.into());
        Some(())
    }
}

impl Lowering<'_> {
    /// Where a position is that a kernel can load: an integer of 32 or 64 bits.
    pub(crate) fn position(&self, value: Value) -> Option<Position> {
        let elem = self.func.ty(value).elem.scalar();
        let elem = elem.filter(|elem| matches!(elem, ScalarType::I32 | ScalarType::I64))?;
        Some(Position { place: self.places[value].clone()?, elem })
    }

    /// The dimension of a condition that is set where the coordinate along it is equal to one number, and that number.
    pub(crate) fn selected_row(&self, condition: Value) -> Option<(usize, Value)> {
        let (views, root) = self.behind_views(condition);
        let compared = self.compared(root)?;
        let axis = self.seen_through(&views, &compared).filter(|_| compared.op == CompareOp::Eq)?;
        Some((axis, self.one(compared.position)?))
    }

    /// The bound of the coordinate along dimension `axis` of a mask behind which it hides everything: it is false there, or adds a number
    /// so low that its exponential is 0.
    pub(crate) fn last_visible(&self, mask: Value, axis: usize) -> Option<Bound> {
        self.bound(mask, axis, Vec::new(), true)
    }

    /// The bound where `value`, seen through `views`, is visible; conditions are visible where they are `holds`.
    fn bound(&self, value: Value, axis: usize, mut views: Vec<Value>, holds: bool) -> Option<Bound> {
        let (more, root) = self.behind_views(value);
        views.extend(more);
        let data = &self.func.nodes[self.func.def(root)?];
        match data.op {
            Op::Select {} => {
                let [condition, yes, no] = data.args[..] else { return None };
                let kept = [(no, true), (yes, false)].into_iter().find(|(other, _)| self.hides(*other))?.1;
                self.bound(condition, axis, views, kept)
            }
            Op::Binary { op: BinaryOp::And } if holds => {
                data.args.iter().find_map(|&part| self.bound(part, axis, views.clone(), true))
            }
            Op::Binary { op: BinaryOp::Or } if !holds => {
                data.args.iter().find_map(|&part| self.bound(part, axis, views.clone(), false))
            }
            Op::Compare { .. } => {
                let compared = self.compared(root)?;
                (self.seen_through(&views, &compared)? == axis).then_some(())?;
                let short = match (compared.first, compared.op, holds) {
                    (true, CompareOp::Le, true) | (false, CompareOp::Lt, false) => 0,
                    (true, CompareOp::Lt, true) | (false, CompareOp::Le, false) => 1,
                    _ => return None,
                };
                let (position, beyond) = self.greatest(compared.position)?;
                Some(Bound { position, beyond: beyond - short })
            }
            _ => None,
        }
    }

    /// Whether a value is a number so low that scores to which it is added weigh nothing.
    fn hides(&self, value: Value) -> bool {
        // The greatest score of a row is finite, and far from the least number.
        self.splat(value).is_some_and(|low| low <= -1e30)
    }

    /// The number that all elements of a value are.
    fn splat(&self, value: Value) -> Option<f64> {
        let root = self.behind_views(value).1;
        let Op::Const { value } = self.func.nodes[self.func.def(root)?].op else { return None };
        let constant = &self.module.constants[value];
        let elem = constant.ty.elem.scalar()?;
        match constant.data {
            ConstantData::Splat(code) => Some(elem.decode(code)),
            ConstantData::Dense(_) => None,
        }
    }

    /// The one number that a position is at most, and how much it may be more: rows count on from it.
    fn greatest(&self, position: Value) -> Option<(Value, i64)> {
        if let Some(one) = self.one(position) {
            return Some((one, 0));
        }
        let root = self.behind_views(position).1;
        let data = &self.func.nodes[self.func.def(root)?];
        let (Op::Binary { op: BinaryOp::Add }, &[a, b]) = (&data.op, &data.args[..]) else { return None };
        [(a, b), (b, a)].into_iter().find_map(|(one, rows)| {
            let along = self.coordinate(self.behind_views(rows).1)?;
            let extent = self.func.ty(self.behind_views(rows).1).shape[along];
            Some((self.one(one)?, i64::try_from(extent).ok()? - 1))
        })
    }

    /// The value with one element, in memory, of which this one is a view.
    fn one(&self, value: Value) -> Option<Value> {
        let root = self.behind_views(value).1;
        (self.func.ty(root).shape.elements() == 1 && self.places[root].is_some()).then_some(root)
    }

    /// The views on the way to a value, outermost first, and what they are views of.
    fn behind_views(&self, mut value: Value) -> (Vec<Value>, Value) {
        let mut views = Vec::new();
        while let Some(data) = self.func.def(value).map(|node| &self.func.nodes[node]) {
            match data.op {
                Op::Broadcast { .. } | Op::Reshape { .. } | Op::Permute { .. } => {
                    views.push(value);
                    value = data.args[0];
                }
                _ => break,
            }
        }
        (views, value)
    }

    fn compared(&self, root: Value) -> Option<Compared> {
        let data = &self.func.nodes[self.func.def(root)?];
        let (Op::Compare { op }, &[a, b]) = (&data.op, &data.args[..]) else { return None };
        let (along, first, position) = match (self.coordinate(a), self.coordinate(b)) {
            (Some(along), None) => (along, true, b),
            (None, Some(along)) => (along, false, a),
            _ => return None,
        };
        Some(Compared { op: *op, along, first, position, shape: self.func.ty(root).shape.clone() })
    }

    /// The dimension of the outermost view along which the coordinate of a comparison counts.
    fn seen_through(&self, views: &[Value], compared: &Compared) -> Option<usize> {
        // Where a tensor would lie that moves along that coordinate alone.
        let mut shape = compared.shape.clone();
        let mut strides: Vec<i64> = (0..shape.rank()).map(|d| i64::from(d == compared.along)).collect();
        for &view in views.iter().rev() {
            let to = &self.func.ty(view).shape;
            strides = match &self.func.nodes[self.func.def(view)?].op {
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
        moving.next().is_none().then_some(axis)
    }

    /// The dimension that a value is the coordinate along.
    fn coordinate(&self, value: Value) -> Option<usize> {
        let (views, root) = self.behind_views(value);
        let shape = &self.func.ty(root).shape;
        let along = match self.func.nodes[self.func.def(root)?].op {
            Op::Iota { axis, .. } => usize::from(axis),
            Op::Const { value } => {
                let constant = &self.module.constants[value];
                let elem = constant.ty.elem.scalar().filter(|elem| elem.is_int() && elem.bits() >= 8)?;
                let ConstantData::Dense(blob) = &constant.data else { return None };
                let mut long = (0..shape.rank()).filter(|&d| shape[d] > 1);
                let (axis, None) = (long.next()?, long.next()) else { return None };
                let counts = |i: u64| elem.decode(pack::get(blob.bytes(), elem, i as usize)) == i as f64;
                (0..shape[axis]).all(counts).then_some(axis)?
            }
            _ => return None,
        };
        let counted =
            Compared { op: CompareOp::Eq, along, first: true, position: value, shape: shape.clone() };
        self.seen_through(&views, &counted)
    }
}

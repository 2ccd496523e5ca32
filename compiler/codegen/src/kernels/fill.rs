//! Kernels that write one value: results over nothing, surroundings of a padded tensor, zeros between spread elements.

use lacuna_ir::op::{ConvAttrs, ReduceOp};
use lacuna_ir::{Shape, Value};
use lacuna_isa::format::{Format, ScalarType};

use crate::code::lane_bits;
use crate::expr::{Expr, ExprNode, Leaf};
use crate::lower::Lowering;
use crate::place::{Place, Storage, StorageKind, order_of, strides_in_order};
use crate::refusal::{Lowered, Refusal};

impl Lowering<'_> {
    /// A new intermediate of the given type, in a physical order.
    pub fn temporary(&mut self, elem: ScalarType, shape: &[u64], order: &[usize]) -> Place {
        let storage = self.storages.push(Storage::dense(
            StorageKind::Temp,
            Format::Scalar(elem),
            shape.iter().product(),
        ));
        Place { storage, offset: 0, strides: strides_in_order(shape, order) }
    }

    /// Writes the element with code `code` everywhere in `out`.
    pub fn fill(&mut self, shape: &Shape, elem: ScalarType, code: u64, out: &Place) -> Lowered {
        let mut expr = Expr::new(shape.clone());
        expr.add(ExprNode::Const(lane_bits(elem, code)), elem);
        self.map("fill", &expr, out)
    }

    /// Copies a place over `shape` to another.
    pub fn copy(&mut self, shape: &Shape, elem: ScalarType, from: Place, to: &Place) -> Lowered {
        let mut expr = Expr::new(shape.clone());
        expr.leaf(Leaf { place: from, elem, pad: None });
        self.map("copy", &expr, to)
    }

    /// A reduction over no elements: the value that it starts from.
    pub fn reduce_nothing(&mut self, result: Value, op: ReduceOp) -> Lowered {
        let ty = self.func.ty(result).clone();
        let elem = ty.elem.scalar().ok_or(Refusal::Grouped("a reduction of a grouped value".into()))?;
        let extreme = |float: f64, int: f64| match elem {
            ScalarType::Bool => u64::from(int > 0.0),
            _ => elem.encode(if elem.is_float() { float } else { int }),
        };
        let code = match op {
            ReduceOp::Sum => 0,
            ReduceOp::Mean if elem.is_float() => elem.encode(f64::NAN),
            ReduceOp::Mean => 0,
            ReduceOp::Prod => elem.encode(1.0),
            ReduceOp::Max => extreme(f64::NEG_INFINITY, f64::MIN),
            ReduceOp::Min => extreme(f64::INFINITY, f64::MAX),
        };
        let place = self.allocate(result);
        self.fill(&ty.shape, elem, code, &place)?;
        self.places[result] = Some(place);
        Ok(())
    }

    /// `pad` by a value that the fabric interface cannot fill with: the value everywhere, then the operand inside.
    pub fn pad_by_value(&mut self, result: Value, x: Value, value: Value, low: &[u64]) -> Lowered {
        let ty = self.func.ty(result).clone();
        let elem = ty.elem.scalar().ok_or(Refusal::Grouped("padding a grouped value".into()))?;
        let place = self.allocate(result);
        match self.scalar_const(value) {
            Some(code) => self.fill(&ty.shape, elem, code, &place)?,
            None => {
                let from = self.place(value)?;
                let repeated = Place { strides: vec![0; ty.shape.rank()], ..from };
                let mut expr = Expr::new(ty.shape.clone());
                expr.leaf(Leaf { place: repeated, elem, pad: None });
                self.map("fill", &expr, &place)?;
            }
        }
        let shape = self.func.ty(x).shape.clone();
        if shape.elements() > 0 {
            let first: i64 = low.iter().zip(&place.strides).map(|(&l, &s)| l as i64 * s).sum();
            let inside = Place { offset: place.offset + first, ..place.clone() };
            let from = self.place(x)?;
            self.copy(&shape, elem, from, &inside)?;
        }
        self.places[result] = Some(place);
        Ok(())
    }

    /// The operand of a convolution with zeros between its elements where `attrs` spreads it, and its shape then.
    pub fn spread(&mut self, x: Value, attrs: &ConvAttrs) -> Lowered<(Place, Shape)> {
        let from = self.place(x)?;
        let ty = self.func.ty(x).clone();
        if attrs.x_dilations.iter().all(|&d| d == 1) || ty.shape.elements() == 0 {
            return Ok((from, ty.shape));
        }
        let elem = ty
            .elem
            .scalar()
            .ok_or(Refusal::Grouped("a transposed convolution in a grouped format".into()))?;
        let mut shape = ty.shape.clone();
        let mut steps = vec![1; shape.rank()];
        for (&d, &spread) in attrs.x[2..].iter().zip(&attrs.x_dilations) {
            let d = d as usize;
            steps[d] = spread as i64;
            shape.0[d] = (shape[d] - 1) * spread + 1;
        }
        let place = self.temporary(elem, &shape, &order_of(&from.strides));
        self.fill(&shape, elem, 0, &place)?;
        let strides = place.strides.iter().zip(&steps).map(|(&s, &step)| s * step).collect();
        self.copy(&ty.shape, elem, from, &Place { strides, ..place.clone() })?;
        Ok((place, shape))
    }
}

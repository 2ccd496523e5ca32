//! Expressions of kernels: a value with all that is inlined into it, or a part of it where it ends in a concatenation's user.

use cranelift_entity::SecondaryMap;
use lacuna_ir::{ConstantData, Node, Op, Value};

use super::{Lowered, Lowering};
use crate::code::lane_bits;
use crate::expr::{Expr, ExprId, ExprNode, Leaf};
use crate::place::{Place, order_of};
use crate::refusal::Refusal;

/// What an expression computes of its result.
#[derive(Clone, Copy)]
struct Part {
    /// The dimension that is cut.
    axis: usize,
    /// The first coordinate.
    first: i64,
    /// Number of the operand that concatenations have there.
    operand: usize,
}

impl Lowering<'_> {
    /// An expression that loads a materialised value.
    pub fn copy_of(&mut self, value: Value) -> Lowered<(Expr, ExprId)> {
        let ty = self.func.ty(value).clone();
        let elem = ty
            .elem
            .scalar()
            .ok_or(Refusal::Grouped("a grouped value cannot be copied element by element".into()))?;
        let place = self.place(value)?;
        let mut expr = Expr::new(ty.shape);
        let id = expr.leaf(Leaf { place, elem, pad: None });
        Ok((expr, id))
    }

    /// The expression that ends in `root`, with what is inlined into it, and its product if it has one.
    pub fn expression(&mut self, root: Value) -> Lowered<(Expr, Option<Node>)> {
        let mut expr = Expr::new(self.func.ty(root).shape.clone());
        let mut hero = None;
        let mut seen = SecondaryMap::new();
        self.grow(root, true, None, &mut expr, &mut hero, &mut seen)?;
        Ok((expr, hero))
    }

    /// The expression of an operand: what is inlined into its user, or a load.
    pub fn operand_expression(&mut self, value: Value) -> Lowered<Expr> {
        let mut expr = Expr::new(self.func.ty(value).shape.clone());
        self.grow(value, false, None, &mut expr, &mut None, &mut SecondaryMap::new())?;
        Ok(expr)
    }

    /// Emits an element-wise node with a concatenation in its expression: a kernel for each part.
    pub(super) fn map_parts(&mut self, node: Node, result: Value) -> Lowered {
        let concat = self.fusion.cut[node]
            .ok_or(Refusal::Contradiction("an expression without a concatenation".into()))?;
        let data = &self.func.nodes[concat];
        let Op::Concat { axis } = data.op else {
            return Err(Refusal::Contradiction("parts of something else".into()));
        };
        let axis = usize::from(axis);
        let mut parts = Vec::new();
        let mut first = 0;
        for (operand, &arg) in data.args.iter().enumerate() {
            let size = self.func.ty(arg).shape[axis];
            let mut expr = Expr::new(self.func.ty(result).shape.clone());
            expr.shape.0[axis] = size;
            let part = Part { axis, first, operand };
            self.grow(result, true, Some(part), &mut expr, &mut None, &mut SecondaryMap::new())?;
            parts.push(expr);
            first += size as i64;
        }
        let order = parts.first().and_then(|expr| self.result_order(expr, None));
        let mut sinks = self.sinks(result, order);
        // Groups might reach from one part into the next.
        sinks.retain(|_| false);
        self.store_parts(axis, &parts, &sinks.plain)?;
        self.take_places(result, sinks);
        Ok(())
    }

    /// Emits kernels that store parts side by side along an axis.
    pub(super) fn store_parts(&mut self, axis: usize, parts: &[Expr], place: &Place) -> Lowered {
        let mut first = 0;
        for expr in parts {
            if expr.shape.elements() > 0 {
                self.map(kernel_name(expr), expr, &place.part_from(axis, first))?;
            }
            first += expr.shape[axis] as i64;
        }
        Ok(())
    }

    /// Adds a value to an expression, or the `part` of it that the expression is about.
    fn grow(
        &mut self,
        value: Value,
        is_root: bool,
        part: Option<Part>,
        expr: &mut Expr,
        hero: &mut Option<Node>,
        seen: &mut SecondaryMap<Value, Option<ExprId>>,
    ) -> Lowered<ExprId> {
        if let Some(id) = seen[value] {
            return Ok(id);
        }
        let elem = self
            .func
            .ty(value)
            .elem
            .scalar()
            .ok_or(Refusal::Grouped("element-wise work on a grouped value".into()))?;
        let def = self.func.def(value).filter(|&n| is_root || self.fusion.inlined[n]);
        let id = match def {
            Some(node) if self.func.nodes[node].op.is_product() && self.is_over_nothing(node) => {
                expr.add(ExprNode::Const(0), elem)
            }
            Some(node) if self.func.nodes[node].op.is_product() => {
                *hero = Some(node);
                expr.add(ExprNode::Hero, elem)
            }
            Some(node) if matches!(self.func.nodes[node].op, Op::Concat { .. }) => {
                let part = part
                    .ok_or(Refusal::Contradiction("a concatenation in an expression without parts".into()))?;
                // What the part is made of is as large as the part.
                self.grow(self.func.nodes[node].args[part.operand], false, None, expr, hero, seen)?
            }
            Some(node) if self.func.nodes[node].op.is_elementwise() => {
                let data = &self.func.nodes[node];
                let args = data
                    .args
                    .iter()
                    .map(|&a| self.grow(a, false, part, expr, hero, seen))
                    .collect::<Lowered<Vec<_>>>()?;
                expr.add(ExprNode::Op(Box::new(data.op.clone()), args), elem)
            }
            _ => match self.scalar_const(value) {
                Some(code) => expr.add(ExprNode::Const(lane_bits(elem, code)), elem),
                None => {
                    let place = self.place(value)?;
                    let place = part.map_or_else(|| place.clone(), |p| place.part_from(p.axis, p.first));
                    expr.leaf(Leaf { place, elem, pad: None })
                }
            },
        };
        seen[value] = Some(id);
        Ok(id)
    }

    /// The code of a constant that has one element or repeats one.
    pub fn scalar_const(&self, value: Value) -> Option<u64> {
        let node = self.func.def(value)?;
        match self.func.nodes[node].op {
            Op::Broadcast { .. } | Op::Reshape { .. } => self.scalar_const(self.func.nodes[node].args[0]),
            Op::Const { value } => {
                let constant = &self.module.constants[value];
                let elem = constant.ty.elem.scalar()?;
                match &constant.data {
                    ConstantData::Splat(code) => Some(*code),
                    ConstantData::Dense(blob) if constant.ty.shape.elements() == 1 => {
                        Some(lacuna_isa::format::pack::get(blob.bytes(), elem, 0))
                    }
                    ConstantData::Dense(_) => None,
                }
            }
            _ => None,
        }
    }

    /// Whether a node has an operand without elements.
    pub(super) fn is_over_nothing(&self, node: Node) -> bool {
        self.func.nodes[node].args.iter().any(|&a| self.func.ty(a).shape.elements() == 0)
    }

    /// The physical order that a kernel's result takes without a preference of its own: its product's, or that of what it
    /// reads.
    pub(super) fn result_order(&mut self, expr: &Expr, hero: Option<Node>) -> Option<Vec<usize>> {
        let rank = expr.shape.rank();
        let from_hero = hero.and_then(|n| self.preferred[self.func.nodes[n].results[0]].clone());
        let order = from_hero.or_else(|| {
            if hero.is_some() {
                return None;
            }
            let full = expr
                .leaves
                .iter()
                .find(|l| l.place.strides.iter().zip(expr.shape.iter()).all(|(&s, &n)| s != 0 || n == 1))?;
            Some(order_of(&full.place.strides))
        });
        order.filter(|o| o.len() == rank)
    }
}

/// A kernel's name from what it computes.
pub(super) fn kernel_name(expr: &Expr) -> &'static str {
    if expr.is_copy() { "copy" } else { "map" }
}

//! Contractions that the DPE has no number format for: products and sums on the SIMD engine.

use lacuna_ir::op::{BinaryOp, ContractMap, ReduceOp};
use lacuna_ir::{Node, Op, Value};
use lacuna_isa::format::ScalarType;

use crate::code::lane_bits;
use crate::expr::{Expr, ExprId, ExprNode, Leaf};
use crate::lower::Lowering;
use crate::place::Place;
use crate::refusal::{Lowered, Refusal};

impl Lowering<'_> {
    /// A contraction as a reduction of products over the labels of the result, then the summed ones.
    pub fn dot(&mut self, node: Node, result: Value, map: &ContractMap, elem: ScalarType) -> Lowered {
        let args = self.func.nodes[node].args.clone();
        let labels: Vec<u8> = map.out.iter().copied().chain(map.summed()).collect();
        let size = |label: u8| -> u64 {
            let of = |labels: &[u8], value: Value| {
                labels.iter().position(|&l| l == label).map(|d| self.func.ty(value).shape[d])
            };
            of(&map.a, args[0]).or_else(|| of(&map.b, args[1])).unwrap_or(1)
        };
        let mut expr = Expr::new(labels.iter().map(|&l| size(l)).collect());
        let mut operand = |this: &mut Self, value: Value, own: &[u8]| -> Lowered<ExprId> {
            let from = this
                .func
                .ty(value)
                .elem
                .scalar()
                .ok_or(Refusal::Grouped("a grouped operand of a product in wide lanes".into()))?;
            let id = match this.scalar_const(value) {
                Some(code) => expr.add(ExprNode::Const(lane_bits(from, code)), from),
                None => {
                    let place = this.place(value)?;
                    let stride = |l: &u8| own.iter().position(|o| o == l).map_or(0, |d| place.strides[d]);
                    let strides = labels.iter().map(stride).collect();
                    expr.leaf(Leaf { place: Place { strides, ..place }, elem: from, pad: None })
                }
            };
            let cast = Op::Cast { to: elem, saturate: true };
            Ok(if from == elem { id } else { expr.add(ExprNode::Op(Box::new(cast), vec![id]), elem) })
        };
        let a = operand(self, args[0], &map.a)?;
        let b = operand(self, args[1], &map.b)?;
        expr.add(ExprNode::Op(Box::new(Op::Binary { op: BinaryOp::Mul }), vec![a, b]), elem);
        let walked: Vec<bool> = (0..labels.len()).map(|d| d >= map.out.len()).collect();
        self.reduce_expression("dot", result, &expr, ReduceOp::Sum, &walked)
    }
}

//! Contractions whose operands or results have more dimensions that do not merge than a view has: they are copied into an order in
//! which all dimensions of a role merge, and the result is copied back.

use lacuna_ir::op::ContractMap;
use lacuna_ir::{Node, Op, Value};
use lacuna_isa::format::Format;

use crate::expr::{Expr, ExprNode, Leaf};
use crate::lower::Lowering;
use crate::place::{Place, Storage, StorageKind, order_of, strides_in_order};
use crate::refusal::{Lowered, Refusal};
use crate::sinks::Sinks;

/// The dimensions of both operands and of the result, outermost first: batch, rows and summed; batch, summed and columns; batch, rows
/// and columns.
fn orders(map: &ContractMap) -> [Vec<usize>; 3] {
    let (batch, columns, summed) = (map.batch(), map.columns(), map.summed());
    let in_result = |labels: &[u8]| -> Vec<u8> {
        map.out.iter().copied().filter(|label| labels.contains(label)).collect()
    };
    let (batch, columns) = (in_result(&batch), in_result(&columns));
    let rows: Vec<u8> =
        map.out.iter().copied().filter(|label| !batch.contains(label) && !columns.contains(label)).collect();
    let order = |own: &[u8], roles: [&Vec<u8>; 3]| -> Vec<usize> {
        roles.into_iter().flatten().filter_map(|label| own.iter().position(|l| l == label)).collect()
    };
    [
        order(&map.a, [&batch, &rows, &summed]),
        order(&map.b, [&batch, &summed, &columns]),
        order(&map.out, [&batch, &rows, &columns]),
    ]
}

impl Lowering<'_> {
    /// Emits a contraction that was refused because too many dimensions do not merge, and its epilogue in a kernel of its own.
    ///
    /// # Errors
    /// `refusal`, where copies do not help.
    pub fn product_apart(&mut self, hero: Node, expr: &Expr, sinks: &mut Sinks, refusal: Refusal) -> Lowered {
        let data = &self.func.nodes[hero];
        let Op::Contract { map, .. } = &data.op else { return Err(refusal) };
        let &[a, b] = &data.args[..] else { return Err(refusal) };
        let Some(elem) = self.func.ty(data.results[0]).elem.scalar() else { return Err(refusal) };
        if a == b || self.picked(hero).is_some() {
            return Err(refusal);
        }
        let [order_a, order_b, order_out] = orders(map);
        let mut former = Vec::new();
        for (value, order) in [(a, order_a), (b, order_b)] {
            former.push((value, self.place(value)?));
            if self.func.as_const(value).is_none() || !map.batch().is_empty() {
                self.reorder(value, &order)?;
            }
        }
        let n_elements = expr.shape.elements();
        let storage = self.storages.push(Storage::dense(StorageKind::Temp, Format::Scalar(elem), n_elements));
        let place = Place { storage, offset: 0, strides: strides_in_order(&expr.shape, &order_out) };
        let mut whole = Expr::new(expr.shape.clone());
        whole.add(ExprNode::Hero, elem);
        let emitted = self.product(hero, &whole, &mut Sinks::plain(place.clone()));
        for (value, place) in former {
            self.places[value] = Some(place);
        }
        emitted.map_err(|_| refusal)?;
        let mut behind = expr.clone();
        behind.leaves.push(Leaf { place, elem, pad: None });
        for (node, _) in &mut behind.nodes {
            if matches!(node, ExprNode::Hero) {
                *node = ExprNode::Leaf(behind.leaves.len() - 1);
            }
        }
        sinks.retain(|_| false);
        self.map("map", &behind, &sinks.plain)
    }

    /// Copies a value of scalars so that its dimensions lie in this order, unless they do.
    fn reorder(&mut self, value: Value, order: &[usize]) -> Lowered {
        let ty = self.func.ty(value).clone();
        let Some(elem) = ty.elem.scalar() else { return Ok(()) };
        let from = self.place(value)?;
        let long =
            |order: &[usize]| -> Vec<usize> { order.iter().copied().filter(|&d| ty.shape[d] > 1).collect() };
        let strides = strides_in_order(&ty.shape, order);
        if long(&order_of(&from.strides)) == long(order) {
            return Ok(());
        }
        let storage =
            self.storages.push(Storage::dense(StorageKind::Temp, Format::Scalar(elem), ty.shape.elements()));
        let place = Place { storage, offset: 0, strides };
        self.copy(&ty.shape, elem, from, &place)?;
        self.places[value] = Some(place);
        Ok(())
    }
}

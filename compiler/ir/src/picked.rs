//! Products with matrices that indices pick from a table when the program runs, such as experts.

use crate::module::{Function, Node, NodeData, Value};
use crate::op::{ContractMap, Op};

/// The operand of a contraction that is matrices of a table, one for each index.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Picked {
    /// Number of the operand.
    pub operand: usize,
    /// The `gather` that defines it.
    pub gather: Node,
    /// The table.
    pub table: Value,
    /// The dimension of the table that indices count along.
    pub axis: usize,
    /// The indices.
    pub indices: Value,
    /// Dimensions of the indices, which stand in place of `axis`.
    pub n_dims: usize,
    /// Columns of a matrix: elements of the result for each index and row of the other operand.
    pub columns: u64,
}

impl Picked {
    /// The dimension of the table that dimension `dim` of the operand is; `None` for those of the indices.
    pub fn table_dim(&self, dim: usize) -> Option<usize> {
        match dim.checked_sub(self.axis) {
            None => Some(dim),
            Some(behind) => behind.checked_sub(self.n_dims).map(|d| d + self.axis + 1),
        }
    }

    /// The dimension of the indices that dimension `dim` of the operand is.
    pub fn index_dim(&self, dim: usize) -> Option<usize> {
        dim.checked_sub(self.axis).filter(|&d| d < self.n_dims)
    }
}

impl Function {
    /// The operand of a contraction that is picked from a table: each index stands for a matrix, of which one dimension is summed and
    /// another one is the result's alone, and has a place of its own in the result.
    pub fn picked(&self, node: &NodeData) -> Option<Picked> {
        let Op::Contract { map, .. } = &node.op else { return None };
        let &[a, b] = &node.args[..] else { return None };
        let found = [1, 0].into_iter().find_map(|operand| self.picked_operand(node, map, operand));
        found.filter(|_| a != b)
    }

    fn picked_operand(&self, node: &NodeData, map: &ContractMap, operand: usize) -> Option<Picked> {
        let gather = self.def(node.args[operand])?;
        let data = &self.nodes[gather];
        let Op::Gather { axis, batch: 0 } = data.op else { return None };
        let (axis, indices) = (usize::from(axis), data.args[1]);
        let n_dims = self.ty(indices).shape.rank();
        let mut picked = Picked { operand, gather, table: data.args[0], axis, indices, n_dims, columns: 1 };
        let (labels, other) = if operand == 0 { (&map.a, &map.b) } else { (&map.b, &map.a) };
        let shape = &self.ty(node.args[operand]).shape;
        let (mut kept, mut sums) = (true, false);
        let mut columns = Vec::new();
        for (d, (&label, &n)) in labels.iter().zip(shape.iter()).enumerate() {
            match (map.out.contains(&label), other.contains(&label)) {
                (out, _) if picked.index_dim(d).is_some() => kept &= out,
                // The batch is that of the indices.
                (true, true) => kept = false,
                (true, false) if n > 1 => {
                    picked.columns *= n;
                    columns.push(label);
                }
                (true, false) => {}
                (false, _) => sums |= n > 1,
            }
        }
        // The columns of a matrix are one run of the result's.
        let first = map.out.iter().position(|label| columns.first() == Some(label));
        let run = first.is_some_and(|first| map.out[first..].starts_with(&columns));
        (kept && sums && run).then_some(picked)
    }
}

#[cfg(test)]
mod tests {
    use lacuna_isa::format::ScalarType;

    use super::*;
    use crate::{FunctionBuilder, Module, TensorType};

    /// Contracts x [2, 8] with rows of a table [4, 6, 8] by two indices, and says what of it is picked.
    fn picked(map: &str, swap: bool) -> Option<(usize, Vec<Option<usize>>)> {
        let mut module = Module::default();
        let mut b = FunctionBuilder::new(&mut module, "main");
        let f32s = |shape: Vec<u64>| TensorType::new(ScalarType::F32, shape);
        let x = b.param(f32s(vec![2, 8]), "x");
        let table = b.param(f32s(vec![4, 6, 8]), "table");
        let indices = b.param(TensorType::new(ScalarType::I64, vec![2]), "indices");
        let rows = b.emit(Op::Gather { axis: 0, batch: 0 }, &[table, indices]).expect("a gather");
        let map = ContractMap::parse(map).expect("a map");
        let args = if swap { [rows, x] } else { [x, rows] };
        let y = b.emit(Op::Contract { map, elem: ScalarType::F32 }, &args).expect("a contraction");
        b.results(&[y]);
        let func = b.id();
        let func = &module.functions[func];
        let node = &func.nodes[func.def(y)?];
        func.picked(node).map(|p| (p.operand, (0..3).map(|d| p.table_dim(d)).collect()))
    }

    #[test]
    fn matrices_of_a_table() {
        let dims = vec![None, Some(1), Some(2)];
        assert_eq!(picked("sk,snk->sn", false), Some((1, dims.clone())));
        assert_eq!(picked("snk,sk->ns", true), Some((0, dims.clone())));
        // All indices for all rows of x.
        assert_eq!(picked("mk,snk->msn", false), Some((1, dims)));
        // The sum is over the indices too.
        assert_eq!(picked("sk,snk->n", false), None);
    }
}

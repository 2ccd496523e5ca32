//! The extents of a contraction.

use lacuna_ir::op::ContractMap;
use lacuna_ir::{Function, NodeData, Op, Value};
use lacuna_isa::format::Format;
use lacuna_isa::object::MemSpace;
use lacuna_isa::timing::DPE_COLUMNS;
use lacuna_isa::view::{Pattern, PlaneMap};

/// The extents of a contraction, and what its operands are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Extents {
    /// Products that share nothing.
    pub batch: u64,
    /// Rows: what only the first operand moves along.
    pub rows: u64,
    /// Columns: what only the second operand moves along.
    pub columns: u64,
    /// Summed elements.
    pub summed: u64,
    /// Of them, those along the dimension that is grouped; the others multiply it.
    pub grouped: u64,
    /// Which operand of the node is the first here: a constant is always second.
    pub first: usize,
    /// Elements of the node's operands.
    pub elements: [u64; 2],
    /// Where the node's operands lie.
    pub spaces: [MemSpace; 2],
    /// Whether the second operand is packed ahead of time.
    pub packed: bool,
    /// Elements of the result.
    pub result: u64,
    /// Where the result goes.
    pub result_space: MemSpace,
}

impl Extents {
    /// The extents of a contraction or convolution of `func`.
    pub fn of(func: &Function, node: &NodeData, constant: [bool; 2]) -> Extents {
        let shape = |i: usize| &func.ty(node.args[i]).shape;
        let result = &func.ty(node.results[0]).shape;
        let space = |v: Value, constant: bool| {
            if constant || func.def(v).is_none() { MemSpace::Hbm } else { MemSpace::Sram }
        };
        let to_hbm = func.results.contains(&node.results[0]);
        let mut this = Extents {
            batch: 1,
            rows: 1,
            columns: 1,
            summed: 1,
            grouped: 1,
            first: 0,
            elements: [shape(0).elements(), shape(1).elements()],
            spaces: [space(node.args[0], constant[0]), space(node.args[1], constant[1])],
            packed: constant[1] || constant[0],
            result: result.elements(),
            result_space: if to_hbm { MemSpace::Hbm } else { MemSpace::Sram },
        };
        if let Op::Contract { map, .. } = &node.op {
            let size = |map: &ContractMap, labels: &[u8]| -> u64 {
                let of = |l: &u8| {
                    let at = |own: &[u8], i: usize| own.iter().position(|x| x == l).map(|d| shape(i)[d]);
                    at(&map.a, 0).or_else(|| at(&map.b, 1)).unwrap_or(1)
                };
                labels.iter().map(of).product()
            };
            this.batch = size(map, &map.batch());
            this.rows = size(map, &map.rows());
            this.columns = size(map, &map.columns());
            this.summed = size(map, &map.summed());
            this.grouped = this.summed;
            if constant[0] && !constant[1] {
                this.first = 1;
                std::mem::swap(&mut this.rows, &mut this.columns);
            }
        } else if let Op::Conv { attrs, .. } = &node.op {
            let w = shape(1);
            let groups = attrs.groups.max(1);
            this.batch = groups;
            this.columns = w[attrs.w[0] as usize] / groups;
            this.rows = this.result / (this.columns * groups).max(1);
            this.summed = w.elements() / w[attrs.w[0] as usize].max(1);
            this.grouped = w[attrs.w[1] as usize];
            this.packed = constant[1] && groups == 1;
        }
        this
    }

    /// Bytes of the constant operand `i` of the node as it lies in the object: columns in whole panels, the grouped dimension in whole
    /// groups.
    pub fn weight_bytes(&self, format: Format, pattern: Option<Pattern>, i: usize) -> u64 {
        if !self.packed || i == self.first {
            return bytes(format, None, self.elements[i]);
        }
        let k = self.summed / self.grouped.max(1) * padded(self.grouped, format, pattern);
        bytes(format, pattern, self.batch * self.columns.next_multiple_of(DPE_COLUMNS) * k)
    }

    /// Multiply-accumulates.
    pub fn macs(&self) -> u64 {
        [self.rows, self.columns, self.summed].iter().fold(self.batch, |n, &d| n.saturating_mul(d))
    }
}

/// Bytes of elements in a format, scales and indices included.
pub fn bytes(format: Format, pattern: Option<Pattern>, elements: u64) -> u64 {
    PlaneMap { format, pattern, k_stride: 1 }.plane_bytes(elements).iter().sum()
}

/// Rounds up to whole groups.
pub fn padded(n: u64, format: Format, pattern: Option<Pattern>) -> u64 {
    n.next_multiple_of(u64::from(format.group_size())).next_multiple_of(pattern.map_or(1, |p| u64::from(p.m)))
}

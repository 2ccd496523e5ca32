//! What every phase asks of modules, constants and operators.

use cranelift_entity::EntityRef;
use lacuna_ir::op::BinaryOp;
use lacuna_ir::{Blob, Constant, ConstantData, FuncId, Module, Op};

/// Constants of at most this many bytes are shared by content.
pub(crate) const SMALL_BYTES: usize = 64;

/// Functions of a module, as a list that outlives changes to it.
pub(crate) fn functions(module: &Module) -> Vec<FuncId> {
    (0..module.functions.len()).map(FuncId::new).collect()
}

/// The operands of a product that have one summed dimension (input channels of a convolution), and which it is.
pub fn summed_dims(op: &Op) -> Vec<(usize, usize)> {
    if let Op::Conv { attrs, .. } = op {
        return vec![(1, attrs.w[1] as usize)];
    }
    let Op::Contract { map, .. } = op else { return Vec::new() };
    let [label] = map.summed()[..] else { return Vec::new() };
    let place = |labels: &[u8]| labels.iter().position(|&l| l == label);
    [&map.a, &map.b].iter().enumerate().filter_map(|(i, labels)| Some((i, place(labels)?))).collect()
}

/// A constant's dense form.
pub fn dense(constant: &Constant) -> Option<&Blob> {
    match &constant.data {
        ConstantData::Dense(blob) => Some(blob),
        ConstantData::Splat(_) => None,
    }
}

/// Whether an operator is this function of two operands.
pub(crate) fn is_binary(op: &Op, function: BinaryOp) -> bool {
    *op == Op::Binary { op: function }
}

//! Weights that a model stores as codes with scales per block stay so.
//!
//! Every other constant recipe is computed; a `dequantize` that a product reads is not: its codes are what the object stores.
//! Movement between the two is done to codes, scales and zeros alike. Where codes and scales are those of a group format, they
//! become a grouped constant, bit for bit, which is the same value.

use lacuna_ir::eval::{Mode, Tensor, eval_op};
use lacuna_ir::op::ContractMap;
use lacuna_ir::{
    Blob, ConstId, Constant, ConstantData, ElemType, Function, Module, NodeData, Op, TensorType, Value,
};
use lacuna_isa::format::{GroupFormat, ScalarType};

use crate::module::{functions, summed_dims};

/// A `dequantize` and the casts behind it, with movement applied.
#[derive(Clone, Debug)]
pub struct Pieces {
    /// Codes, scales and zeros.
    pub args: Vec<ConstId>,
    /// Elements that share a scale along each dimension.
    pub blocks: Vec<u64>,
    /// Types that values are rounded to, the first by `dequantize` itself.
    pub rounds: Vec<ScalarType>,
}

impl Pieces {
    /// The pieces of a permuted value.
    pub fn permuted(&self, module: &mut Module, perm: &[u8]) -> Option<Pieces> {
        let op = Op::Permute { perm: perm.to_vec() };
        let args = self.args.iter().map(|&id| moved(module, &op, id)).collect::<Option<_>>()?;
        let blocks = perm.iter().map(|&p| self.blocks[usize::from(p)]).collect();
        Some(Pieces { args, blocks, rounds: self.rounds.clone() })
    }

    /// The pieces of values one after the other along `axis`, if no block has elements of two of them.
    pub fn concatenated(module: &mut Module, parts: &[Pieces], axis: usize) -> Option<Pieces> {
        let (first, last) = (parts.first()?, parts.len() - 1);
        let block = first.blocks[axis];
        let alike = parts.iter().enumerate().all(|(i, part)| {
            let whole = i == last || module.constants[part.args[0]].ty.shape[axis].is_multiple_of(block);
            let same = part.blocks == first.blocks && part.rounds == first.rounds;
            whole && same && part.args.len() == first.args.len()
        });
        if !alike {
            return None;
        }
        let joined = |i: usize| joined(module, parts.iter().map(|p| p.args[i]), axis);
        let constants = (0..first.args.len()).map(joined).collect::<Option<Vec<Constant>>>()?;
        let args = constants.into_iter().map(|c| module.constants.push(c)).collect();
        Some(Pieces { args, ..first.clone() })
    }
}

/// A constant that a movement makes of another.
fn moved(module: &mut Module, op: &Op, id: ConstId) -> Option<ConstId> {
    let constant = &module.constants[id];
    let tensor = Tensor::from_constant(constant).ok()?;
    let result = eval_op(module, op, &[&tensor], Mode::Typed).ok()?.pop()?;
    let bytes = result.to_bytes();
    let new = Constant::dense(result.ty, bytes, constant.name.clone());
    Some(module.constants.push(new))
}

/// Constants of one scalar type one after the other.
fn joined(module: &Module, ids: impl Iterator<Item = ConstId>, axis: usize) -> Option<Constant> {
    let constants: Vec<&Constant> = ids.map(|id| &module.constants[id]).collect();
    let elem = constants.first()?.ty.elem.scalar()?;
    if constants.iter().any(|c| c.ty.elem != ElemType::Scalar(elem)) {
        return None;
    }
    let mut shape = constants[0].ty.shape.clone();
    shape.0[axis] = constants.iter().map(|c| c.ty.shape[axis]).sum();
    let ty = TensorType::new(elem, shape);
    let code = |c: &&Constant| match c.data {
        ConstantData::Splat(code) => Some(code),
        ConstantData::Dense(_) => None,
    };
    let codes: Vec<Option<u64>> = constants.iter().map(code).collect();
    if let Some(code) = codes[0].filter(|_| codes.iter().all(|c| *c == codes[0])) {
        return Some(Constant::new(ty, ConstantData::Splat(code), constants[0].name.clone()));
    }
    let outer: u64 = ty.shape[..axis].iter().product();
    let run_bits = |c: &&Constant| c.ty.shape[axis..].iter().product::<u64>() * u64::from(elem.bits());
    let blobs: Option<Vec<Blob>> = constants
        .iter()
        .map(|c| match &c.data {
            ConstantData::Dense(blob) => Some(blob.clone()),
            ConstantData::Splat(_) => None,
        })
        .collect();
    let blobs = blobs.filter(|_| constants.iter().all(|c| run_bits(c).is_multiple_of(8)))?;
    let data = ConstantData::Dense(Blob::interleaved(blobs, outer.max(1) as usize));
    Some(Constant::new(ty, data, constants[0].name.clone()))
}

/// Makes grouped constants of the weights whose codes and scales are those of a group format along the dimension that a
/// product sums over. The value stays the same: widening a group is exact.
pub fn group(module: &mut Module) {
    for id in functions(module) {
        let func = &module.functions[id];
        let found: Vec<(Value, Constant)> = func
            .nodes
            .values()
            .filter(|node| node.op.is_product())
            .flat_map(|node| node.args.iter().enumerate().map(move |(i, &arg)| (node, i, arg)))
            .filter_map(|(node, i, arg)| Some((arg, grouped(module, func, node, i)?)))
            .collect();
        for (value, constant) in found {
            let new = module.constants.push(constant);
            let ty = module.constants[new].ty.clone();
            let func = &mut module.functions[id];
            let Some(node) = func.def(value) else { continue };
            let data = &mut func.nodes[node];
            (data.op, data.args) = (Op::Const { value: new }, Vec::new());
            func.values[value].ty = ty;
        }
    }
}

/// Scales of this many binary orders around 1 leave every value of 8 bits exact in f32 and bf16.
const EXACT_ORDERS: u8 = 100;

/// The grouped constant that operand `i` of a product is, if it is one and nothing else reads it.
fn grouped(module: &Module, func: &Function, node: &NodeData, i: usize) -> Option<Constant> {
    let (value, other) = (node.args[i], &node.args[1 - i]);
    let blocked = func.blocked(value)?;
    let axis = match &node.op {
        Op::Contract { map, .. } if is_matrix(map, i) => {
            summed_dims(&node.op).iter().find(|(operand, _)| *operand == i)?.1
        }
        Op::Conv { attrs, .. } if i == 1 && attrs.groups == 1 => usize::from(attrs.w[1]),
        _ => return None,
    };
    let n_users =
        func.nodes.values().flat_map(|n| &n.args).chain(&func.results).filter(|&&v| v == value).count();
    let plain = func.blocked(*other).is_none() && func.as_const(*other).is_none() && n_users == 1;
    let (codes, scales) = (&module.constants[blocked.codes], &module.constants[blocked.scales]);
    let along = |(d, &block): (usize, &u64)| if d == axis { block } else { 1 } == block;
    let size = u8::try_from(blocked.blocks[axis]).ok()?;
    let format = GroupFormat::ALL.iter().copied().find(|f| {
        ElemType::Scalar(f.element) == codes.ty.elem && f.size == size && f.scale == ScalarType::E8M0
    })?;
    let suits = plain
        && blocked.zeros.is_none()
        && !format.pair_shift
        && format.element != ScalarType::I8
        && blocked.blocks.iter().enumerate().all(along)
        && scales.ty.elem == ElemType::Scalar(ScalarType::E8M0)
        && blocked.rounds.iter().all(|&ty| matches!(ty, ScalarType::F32 | ScalarType::Bf16));
    let (ConstantData::Dense(codes_blob), ConstantData::Dense(scale_blob)) = (&codes.data, &scales.data)
    else {
        return None;
    };
    let exact = |&code: &u8| code == u8::MAX || code.abs_diff(127) <= EXACT_ORDERS;
    if !suits || !scale_blob.bytes().iter().all(exact) {
        return None;
    }
    let ty = TensorType::grouped(format, axis, codes.ty.shape.clone());
    let both = Blob::interleaved(vec![codes_blob.clone(), scale_blob.clone()], 1);
    Some(Constant::new(ty, ConstantData::Dense(both), codes.name.clone()))
}

/// Whether an operand of a contraction has a column, a summed dimension and no other.
fn is_matrix(map: &ContractMap, operand: usize) -> bool {
    let labels = if operand == 0 { &map.a } else { &map.b };
    map.batch().is_empty() && map.summed().len() == 1 && labels.len() == 2
}

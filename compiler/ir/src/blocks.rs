//! Constants that stay codes: the operands of `dequantize` and the casts behind it.

use lacuna_isa::format::ScalarType;

use crate::module::{ConstId, Function, Value};
use crate::op::Op;

/// A constant as codes with scales, and zeros where it has them.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Blocked {
    /// The codes, of the shape of the value.
    pub codes: ConstId,
    /// The scales: one for each block.
    pub scales: ConstId,
    /// The zeros: one for each block.
    pub zeros: Option<ConstId>,
    /// Elements that share a scale along each dimension.
    pub blocks: Vec<u64>,
    /// The types that the products of differences and scales are rounded to, one after the other; the last one is the value's.
    pub rounds: Vec<ScalarType>,
}

impl Function {
    /// The codes and scales that a value is, if `dequantize` of constants defines it, with or without casts behind it.
    pub fn blocked(&self, value: Value) -> Option<Blocked> {
        let data = &self.nodes[self.def(value)?];
        match &data.op {
            Op::Dequantize { blocks, to } => {
                let args = data.args.iter().map(|&a| self.as_const(a)).collect::<Option<Vec<ConstId>>>()?;
                let (blocks, rounds) = (blocks.clone(), vec![*to]);
                let zeros = args.get(2).copied();
                Some(Blocked { codes: args[0], scales: args[1], zeros, blocks, rounds })
            }
            Op::Cast { to: to @ (ScalarType::F32 | ScalarType::F16 | ScalarType::Bf16), .. } => {
                let mut found = self.blocked(data.args[0])?;
                found.rounds.push(*to);
                Some(found)
            }
            _ => None,
        }
    }
}

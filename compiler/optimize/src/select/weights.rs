//! How a weight becomes grouped.

use lacuna_ir::eval::{Mode, Tensor, eval_op};
use lacuna_ir::{Constant, ConstantData, Module, Op};
use lacuna_isa::format::GroupFormat;

use crate::weights::WeightOptions;

/// The grouped form of a weight along `axis`, by the technique that the options name. Every constant operand of a contraction
/// that gets groups passes here, and only here.
///
/// # Errors
/// When the evaluator refuses the constant; never for one of a float type.
pub fn quantized(
    module: &Module,
    weight: &Constant,
    format: GroupFormat,
    axis: u8,
    options: &WeightOptions,
) -> Result<Constant, String> {
    let op = Op::MxQuantize { format, axis, mode: options.scale_modes.weights };
    let tensor = match (&weight.data, weight.ty.elem.scalar()) {
        (ConstantData::Splat(code), Some(elem)) => {
            let values = vec![elem.decode(*code); weight.ty.shape.elements() as usize];
            Tensor::from_f64(elem, weight.ty.shape.clone(), &values)
        }
        (ConstantData::Splat(_), None) => return Err("a weight is grouped already".into()),
        (ConstantData::Dense(blob), _) => Tensor::from_bytes(weight.ty.clone(), blob.bytes()),
    };
    let tensor = tensor.map_err(|e| e.to_string())?;
    let grouped = eval_op(module, &op, &[&tensor], Mode::Typed).map_err(|e| e.to_string())?;
    let [grouped] = &grouped[..] else { return Err("a quantised weight is one tensor".into()) };
    Ok(Constant::dense(grouped.ty.clone(), grouped.to_bytes(), weight.name.clone()))
}

//! How a weight becomes grouped.

use lacuna_ir::{Blob, Constant, ConstantData, ElemType, TensorType};
use lacuna_isa::format::{GroupFormat, ScalarType};

use crate::folding::grouped;
use crate::weights::WeightOptions;

/// The grouped form of a weight along `axis` by plain rounding. Every constant operand of a contraction that gets groups passes
/// here, unless a technique of [`crate::weights`] takes the place of plain rounding.
///
/// # Errors
/// When the constant has no floats to group along that axis; never for the weight of a verified contraction.
pub fn quantized(
    weight: &Constant,
    format: GroupFormat,
    axis: u8,
    options: &WeightOptions,
) -> Result<Constant, String> {
    let elem = weight.ty.elem.scalar().ok_or("a weight is grouped already")?;
    let ty = TensorType { elem: ElemType::Grouped { format, axis }, shape: weight.ty.shape.clone() };
    ty.check().map_err(|e| e.to_string())?;
    let mode = options.scale_modes.weights;
    let bytes = match &weight.data {
        ConstantData::Dense(blob) => grouped((elem, blob), &ty, mode),
        // Groups are quantised from f32, whatever the type was.
        ConstantData::Splat(code) if elem.is_float() => {
            let value = (elem.decode(*code) as f32).to_le_bytes();
            let repeated = Blob::new(value.repeat(ty.shape.elements() as usize));
            grouped((ScalarType::F32, &repeated), &ty, mode)
        }
        ConstantData::Splat(_) => None,
    };
    let bytes = bytes.ok_or_else(|| format!("a weight of {} has no groups", weight.ty))?;
    Ok(Constant::dense(ty, bytes, weight.name.clone()))
}

#[cfg(test)]
mod tests {
    use lacuna_ir::eval::{Mode, Tensor, eval_op};
    use lacuna_ir::{Module, Op};
    use lacuna_isa::format::{ScaleMode, pack};
    use proptest::prelude::*;

    use super::*;
    use crate::weights::ScaleModes;

    /// Mostly values of like size, else any bits: subnormals, infinities, NaNs and zeros of both signs among them.
    fn value() -> impl Strategy<Value = f32> {
        prop_oneof![
            40 => -8f32..8.0,
            8 => any::<u32>().prop_map(|b| f32::from_bits(b & 0xBFFF_FFFF)),
            4 => any::<u32>().prop_map(|b| f32::from_bits(b & 0x807F_FFFF)),
            4 => prop::sample::select(vec![0.0, -0.0, f32::MAX, f32::MIN_POSITIVE, 1e-45]),
            1 => any::<u32>().prop_map(f32::from_bits),
        ]
    }

    /// Shapes with short dimensions, and one that has several groups, a short last one among them, or several tiles of columns.
    fn shape() -> impl Strategy<Value = Vec<u64>> {
        (prop::collection::vec(1u64..5, 1..4), 1u64..150, any::<prop::sample::Index>()).prop_map(
            |(mut shape, n, at)| {
                shape.insert(at.index(shape.len() + 1), n);
                shape
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn weights_have_the_bits_of_the_evaluator(
            format in prop::sample::select(GroupFormat::ALL.to_vec()),
            mode in prop::sample::select(ScaleMode::ALL.to_vec()),
            elem in prop::sample::select(vec![
                ScalarType::F32, ScalarType::F32, ScalarType::F16, ScalarType::Bf16, ScalarType::F64, ScalarType::E5M2,
            ]),
            shape in shape(),
            axis in any::<prop::sample::Index>(),
            splat in prop::option::weighted(0.1, value()),
            seed in prop::collection::vec(value(), 257),
            zeros in 0usize..100,
        ) {
            let axis = axis.index(shape.len()) as u8;
            let n: u64 = shape.iter().product();
            let ty = TensorType::new(elem, shape);
            let values: Vec<f32> = (0..n as usize)
                .map(|i| splat.unwrap_or(if i / 7 % 100 < zeros / 2 { 0.0 } else { seed[i % seed.len()] }))
                .collect();
            let mut bytes = vec![0; ty.bytes() as usize];
            pack::encode_slice(elem, &values, &mut bytes, 0);
            let weight = match splat {
                Some(value) => {
                    let data = ConstantData::Splat(elem.encode(f64::from(value)));
                    Constant::new(ty.clone(), data, "w")
                }
                None => Constant::dense(ty.clone(), bytes.clone(), "w"),
            };
            let scale_modes = ScaleModes { weights: mode, activations: ScaleMode::Floor };
            let options = WeightOptions { scale_modes, ..WeightOptions::default() };
            let found = quantized(&weight, format, axis, &options).unwrap();
            let tensor = Tensor::from_bytes(ty, &bytes).unwrap();
            let op = Op::MxQuantize { format, axis, mode };
            let expect = eval_op(&Module::default(), &op, &[&tensor], Mode::Typed).unwrap();
            prop_assert_eq!(&found.ty, &expect[0].ty);
            let ConstantData::Dense(found) = &found.data else { panic!("a grouped constant is dense") };
            prop_assert_eq!(found.bytes(), &expect[0].to_bytes()[..]);
        }
    }
}

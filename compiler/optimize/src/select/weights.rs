//! How a weight becomes grouped.

use lacuna_ir::eval::Tensor;
use lacuna_ir::{Blob, Constant, ConstantData, ElemType, TensorType};
use lacuna_isa::format::{GroupFormat, ScalarType};

use crate::error::Broken;
use crate::folding::grouped;
use crate::options::INT4_BLOCK;
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
) -> Result<Constant, Broken> {
    let elem = weight.ty.elem.scalar().ok_or(Broken::Form("a weight is grouped already".into()))?;
    let ty = TensorType { elem: ElemType::Grouped { format, axis }, shape: weight.ty.shape.clone() };
    ty.check()?;
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
    let bytes = bytes.ok_or_else(|| Broken::Form(format!("a weight of {} has no groups", weight.ty)))?;
    Ok(Constant::dense(ty, bytes, weight.name.clone()))
}

/// A weight as signed codes of four bits with a scale for each block along `axis`, which puts the largest magnitude of the block on 7; the
/// product of both is rounded to `to`.
///
/// # Errors
/// When the constant is no float.
pub fn blocked(weight: &Constant, axis: u8, to: ScalarType) -> Result<(Constant, Constant), Broken> {
    let values = Tensor::from_constant(weight)?.to_f64().to_vec();
    let shape = &weight.ty.shape;
    let n = shape[usize::from(axis)];
    let inner: u64 = shape.iter().skip(usize::from(axis) + 1).product();
    let n_blocks = n.div_ceil(INT4_BLOCK);
    let scale_of = |i: usize| {
        let (row, column) = (i as u64 / inner.max(1), i as u64 % inner.max(1));
        let (outer, along) = (row / n.max(1), row % n.max(1));
        ((outer * n_blocks + along / INT4_BLOCK) * inner + column) as usize
    };
    let mut each = shape.0.clone();
    each[usize::from(axis)] = n_blocks;
    let mut scales = vec![0.0f64; each.iter().product::<u64>() as usize];
    for (i, value) in values.iter().enumerate().filter(|(_, v)| v.is_finite()) {
        let scale = &mut scales[scale_of(i)];
        *scale = scale.max(value.abs() / 7.0);
    }
    let scales = Tensor::from_f64(to, each, &scales)?;
    let rounded = scales.to_f64();
    let code = |(i, value): (usize, &f64)| match rounded[scale_of(i)] {
        scale if scale > 0.0 => (value / scale).round_ties_even().clamp(-8.0, 7.0),
        _ => 0.0,
    };
    let codes: Vec<f64> = values.iter().enumerate().map(code).collect();
    let codes = Tensor::from_f64(ScalarType::I4, shape.clone(), &codes)?;
    let constant =
        |tensor: &Tensor, name: String| Constant::dense(tensor.ty.clone(), tensor.to_bytes(), name);
    Ok((constant(&codes, weight.name.clone()), constant(&scales, format!("{} scales", weight.name))))
}

#[cfg(test)]
mod tests {
    use lacuna_ir::eval::{Mode, eval_op};
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

    /// No value is further from its code than half a step, but for what the rounding of scales adds.
    #[test]
    fn codes_are_the_nearest() {
        for (shape, axis) in [(vec![70u64, 3], 0u8), (vec![3, 70], 1), (vec![2, 33, 4], 1), (vec![5], 0)] {
            let n: u64 = shape.iter().product();
            let values: Vec<f64> = (0..n).map(|i| f64::from((i * 37 % 101) as u32) / 16.0 - 3.0).collect();
            let tensor = Tensor::from_f64(ScalarType::F32, shape.clone(), &values).unwrap();
            let weight = Constant::dense(tensor.ty.clone(), tensor.to_bytes(), "w");
            let (codes, scales) = blocked(&weight, axis, ScalarType::F32).unwrap();
            let mut blocks = vec![1; shape.len()];
            blocks[usize::from(axis)] = INT4_BLOCK;
            let args = [codes, scales].map(|c| Tensor::from_constant(&c).unwrap());
            let op = Op::Dequantize { blocks, to: ScalarType::F32 };
            let found = eval_op(&Module::default(), &op, &args.each_ref(), Mode::Typed).unwrap();
            let most = values.iter().fold(0.0f64, |m, v| m.max(v.abs()));
            for (a, b) in found[0].to_f64().iter().zip(&values) {
                assert!((a - b).abs() <= most / 14.0 + 1e-6, "{a} {b} {shape:?}");
            }
        }
    }
}

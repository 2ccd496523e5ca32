//! Codes whose scales and zeros are shared by blocks.

use super::{Mode, Tensor};

/// `(q - zero) * scale` of the operands of `dequantize`; in typed mode the difference and the product round to f32.
pub(super) fn dequantize(blocks: &[u64], args: &[&Tensor], mode: Mode) -> Vec<f64> {
    let round = |v: f64| if mode == Mode::Typed { f64::from(v as f32) } else { v };
    let (codes, scales) = (args[0].to_f64(), args[1].to_f64());
    let zeros = args.get(2).map(|zero| zero.to_f64());
    let (shape, strides) = (&args[0].ty.shape, args[1].ty.shape.strides());
    let mut index = vec![0u64; shape.rank()];
    let mut values = Vec::with_capacity(codes.len());
    for &code in codes.iter() {
        let at: u64 = index.iter().zip(blocks).zip(&strides).map(|((i, b), s)| i / b * s).sum();
        let zero = zeros.as_ref().map_or(0.0, |zeros| zeros[at as usize]);
        values.push(round(round(code - zero) * scales[at as usize]));
        for d in (0..index.len()).rev() {
            index[d] += 1;
            if index[d] < shape[d] {
                break;
            }
            index[d] = 0;
        }
    }
    values
}

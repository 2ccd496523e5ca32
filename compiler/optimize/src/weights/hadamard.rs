//! Rotation by block Hadamard matrices along the summed dimension: spreads an outlier over its block.
//!
//! With S the 32 x 32 Sylvester matrix of ones and minus ones, `S S = 32 I`, so `(x S)(S w) / 32 = x w`. Activations are
//! multiplied by S (sums without rounding of the matrix), weights by S / 32, an exact scaling.

/// Order of the matrix.
pub const ORDER: usize = 32;

/// Element of the Sylvester matrix: 1 or -1.
pub fn sign(i: usize, j: usize) -> f32 {
    if (i & j).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 }
}

/// Multiplies each block of a row by S / 32, in place; the row is whole blocks.
pub fn rotate_weights(row: &mut [f32]) {
    for block in row.chunks_exact_mut(ORDER) {
        let mut wide: [f64; ORDER] = std::array::from_fn(|i| f64::from(block[i]));
        let mut half = 1;
        while half < ORDER {
            for i in (0..ORDER).filter(|i| i & half == 0) {
                let (a, b) = (wide[i], wide[i + half]);
                (wide[i], wide[i + half]) = (a + b, a - b);
            }
            half *= 2;
        }
        for (out, v) in block.iter_mut().zip(wide) {
            *out = (v / ORDER as f64) as f32;
        }
    }
}

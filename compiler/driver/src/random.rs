//! Random inputs: the same for one seed, on every host.

use lacuna_ir::Blob;
use lacuna_ir::eval::Tensor;
use lacuna_isa::format::ScalarType;

/// The generator SplitMix64 (Steele, Lea, Flood 2014).
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// A generator of its own sequence for each seed.
    pub fn new(seed: u64) -> SplitMix64 {
        SplitMix64(seed)
    }

    /// The next number from 0 up to 1.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// A dense tensor for input number `idx`: floats are uniform in [-1, 1), integers and booleans are 0 or 1, so that they
/// are legal as indices wherever there is something to choose from.
///
/// `None` when the tensor is too large to hold.
pub fn input(elem: ScalarType, shape: &[u64], seed: u64, idx: usize) -> Option<Blob> {
    let mut rng = SplitMix64(seed ^ (idx as u64 + 1).wrapping_mul(0xd134_2543_de82_ef95));
    let n = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d))?;
    let n = usize::try_from(n).ok().filter(|&n| n as u64 <= lacuna_ir::eval::MAX_ELEMENTS)?;
    let values: Vec<f64> = (0..n)
        .map(|_| {
            let bits = rng.next();
            if elem.is_float() {
                (bits >> 11) as f64 / (1u64 << 52) as f64 - 1.0
            } else {
                (bits >> 63) as f64
            }
        })
        .collect();
    Tensor::from_f64(elem, shape.to_vec(), &values).ok().map(|t| Blob::new(t.to_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_depend_on_seed_and_number_only() {
        let make = |seed, idx| input(ScalarType::F32, &[64], seed, idx).unwrap();
        assert_eq!(make(1, 0), make(1, 0));
        assert_ne!(make(1, 0), make(2, 0));
        assert_ne!(make(1, 0), make(1, 1));
        let floats = make(3, 0);
        let values = floats.bytes().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        assert!(values.clone().all(|v| (-1.0..=1.0).contains(&v)) && values.clone().any(|v| v < 0.0));
        let ints = input(ScalarType::I64, &[100], 0, 0).unwrap();
        assert!(ints.bytes().chunks_exact(8).all(|b| b[0] <= 1 && b[1..].iter().all(|&b| b == 0)));
        assert!(input(ScalarType::F32, &[u64::MAX, 2], 0, 0).is_none());
    }
}

//! Bounds of a constant's elements, and what numbers of a type are normal.

use lacuna_isa::format::ScalarType;

/// Bounds of a constant's elements.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Extent {
    /// Whether no element is infinite or NaN.
    pub finite: bool,
    /// Whether some element may be zero.
    pub zero: bool,
    /// No magnitude but zero is below; infinite where there is none.
    pub least: f64,
    /// No magnitude is above.
    pub greatest: f64,
}

impl Extent {
    /// Of no element.
    pub const EMPTY: Extent = Extent { finite: true, zero: false, least: f64::INFINITY, greatest: 0.0 };

    /// With one element more.
    pub fn with(mut self, value: f64) -> Extent {
        let size = value.abs();
        if size == 0.0 {
            self.zero = true;
        } else if size.is_finite() {
            self.least = self.least.min(size);
            self.greatest = self.greatest.max(size);
        } else {
            self.finite = false;
        }
        self
    }

    /// Of the elements of both.
    pub fn join(&self, other: &Extent) -> Extent {
        Extent {
            finite: self.finite && other.finite,
            zero: self.zero || other.zero,
            least: self.least.min(other.least),
            greatest: self.greatest.max(other.greatest),
        }
    }

    /// Bounds of the products of an element of each.
    pub fn times(&self, other: &Extent) -> Extent {
        Extent {
            finite: self.finite && other.finite,
            zero: self.zero || other.zero,
            least: self.least * other.least,
            greatest: self.greatest * other.greatest,
        }
    }

    /// Bounds of the reciprocals; `None` where an element may be zero.
    pub fn inverse(&self) -> Option<Extent> {
        let (least, greatest) = (1.0 / self.greatest, 1.0 / self.least);
        (!self.zero).then_some(Extent { finite: self.finite, zero: false, least, greatest })
    }

    /// Whether every element is zero or a normal number of a type that [`normal`] knows.
    pub fn within(&self, elem: ScalarType) -> bool {
        let Some((least, greatest)) = normal(elem) else { return false };
        self.finite && self.least >= least && self.greatest <= greatest
    }
}

/// The least and the greatest normal number of a type.
pub fn normal(elem: ScalarType) -> Option<(f64, f64)> {
    match elem {
        ScalarType::F32 => Some((f64::from(f32::MIN_POSITIVE), f64::from(f32::MAX))),
        ScalarType::F64 => Some((f64::MIN_POSITIVE, f64::MAX)),
        // All but the lowest 16 bits of f32's greatest.
        ScalarType::Bf16 => Some((f64::from(f32::MIN_POSITIVE), f64::from(f32::from_bits(0x7F7F_0000)))),
        ScalarType::F16 => Some((f64::powi(2.0, -14), 65504.0)),
        _ => None,
    }
}

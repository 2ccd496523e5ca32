//! What the user asked for and what the target has.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use lacuna_ir::OriginId;
use lacuna_ir::eval::Tensor;
use lacuna_isa::format::{Format, GroupFormat, ScalarType};

use crate::rules::RuleClass;
use crate::weights::WeightOptions;

/// What the optimiser may do and for which machine.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Number formats of contractions.
    pub precision: Precision,
    /// Whether only rewrites that keep every bit are allowed: only rules of class E0 run.
    pub strict_float: bool,
    /// Whether element-wise work may be rewritten by what holds over the real numbers: rules of class
    /// [`RuleClass::Relaxed`] run, too.
    pub relaxed: bool,
    /// What the target multiplies natively.
    pub features: TargetFeatures,
    /// How weights become narrow or sparse.
    pub weights: WeightOptions,
    /// How terms are chosen from the e-graph.
    pub extraction: Extraction,
    /// Inputs of the entry, batch by batch, for what is decided by measurement.
    pub calibration: Vec<Vec<Tensor>>,
    /// ONNX nodes whose contractions get no groups, since there is no kernel for them: bf16 operands are the next wider ones.
    pub ungrouped: BTreeSet<OriginId>,
}

/// How one term for each value is chosen from all equal ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Extraction {
    /// By the cost of the set of values that the result needs, exactly where that is feasible.
    #[default]
    Best,
    /// By the cost of each value's tree, as if nothing were shared: what measurements compare with.
    Greedy,
}

/// A text is no way to choose terms.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("it must be exact or greedy")]
pub struct ParseExtractionError;

impl FromStr for Extraction {
    type Err = ParseExtractionError;

    fn from_str(text: &str) -> Result<Extraction, ParseExtractionError> {
        match text {
            "exact" => Ok(Extraction::Best),
            "greedy" => Ok(Extraction::Greedy),
            _ => Err(ParseExtractionError),
        }
    }
}

/// Number formats of the operands of contractions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Precision {
    /// As the model says.
    #[default]
    F32,
    /// Both operands in bf16, results in f32.
    Bf16,
    /// Weights in groups along the summed dimension, and activations in groups too or in a scalar type.
    Mx {
        /// Format of constant operands.
        weights: GroupFormat,
        /// Format of computed operands: groups, a scalar type, or f32, which keeps the model's own.
        activations: Format,
    },
    /// Weights as codes of four bits with a scale for each [`INT4_BLOCK`] of them along the summed dimension, and activations in a scalar
    /// type; f32 keeps the model's own.
    Int4 {
        /// Format of computed operands.
        activations: ScalarType,
    },
    /// Chosen for each contraction by [`crate::Survey::choose`]; [`crate::select`] alone keeps the model's formats.
    Auto,
}

/// A precision that is not one of those that [`Precision`] can hold.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "`{0}` is no precision: f32, bf16, auto, a group format such as mxfp8, or WEIGHTS:ACTIVATIONS, where activations may be f32, bf16, f16, \
     e4m3 or e5m2 too, and int4 may be weights beside f32, bf16 or f16"
)]
pub struct ParsePrecisionError(String);

/// Weights that share a scale in [`Precision::Int4`].
pub const INT4_BLOCK: u64 = 32;

/// The scalar types that activations may have beside weights in groups. Those of eight bits have no scale: what exceeds them saturates.
const ACTIVATIONS: [ScalarType; 5] =
    [ScalarType::F32, ScalarType::Bf16, ScalarType::F16, ScalarType::E4M3, ScalarType::E5M2];

impl Precision {
    /// Weights and activations in the same groups.
    pub fn mx(format: GroupFormat) -> Precision {
        Precision::Mx { weights: format, activations: Format::Grouped(format) }
    }

    /// The narrowest precision without groups that is no narrower than this one.
    pub fn without_groups(self) -> Precision {
        match self {
            // bf16 has fewer digits than f16.
            Precision::Mx { activations: Format::F32 | Format::Scalar(ScalarType::F16), .. } => {
                Precision::F32
            }
            Precision::Int4 { activations: ScalarType::Bf16 } => Precision::Bf16,
            Precision::Int4 { .. } => Precision::F32,
            Precision::Mx { .. } => Precision::Bf16,
            Precision::F32 | Precision::Bf16 | Precision::Auto => self,
        }
    }
}

impl FromStr for Precision {
    type Err = ParsePrecisionError;

    fn from_str(text: &str) -> Result<Precision, ParsePrecisionError> {
        let format =
            |name: &str| GroupFormat::from_name(name).ok_or_else(|| ParsePrecisionError(text.into()));
        match text.split_once(':') {
            Some(("int4", activations)) => {
                let wide = ACTIVATIONS.into_iter().filter(|scalar| scalar.bits() >= 16);
                let scalar = wide.into_iter().find(|scalar| scalar.name() == activations);
                let activations = scalar.ok_or_else(|| ParsePrecisionError(text.into()))?;
                Ok(Precision::Int4 { activations })
            }
            Some((weights, activations)) => {
                let weights = format(weights)?;
                let scalar = ACTIVATIONS.into_iter().find(|scalar| scalar.name() == activations);
                let activations = match scalar {
                    Some(scalar) => Format::Scalar(scalar),
                    None => Format::Grouped(format(activations)?),
                };
                Ok(Precision::Mx { weights, activations })
            }
            None if text == "f32" => Ok(Precision::F32),
            None if text == "bf16" => Ok(Precision::Bf16),
            None if text == "auto" => Ok(Precision::Auto),
            None => format(text).map(Precision::mx),
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Precision::F32 => f.write_str("f32"),
            Precision::Bf16 => f.write_str("bf16"),
            Precision::Auto => f.write_str("auto"),
            Precision::Int4 { activations } => write!(f, "int4:{activations}"),
            Precision::Mx { weights, activations } if *activations == Format::Grouped(*weights) => {
                weights.fmt(f)
            }
            Precision::Mx { weights, activations } => write!(f, "{weights}:{activations}"),
        }
    }
}

/// What a target multiplies natively.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TargetFeatures {
    /// Operand formats of the tile engine.
    pub formats: Vec<Format>,
    /// Whether a constant operand with at most two non-zeros in each four consecutive elements runs at a higher rate.
    pub sparse_2_4: bool,
}

impl Default for TargetFeatures {
    fn default() -> TargetFeatures {
        let scalars = [ScalarType::F32, ScalarType::Bf16].into_iter().map(Format::Scalar);
        let groups = GroupFormat::ALL.iter().copied().map(Format::Grouped);
        TargetFeatures { formats: scalars.chain(groups).collect(), sparse_2_4: true }
    }
}

impl Options {
    /// The least strict class of the rules that run.
    pub(crate) fn most(&self) -> RuleClass {
        match (self.strict_float, self.relaxed) {
            (true, _) => RuleClass::E0,
            (false, false) => RuleClass::E1,
            (false, true) => RuleClass::Relaxed,
        }
    }

    /// One line for each chosen format that the target lacks.
    pub fn warnings(&self) -> Vec<String> {
        let mut chosen = match self.precision {
            // The choice takes native formats only.
            Precision::F32 | Precision::Auto => vec![Format::F32],
            Precision::Bf16 => vec![Format::Scalar(ScalarType::Bf16)],
            // Codes are widened on their way into the product.
            Precision::Int4 { activations } => vec![Format::Scalar(activations)],
            Precision::Mx { weights, activations } => {
                vec![Format::Grouped(weights), activations]
            }
        };
        chosen.dedup();
        chosen.retain(|f| !self.features.formats.contains(f));
        chosen
            .into_iter()
            .map(|f| format!("the target has no native {f}: it is widened on the way to the tile engine"))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn precisions_parse_and_print() {
        let names = [
            "f32",
            "bf16",
            "auto",
            "mxfp8",
            "mxfp6",
            "mxfp4",
            "mxint8",
            "mxfp4:mxfp8",
            "mxfp4:bf16",
            "mxfp8:f32",
            "mxfp4:f16",
            "mxfp8:e4m3",
            "mxint8:e5m2",
            "int4:bf16",
            "int4:f32",
            "nvfp4",
            "mx9",
            "mx6",
        ];
        for text in names {
            assert_eq!(text.parse::<Precision>().map(|p| p.to_string()), Ok(text.to_string()));
        }
        for text in ["", "f16", "mxfp5", "mxfp4:", "mxfp4:f64", "f32:mxfp4", ":mxfp8", "int4", "int4:e4m3"] {
            assert!(text.parse::<Precision>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_missing_native_format_is_a_warning() {
        let features = TargetFeatures { formats: vec![Format::F32], sparse_2_4: false };
        let options = Options { precision: "mxfp4:mxfp8".parse().unwrap(), features, ..Options::default() };
        assert_eq!(options.warnings().len(), 2);
        assert!(Options::default().warnings().is_empty());
    }
}

//! What can be asked for.

use std::fmt;
use std::str::FromStr;

use lacuna_isa::format::ScaleMode;
use lacuna_isa::view::Pattern;

use crate::zero_codes::WeightSparsity;

/// How weights become narrow or sparse. The default is plain rounding of what is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WeightOptions {
    /// How elements are rounded under their group's scale.
    pub rounding: Rounding,
    /// How scales follow from the largest magnitude of a group.
    pub scale_modes: ScaleModes,
    /// Whether neighbours of that scale are tried, and the one with the least error is taken.
    pub scale_search: bool,
    /// Weights to set to zero, before anything is quantised.
    pub prune: Option<Prune>,
    /// Whether both operands are rotated by block Hadamard matrices along the summed dimension.
    pub hadamard: bool,
}

impl WeightOptions {
    /// Whether inputs are needed to decide.
    pub fn needs_calibration(&self) -> bool {
        self.rounding != Rounding::Nearest || self.prune.is_some_and(|p| p.by == PruneBy::Calibration)
    }

    /// Plain rounding by the same scale modes.
    pub fn plain(self) -> WeightOptions {
        WeightOptions { scale_modes: self.scale_modes, ..WeightOptions::default() }
    }

    /// Whether nothing but plain rounding is asked for.
    pub fn is_plain(&self) -> bool {
        let WeightOptions { rounding, scale_modes: _, scale_search, prune, hadamard } = *self;
        rounding == Rounding::Nearest && !scale_search && prune.is_none() && !hadamard
    }
}

/// How elements are rounded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Rounding {
    /// Each to its nearest code.
    #[default]
    Nearest,
    /// In order, each error made up for by the weights that follow, as the inputs' second moments say (GPTQ,
    /// arXiv 2210.17323; with pruning SparseGPT, arXiv 2301.00774).
    Compensated,
    /// Compensated, after the weights have moved to make up for what the product's inputs lost: by their own rounding
    /// and by all that was rounded before them (as GPTAQ, arXiv 2504.02692, in closed form).
    Corrected,
}

/// How scales of groups follow from their largest magnitude.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScaleModes {
    /// For constants.
    pub weights: ScaleMode,
    /// For computed values.
    pub activations: ScaleMode,
}

impl Default for ScaleModes {
    fn default() -> ScaleModes {
        ScaleModes { weights: ScaleMode::Tosa, activations: ScaleMode::Floor }
    }
}

/// Which weights become zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Prune {
    /// How many of how many stay, along the summed dimension.
    pub pattern: WeightSparsity,
    /// Which ones.
    pub by: PruneBy,
}

/// By what the weights that stay are chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PruneBy {
    /// Magnitude.
    #[default]
    Magnitude,
    /// Magnitude times the size of the input that it meets (Wanda, arXiv 2306.11695).
    Calibration,
}

/// A text that names no option.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{text}` is no {what}")]
pub struct ParseWeightsError {
    text: String,
    what: &'static str,
}

fn no(text: &str, what: &'static str) -> ParseWeightsError {
    ParseWeightsError { text: text.to_owned(), what }
}

impl FromStr for Rounding {
    type Err = ParseWeightsError;

    fn from_str(text: &str) -> Result<Rounding, ParseWeightsError> {
        match text {
            "nearest" => Ok(Rounding::Nearest),
            "compensated" => Ok(Rounding::Compensated),
            "corrected" => Ok(Rounding::Corrected),
            _ => Err(no(text, "rounding: nearest, compensated or corrected")),
        }
    }
}

impl fmt::Display for Rounding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Rounding::Nearest => "nearest",
            Rounding::Compensated => "compensated",
            Rounding::Corrected => "corrected",
        })
    }
}

impl FromStr for PruneBy {
    type Err = ParseWeightsError;

    fn from_str(text: &str) -> Result<PruneBy, ParseWeightsError> {
        match text {
            "magnitude" => Ok(PruneBy::Magnitude),
            "calibration" => Ok(PruneBy::Calibration),
            _ => Err(no(text, "criterion: magnitude or calibration")),
        }
    }
}

impl fmt::Display for PruneBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PruneBy::Magnitude => "magnitude",
            PruneBy::Calibration => "calibration",
        })
    }
}

impl FromStr for ScaleModes {
    type Err = ParseWeightsError;

    fn from_str(text: &str) -> Result<ScaleModes, ParseWeightsError> {
        let mode = |name: &str| {
            let what = "scale mode: floor, rceil, even, ceil, tosa, or WEIGHTS:ACTIVATIONS";
            ScaleMode::from_name(name).ok_or_else(|| no(text, what))
        };
        let (weights, activations) = text.split_once(':').unwrap_or((text, text));
        Ok(ScaleModes { weights: mode(weights)?, activations: mode(activations)? })
    }
}

impl fmt::Display for ScaleModes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.weights, self.activations)
    }
}

impl FromStr for WeightSparsity {
    type Err = ParseWeightsError;

    fn from_str(text: &str) -> Result<WeightSparsity, ParseWeightsError> {
        let numbers = text.split_once(':').and_then(|(n, m)| Some((n.parse().ok()?, m.parse().ok()?)));
        match numbers.and_then(|(n, m)| Pattern::nested(n, m)) {
            Some(Pattern { n, m }) => Ok(WeightSparsity { n, m }),
            None => Err(no(text, "pattern: N:M with N below M, and M one of 2, 4, 8 and 16")),
        }
    }
}

impl fmt::Display for WeightSparsity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.n, self.m)
    }
}

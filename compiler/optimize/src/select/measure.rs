//! What selection asks of the world outside: to run a module on calibration data, and to say what its code costs.

use std::fmt;

use lacuna_ir::Module;

use super::Selected;
use crate::error::Error;

/// The outputs of a run: for each data set, each output's elements.
pub type Outputs = Vec<Vec<Vec<f64>>>;

/// What code for a module costs by the machine model.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct MachineCost {
    /// Cycles of one run.
    pub cycles: u64,
    /// Bytes of weights in the object.
    pub weight_bytes: u64,
    /// Bytes over the HBM port.
    pub hbm_bytes: u64,
    /// Bytes over the shared SRAM port.
    pub sram_bytes: u64,
}

/// How much worse outputs predict than the reference.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Drop {
    /// Percentage points lost; negative if the outputs predict better.
    pub points: f64,
    /// Samples or positions that were judged.
    pub n_judged: u64,
    /// Whether labels judge; otherwise agreement with the reference does.
    pub by_labels: bool,
    /// Whether sensitivities were measured on other samples than those.
    pub held_out: bool,
}

/// Runs modules on calibration data: implemented with the interpreter, so that every figure is one of the machine's own.
pub trait Measure {
    /// Why something could not be measured.
    type Error: fmt::Display;

    /// Runs the entry of a module on every data set and gives all results of the entry's function, decoded.
    ///
    /// # Errors
    /// When there is no code for the module, or it traps.
    fn run(&mut self, module: &Module) -> Result<Outputs, Self::Error>;

    /// As [`Measure::run`], on the part of the data that sensitivities are measured on; the rest is held out.
    ///
    /// # Errors
    /// As [`Measure::run`].
    fn run_to_choose(&mut self, module: &Module) -> Result<Outputs, Self::Error> {
        self.run(module)
    }

    /// Whether some of the data is held out.
    fn holds_out(&self) -> bool {
        false
    }

    /// Hears how many runs are ahead, about.
    fn expect(&mut self, _n_runs: usize) {}

    /// What the code for a selected module costs, without running it on data.
    ///
    /// # Errors
    /// When there is no code for the module.
    fn machine_cost(&mut self, selected: &Selected) -> Result<MachineCost, Self::Error>;

    /// How much worse `found` predicts than `reference`; `None` if the outputs are no classes.
    fn drop(&self, reference: &Outputs, found: &Outputs) -> Option<Drop>;
}

/// Why there is no choice.
#[derive(Debug, thiserror::Error)]
pub enum SelectError<E: fmt::Display> {
    /// The module contradicts itself.
    #[error(transparent)]
    Optimize(#[from] Error),
    /// The measurement failed.
    #[error("{0}")]
    Measure(E),
    /// The outputs are no classes, so no accuracy can be lost.
    #[error("no output has classes, so there is no accuracy to lose")]
    NoClasses,
    /// One wrong position is more than the budget.
    #[error(
        "{n_judged} judged positions cannot tell a loss of {points} points: one of them is {step:.2} points"
    )]
    TooFew {
        /// Samples or positions that were judged.
        n_judged: u64,
        /// The budget.
        points: f64,
        /// Points that one position counts.
        step: f64,
    },
    /// No choice is within the budget.
    #[error("no choice of formats is within the budget: the best reaches {best}")]
    OverBudget {
        /// What the choice nearest to the budget reaches, with its unit.
        best: String,
    },
}

/// The greatest ratio of noise to signal among the first `n` outputs, over all data sets.
pub fn noise_to_signal(reference: &Outputs, found: &Outputs, n: usize) -> f64 {
    let mut worst = 0.0f64;
    for output in 0..n {
        let (mut signal, mut noise) = (0.0, 0.0);
        for (a, b) in found.iter().zip(reference) {
            let (Some(a), Some(b)) = (a.get(output), b.get(output)) else { continue };
            for (&x, &y) in a.iter().zip(b) {
                // Equal infinities have no difference, and NaN stands for every NaN.
                if x == y || (x.is_nan() && y.is_nan()) {
                    signal += if y.is_finite() { y * y } else { 0.0 };
                    continue;
                }
                signal += if y.is_finite() { y * y } else { 0.0 };
                let error = x - y;
                noise += if error.is_nan() { f64::INFINITY } else { error * error };
            }
        }
        if noise > 0.0 {
            worst = worst.max(noise / signal);
        }
    }
    worst
}

/// A ratio of noise to signal in dB of signal to noise; infinite without noise.
pub fn sqnr_db(noise_to_signal: f64) -> f64 {
    if noise_to_signal == 0.0 { f64::INFINITY } else { -10.0 * noise_to_signal.log10() }
}

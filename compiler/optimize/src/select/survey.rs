//! The candidates of every contraction, measured.
//!
//! A contraction's error in a candidate is its local error, measured next to the reference in one run for each format, times the gain of
//! its block, measured by one run with only that block quantised: the share of the local noise that reaches the outputs.
//! Errors are ratios of noise to signal at the worst output, and are added up, which is a model: the joint choice is run before
//! it is believed.

use std::cell::RefCell;
use std::collections::BTreeMap;

use lacuna_ir::{FuncId, Module, Op};
use lacuna_isa::format::{Format, ScalarType};
use lacuna_isa::target::Target;

use super::candidates::{Shared, Site, formats, list};
use super::convert::{Forms, Quantised, narrows};
use super::measure::{Drop, MachineCost, Measure, Outputs, SelectError, noise_to_signal, sqnr_db};
use super::probe::{Probe, probed};
use super::{Selected, convert};
use crate::error::{Broken, Error};
use crate::module::functions;
use crate::options::Options;

/// Contractions whose gain one run measures together.
const BLOCK: usize = 2;
const BF16: Format = Format::Scalar(ScalarType::Bf16);
/// Gain of a block whose noise is drowned at the outputs.
const MIN_GAIN: f64 = 1e-9;

/// A choice with what was predicted and measured.
#[derive(Clone, Debug)]
pub struct ParetoPoint {
    /// The number of the candidate of each site; then, where attention is a choice too, 1 if it gets operands in bf16.
    pub choice: Vec<usize>,
    /// Modelled cycles of the contractions and their conversions.
    pub cycles: f64,
    /// Modelled bytes of weights.
    pub weight_bytes: u64,
    /// Predicted noise to signal of the worst output.
    pub error: f64,
    /// Measured ratio of signal to noise of the worst output, in dB.
    pub sqnr_db: f64,
    /// Measured loss of accuracy.
    pub drop: Option<Drop>,
    /// What the machine model says of the code.
    pub machine: MachineCost,
}

/// What narrower operands of all attention nodes change, measured alone.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Narrowed {
    /// Cycles of the machine model, fewer if negative.
    pub cycles: f64,
    /// Noise to signal of the worst output.
    pub error: f64,
}

/// Everything the choice is made from.
pub struct Survey {
    module: Module,
    func: FuncId,
    options: Options,
    /// The contractions of the entry, in order.
    pub sites: Vec<Site>,
    pub(super) shared: Vec<Shared>,
    /// What it changes if attention gets operands in bf16, where that is a choice.
    pub(super) attention: Option<Narrowed>,
    /// The outputs of the reference run.
    reference: Outputs,
    n_outputs: usize,
    /// Bytes of constants that are no weights of contractions.
    other_bytes: u64,
    /// Forward passes so far.
    pub n_runs: usize,
    /// What the user should know.
    pub warnings: Vec<String>,
    known: BTreeMap<Vec<usize>, (f64, Option<Drop>)>,
    machine: BTreeMap<Vec<usize>, MachineCost>,
    quantised: RefCell<Quantised>,
}

impl Survey {
    /// Lists the candidates of every contraction of a module after the exact phase, and measures them.
    ///
    /// # Errors
    /// When the reference cannot be run. A format that cannot be measured is left out, with a warning.
    pub fn new<M: Measure>(
        module: &Module,
        target: &Target,
        options: &Options,
        measure: &mut M,
    ) -> Result<Survey, SelectError<M::Error>> {
        let func = module.entries.first().map(|e| e.func).or_else(|| functions(module).first().copied());
        let broken = || Error::Contradiction {
            function: module.name.clone(),
            message: Broken::Missing("there is no entry".into()),
        };
        let func = func.ok_or_else(broken)?;
        let listed = list(module, func, target, options);
        let mut survey = Survey {
            module: module.clone(),
            func,
            options: options.clone(),
            sites: listed.sites,
            shared: listed.shared,
            attention: None,
            reference: Vec::new(),
            n_outputs: module.functions[func].results.len(),
            other_bytes: listed.other_bytes,
            n_runs: 0,
            warnings: Vec::new(),
            known: BTreeMap::new(),
            machine: BTreeMap::new(),
            quantised: RefCell::default(),
        };
        survey.measure_locally(measure)?;
        survey.measure_gains(measure)?;
        survey.measure_attention(measure)?;
        Ok(survey)
    }

    /// One run with nothing but attention narrowed, which is one decision: its errors are far below those of groups.
    fn measure_attention<M: Measure>(&mut self, measure: &mut M) -> Result<(), SelectError<M::Error>> {
        let func = &self.module.functions[self.func];
        let mut nodes = func.nodes.values().filter(|n| matches!(n.op, Op::Attention { .. }));
        if !nodes.any(|n| narrows(func, n)) || !self.options.features.formats.contains(&BF16) {
            return Ok(());
        }
        let mut choice = vec![0; self.sites.len() + 1];
        let wide = self.machine_cost(&choice, measure)?.cycles;
        choice[self.sites.len()] = 1;
        let narrow = self.machine_cost(&choice, measure)?.cycles;
        let (noise, _) = self.quality(&choice, measure)?;
        choice[self.sites.len()] = 0;
        // Pruning loses something before any format does.
        let error = (noise - self.quality(&choice, measure)?.0).max(0.0);
        self.attention = Some(Narrowed { cycles: narrow as f64 - wide as f64, error });
        Ok(())
    }

    /// The choice that keeps the model's formats.
    pub(super) fn kept(&self) -> Vec<usize> {
        vec![0; self.sites.len() + usize::from(self.attention.is_some())]
    }

    /// A choice for the sites, with attention narrowed or not where that is a choice.
    pub fn with_attention(&self, mut choice: Vec<usize>, narrow: bool) -> Vec<usize> {
        choice.truncate(self.sites.len());
        choice.extend(self.attention.map(|_| usize::from(narrow)));
        choice
    }

    /// Whether a choice narrows the operands of attention.
    pub fn narrows_attention(&self, choice: &[usize]) -> bool {
        choice.get(self.sites.len()) == Some(&1)
    }

    fn run<M: Measure>(&mut self, module: &Module, measure: &mut M) -> Result<Outputs, M::Error> {
        self.n_runs += 1;
        measure.run(module)
    }

    fn run_to_choose<M: Measure>(&mut self, module: &Module, measure: &mut M) -> Result<Outputs, M::Error> {
        self.n_runs += 1;
        measure.run_to_choose(module)
    }

    /// One run for the reference and one for each format.
    fn measure_locally<M: Measure>(&mut self, measure: &mut M) -> Result<(), SelectError<M::Error>> {
        let weights = self.options.weights.plain();
        let module = probed(&self.module, self.func, weights, |_| vec![Probe::Signal])?;
        let outputs = self.run_to_choose(&module, measure).map_err(SelectError::Measure)?;
        let signal: Vec<f64> = self.sums(&outputs);
        self.reference =
            outputs.into_iter().map(|set| set.into_iter().take(self.n_outputs).collect()).collect();
        let mut formats: Vec<Format> = Vec::new();
        for candidate in self.sites.iter().flat_map(|s| &s.candidates) {
            for format in candidate.formats {
                if format != Format::F32 && !formats.contains(&format) {
                    formats.push(format);
                }
            }
        }
        measure.expect(1 + formats.len() + self.sites.len().div_ceil(2));
        for format in formats {
            // Weights alone where only they are converted, then both operands.
            let probes: Vec<Vec<(Forms, [Format; 2])>> =
                self.sites.iter().map(|site| site.probes(format)).collect();
            if probes.iter().all(Vec::is_empty) {
                continue;
            }
            let noise = |idx: usize| probes[idx].iter().map(|p| Probe::Noise(p.0)).collect();
            let module = probed(&self.module, self.func, weights, noise)?;
            let outputs = match self.run_to_choose(&module, measure) {
                Ok(outputs) => outputs,
                Err(e) => {
                    self.warnings
                        .push(format!("{format} is no candidate, because it cannot be measured: {e}"));
                    continue;
                }
            };
            let mut noise = self.sums(&outputs).into_iter();
            for (site, (probes, &signal)) in self.sites.iter_mut().zip(probes.iter().zip(&signal)) {
                for (_, formats) in probes {
                    let noise = noise.next().unwrap_or(f64::INFINITY);
                    let ratio = if noise == 0.0 { 0.0 } else { noise / signal };
                    site.set_local(*formats, ratio);
                }
            }
        }
        self.sites.iter_mut().for_each(Site::combine_local);
        Ok(())
    }

    /// Additional results, summed over data sets.
    fn sums(&self, outputs: &Outputs) -> Vec<f64> {
        let mut sums: Vec<f64> = Vec::new();
        for set in outputs {
            for (i, values) in set[self.n_outputs.min(set.len())..].iter().enumerate() {
                if sums.len() <= i {
                    sums.push(0.0);
                }
                sums[i] += values.iter().sum::<f64>();
            }
        }
        sums
    }

    /// One run for each block of contractions.
    fn measure_gains<M: Measure>(&mut self, measure: &mut M) -> Result<(), SelectError<M::Error>> {
        let probes: Vec<(usize, usize)> =
            (0..self.sites.len()).filter_map(|i| Some((i, self.sites[i].gain_probe()?))).collect();
        for block in probes.chunks(BLOCK) {
            let mut choice = vec![0; self.sites.len()];
            block.iter().for_each(|&(site, candidate)| choice[site] = candidate);
            let local: f64 = block.iter().map(|&(s, c)| self.sites[s].candidates[c].local_error).sum();
            let module = self.selected(&choice)?.module;
            let outputs = self.run_to_choose(&module, measure).map_err(SelectError::Measure)?;
            let reached = noise_to_signal(&self.reference, &outputs, self.n_outputs);
            let gain = if local > 0.0 { (reached / local).max(MIN_GAIN) } else { 1.0 };
            for &(site, _) in block {
                self.sites[site].gain = gain;
            }
        }
        for site in &mut self.sites {
            for candidate in &mut site.candidates {
                let error = site.gain * candidate.local_error;
                candidate.error = if candidate.local_error == 0.0 { 0.0 } else { error };
            }
            site.candidates.retain(|c| c.error.is_finite());
        }
        if measure.holds_out() {
            let unchanged = self.module.clone();
            self.reference = self.run(&unchanged, measure).map_err(SelectError::Measure)?;
        }
        Ok(())
    }

    /// The module with one candidate for each site.
    ///
    /// # Errors
    /// When a constant cannot be converted; never for a verified module.
    pub fn selected(&self, choice: &[usize]) -> Result<Selected, Error> {
        let mut next = 0;
        let entry = self.func;
        let narrow = self.narrows_attention(choice);
        let quantised = &mut self.quantised.borrow_mut();
        convert(self.module.clone(), &self.options, narrow, quantised, &mut |func, _, _, _| {
            if func != entry {
                return (Forms::default(), None);
            }
            let site = &self.sites[next];
            let candidate = &site.candidates[choice[next]];
            next += 1;
            (Forms { operands: candidate.formats.map(Some), dense: candidate.dense }, site.kept)
        })
    }

    /// Measured noise to signal of the worst output, and loss of accuracy.
    pub(super) fn quality<M: Measure>(
        &mut self,
        choice: &[usize],
        measure: &mut M,
    ) -> Result<(f64, Option<Drop>), SelectError<M::Error>> {
        if let Some(&known) = self.known.get(choice) {
            return Ok(known);
        }
        // Pruning changes weights that keep their format too.
        let is_reference = choice.iter().all(|&c| c == 0) && self.options.weights.prune.is_none();
        let found = if is_reference {
            self.reference.clone()
        } else {
            let module = self.selected(choice)?.module;
            self.run(&module, measure).map_err(SelectError::Measure)?
        };
        let noise = noise_to_signal(&self.reference, &found, self.n_outputs);
        let quality = (noise, measure.drop(&self.reference, &found));
        self.known.insert(choice.to_vec(), quality);
        Ok(quality)
    }

    /// How many samples or positions the data judges; `None` if the outputs are no classes.
    pub fn judged<M: Measure>(&self, measure: &M) -> Option<Drop> {
        measure.drop(&self.reference, &self.reference)
    }

    /// What the machine model says of the code for a choice.
    pub(super) fn machine_cost<M: Measure>(
        &mut self,
        choice: &[usize],
        measure: &mut M,
    ) -> Result<MachineCost, SelectError<M::Error>> {
        if let Some(&known) = self.machine.get(choice) {
            return Ok(known);
        }
        let cost = measure.machine_cost(&self.selected(choice)?).map_err(SelectError::Measure)?;
        self.machine.insert(choice.to_vec(), cost);
        Ok(cost)
    }

    /// A choice with everything that is known of it; runs it if it was not run before.
    ///
    /// # Errors
    /// When there is no code for it, or it traps.
    pub fn point<M: Measure>(
        &mut self,
        choice: &[usize],
        measure: &mut M,
    ) -> Result<ParetoPoint, SelectError<M::Error>> {
        let (noise, drop) = self.quality(choice, measure)?;
        let machine = self.machine_cost(choice, measure)?;
        let (cycles, weight_bytes, error) = self.total(choice);
        let choice = choice.to_vec();
        Ok(ParetoPoint { choice, cycles, weight_bytes, error, sqnr_db: sqnr_db(noise), drop, machine })
    }

    /// How many other contractions read an operand of one.
    pub fn n_sharing(&self, site: usize) -> usize {
        let own = self.shared.iter().filter(|s| s.users.contains(&site));
        let mut others: Vec<usize> =
            own.flat_map(|s| s.users.iter().copied()).filter(|&u| u != site).collect();
        others.sort_unstable();
        others.dedup();
        others.len()
    }

    /// Modelled cycles, bytes of weights and predicted error of a choice.
    pub fn total(&self, choice: &[usize]) -> (f64, u64, f64) {
        let mut total = (0.0, self.other_bytes, 0.0);
        for (site, &c) in self.sites.iter().zip(choice) {
            let candidate = &site.candidates[c];
            total.0 += candidate.cycles;
            total.1 += candidate.bytes;
            total.2 += candidate.error;
        }
        for shared in &self.shared {
            let (cycles, bytes) = shared.cost(&self.sites, choice);
            total.0 += cycles;
            total.1 += bytes;
        }
        if let Some(attention) = self.attention.filter(|_| self.narrows_attention(choice)) {
            total.0 += attention.cycles;
            total.2 += attention.error;
        }
        total
    }

    /// The same formats for every contraction that has them as a candidate, by name; the first keeps the model's.
    pub fn uniform_choices(&self) -> Vec<(String, Vec<usize>)> {
        let formats = formats(&self.options.features);
        let mut all = vec![("f32".to_owned(), self.kept())];
        for &weights in &formats {
            for &activations in &formats {
                let grouped = [weights, activations].map(|f| matches!(f, Format::Grouped(_)));
                if weights == Format::F32 || (weights != activations && grouped != [true, true]) {
                    continue;
                }
                if weights != activations && weights.element().bits() >= activations.element().bits() {
                    continue;
                }
                let pick = |site: &Site| {
                    let want = site.constant.map(|c| if c { weights } else { activations });
                    site.candidates.iter().position(|c| c.formats == want).unwrap_or(0)
                };
                let name = if weights == activations {
                    weights.to_string()
                } else {
                    format!("{weights}:{activations}")
                };
                let choice = self.with_attention(self.sites.iter().map(pick).collect(), true);
                if choice.iter().any(|&c| c > 0) {
                    all.push((name, choice));
                }
            }
        }
        all
    }
}

//! The candidates of every contraction: modelled cost, measured error, and what they share.
//!
//! A contraction's error in a candidate is its local error, measured next to the reference in one run for each format, times the gain of
//! its block, measured by one run with only that block quantised: the share of the local noise that reaches the outputs.
//! Errors are ratios of noise to signal at the worst output, and are added up, which is a model: the joint choice is run before
//! it is believed.

use std::collections::BTreeMap;

use cranelift_entity::SecondaryMap;
use indexmap::IndexMap;
use lacuna_ir::{ElemType, FuncId, Function, Module, Node, OriginId, Value};
use lacuna_isa::format::{Format, ScalarType};
use lacuna_isa::target::Target;
use lacuna_isa::view::Pattern;

use super::convert::{Forms, castable, grouped_axes};
use super::measure::{Drop, MachineCost, Measure, Outputs, SelectError, noise_to_signal, sqnr_db};
use super::model::{Extents, Model, joins_producer};
use super::probe::{Probe, probed};
use super::{Selected, convert};
use crate::constants::constant_values;
use crate::exact::{Error, functions};
use crate::options::{Options, TargetFeatures};
use crate::zeros::{WeightSparsity, follows, summed_dims};

/// Contractions whose gain one run measures together.
const BLOCK: usize = 2;
/// The local error that a gain is best measured with: far above rounding, far below saturation.
const PROBE_NOISE: f64 = 1e-3;
/// Gain of a block whose noise is drowned at the outputs.
const MIN_GAIN: f64 = 1e-9;

/// One way to compute a contraction.
#[derive(Clone, PartialEq, Debug)]
pub struct Candidate {
    /// Formats of the operands.
    pub formats: [Format; 2],
    /// The pattern in which weights are stored compressed.
    pub pattern: Option<Pattern>,
    /// Whether weights that follow a pattern are stored dense.
    pub dense: bool,
    /// Modelled cycles: the kernel, and conversions and stores of operands that no other contraction reads.
    pub cycles: f64,
    /// Bytes of the weights, 0 where another contraction has a share in them.
    pub bytes: u64,
    /// Noise to signal that it adds to the contraction's own result.
    pub local_error: f64,
    /// Noise to signal that it adds to the worst output.
    pub error: f64,
}

/// A contraction.
#[derive(Clone, Debug)]
pub struct Site {
    /// The node in the exact module's entry function.
    pub node: Node,
    /// ONNX nodes that it implements.
    pub origins: Vec<OriginId>,
    /// The node in text form: operator and shapes.
    pub text: String,
    /// Multiply-accumulates.
    pub macs: u64,
    /// Elements of the constant operand.
    pub weight_elements: u64,
    /// Which operands are constant.
    pub constant: [bool; 2],
    /// Share of its local noise that reaches the worst output.
    pub gain: f64,
    /// Why it has no grouped candidates, if so.
    pub kept: Option<&'static str>,
    /// The candidates; the first keeps the model's formats.
    pub candidates: Vec<Candidate>,
    values: [Value; 2],
    axes: [u8; 2],
}

/// A value in a format, grouped along an axis (0 for scalars).
type Form = (Format, u8);

/// A value that several operands of contractions read: its conversions are shared.
struct Shared {
    value: Value,
    users: Vec<usize>,
    /// The forms that it may have at once, at most two, each with cycles and bytes.
    states: Vec<(Vec<Form>, f64, u64)>,
}

/// A choice with what was predicted and measured.
#[derive(Clone, Debug)]
pub struct ParetoPoint {
    /// The number of the candidate of each site.
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

/// Everything the choice is made from.
pub struct Survey {
    module: Module,
    func: FuncId,
    options: Options,
    /// The contractions of the entry, in order.
    pub sites: Vec<Site>,
    shared: Vec<Shared>,
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
}

/// The native formats that are worth a candidate: f32, bf16, and of the grouped ones one for each element type. Elements with
/// more exponent than E4M3, E2M3 and E2M1 have lose precision for a range that the shared scale already gives.
fn formats(features: &TargetFeatures) -> Vec<Format> {
    let mut found = vec![Format::F32];
    let bf16 = Format::Scalar(ScalarType::Bf16);
    if features.formats.contains(&bf16) {
        found.push(bf16);
    }
    for element in [ScalarType::I8, ScalarType::E4M3, ScalarType::E2M3, ScalarType::E2M1] {
        let of = |f: &&Format| matches!(f, Format::Grouped(g) if g.element == element && !g.pair_shift && g.scale == ScalarType::E8M0);
        let widest = features.formats.iter().filter(of).max_by_key(|f| (f.group_size(), std::cmp::Reverse(**f)));
        found.extend(widest);
    }
    found
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
        let broken = || Error::Contradiction { function: module.name.clone(), message: "there is no entry".into() };
        let func = func.ok_or_else(broken)?;
        let mut survey = Survey {
            module: module.clone(),
            func,
            options: options.clone(),
            sites: Vec::new(),
            shared: Vec::new(),
            reference: Vec::new(),
            n_outputs: module.functions[func].results.len(),
            other_bytes: 0,
            n_runs: 0,
            warnings: Vec::new(),
            known: BTreeMap::new(),
            machine: BTreeMap::new(),
        };
        survey.list(target);
        survey.measure_locally(measure)?;
        survey.measure_gains(measure)?;
        Ok(survey)
    }

    fn list(&mut self, target: &Target) {
        let func = &self.module.functions[self.func];
        let model = Model { target };
        let constant = constant_values(func);
        let mut uses: SecondaryMap<Value, usize> = SecondaryMap::new();
        func.nodes.values().flat_map(|n| &n.args).chain(&func.results).for_each(|&v| uses[v] += 1);
        let products: Vec<Node> =
            func.nodes.iter().filter(|(_, n)| n.op.is_product()).map(|(id, _)| id).collect();
        let mut readers: IndexMap<Value, Vec<(usize, usize)>> = IndexMap::new();
        for (site, &id) in products.iter().enumerate() {
            for (operand, &v) in func.nodes[id].args.iter().enumerate() {
                readers.entry(v).or_default().push((site, operand));
            }
        }
        let formats = formats(&self.options.features);
        let conversions = Conversions { func, model, uses: &uses, readers: &readers };
        let mut weights = IndexMap::new();
        for id in products {
            let node = &func.nodes[id];
            let values = [node.args[0], node.args[1]];
            let constant = values.map(|v| constant[v]);
            let grouped = grouped_axes(func, node);
            let extents = Extents::of(func, node, constant);
            let axes = grouped.unwrap_or_default();
            let weight_elements: u64 =
                (0..2).filter(|&i| constant[i]).map(|i| extents.elements[i]).sum();
            weights.extend(values.iter().filter_map(|&v| Some((func.as_const(v)?, ()))));
            let own = [0, 1].map(|i| func.ty(values[i]).elem.format());
            let pairs = pairs(own, constant, castable(func, node).is_ok(), grouped.is_ok(), &formats);
            let exact_zeros = self.options.features.sparse_2_4 && zeros_follow(&self.module, func, id);
            let mut candidates = Vec::new();
            for formats in pairs {
                let patterns: &[Option<Pattern>] =
                    if exact_zeros { &[Some(Pattern { n: 2, m: 4 }), None] } else { &[None] };
                for &pattern in patterns {
                    let mut cycles = model.product(&extents, formats, pattern).cycles;
                    let mut bytes = 0;
                    for i in 0..2 {
                        let private = readers.get(&values[i]).is_some_and(|r| r.len() == 1);
                        if !private {
                            continue;
                        }
                        if constant[i] {
                            bytes += model.weight_bytes(&extents, formats[i], pattern.filter(|_| i == 1));
                        } else {
                            cycles += conversions.cycles(values[i], &[form(formats[i], axes[i])]);
                        }
                    }
                    let dense = exact_zeros && pattern.is_none();
                    let unknown = if formats == own { 0.0 } else { f64::INFINITY };
                    candidates.push(Candidate {
                        formats,
                        pattern,
                        dense,
                        cycles,
                        bytes,
                        local_error: unknown,
                        error: unknown,
                    });
                }
            }
            let shapes: Vec<String> = values.iter().map(|&v| func.ty(v).shape.to_string()).collect();
            self.sites.push(Site {
                node: id,
                origins: node.origins.clone(),
                text: format!("{} {} x {} -> {}", node.op.name(), shapes[0], shapes[1], func.ty(node.results[0]).shape),
                macs: extents.macs(),
                weight_elements,
                constant,
                gain: 0.0,
                kept: grouped.err(),
                candidates,
                values,
                axes,
            });
        }
        self.shared = conversions.shared(&self.module, &self.sites, &constant);
        let others = self.module.constants.iter().filter(|(id, _)| !weights.contains_key(id));
        self.other_bytes = others.map(|(_, c)| crate::constants::dense_bytes(c).map_or(0, |b| b.len() as u64)).sum();
    }

    fn run<M: Measure>(&mut self, module: &Module, measure: &mut M) -> Result<Outputs, M::Error> {
        self.n_runs += 1;
        measure.run(module)
    }

    /// One run for the reference and one for each format.
    fn measure_locally<M: Measure>(&mut self, measure: &mut M) -> Result<(), SelectError<M::Error>> {
        let weights = self.options.weights;
        let module = probed(&self.module, self.func, weights, |_| vec![Probe::Signal])?;
        let outputs = self.run(&module, measure).map_err(SelectError::Measure)?;
        let signal: Vec<f64> = self.sums(&outputs);
        self.reference = outputs
            .into_iter()
            .map(|set| set.into_iter().take(self.n_outputs).collect())
            .collect();
        let mut formats: Vec<Format> = Vec::new();
        for candidate in self.sites.iter().flat_map(|s| &s.candidates) {
            for format in candidate.formats {
                if format != Format::F32 && !formats.contains(&format) {
                    formats.push(format);
                }
            }
        }
        for format in formats {
            // Weights alone where only they are converted, then both operands.
            let probes: Vec<Vec<(Forms, [Format; 2])>> =
                self.sites.iter().map(|site| site.probes(format)).collect();
            if probes.iter().all(Vec::is_empty) {
                continue;
            }
            let noise = |idx: usize| probes[idx].iter().map(|p| Probe::Noise(p.0)).collect();
            let module = probed(&self.module, self.func, weights, noise)?;
            let outputs = match self.run(&module, measure) {
                Ok(outputs) => outputs,
                Err(e) => {
                    self.warnings.push(format!("{format} is no candidate, because it cannot be measured: {e}"));
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
            let reached = self.quality(&choice, measure).map_err(|e| match e {
                SelectError::Measure(e) => SelectError::Measure(e),
                other => other,
            })?.0;
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
        self.known.clear();
        self.machine.clear();
        Ok(())
    }

    /// The module with one candidate for each site.
    ///
    /// # Errors
    /// When a constant cannot be converted; never for a verified module.
    pub fn selected(&self, choice: &[usize]) -> Result<Selected, Error> {
        let mut next = 0;
        let entry = self.func;
        convert(self.module.clone(), &self.options, &mut |func, _, _, _| {
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
        let found = if choice.iter().all(|&c| c == 0) {
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
            let forms = shared.forms(&self.sites, choice);
            // Of states that hold what is used the cheapest; more than two forms at once are charged one by one.
            let fits = shared.states.iter().filter(|s| forms.iter().all(|f| s.0.contains(f)));
            let best = fits.min_by(|a, b| a.1.total_cmp(&b.1).then(a.2.cmp(&b.2)));
            let alone = || shared.states.iter().filter(|s| s.0.len() == 1 && forms.contains(&s.0[0]));
            total.0 += best.map_or_else(|| alone().map(|s| s.1).sum(), |s| s.1);
            total.1 += best.map_or_else(|| alone().map(|s| s.2).sum(), |s| s.2);
        }
        total
    }

    /// Variables of the factor graph beyond the sites: what values that several contractions read are converted to. For each the
    /// charge of its states, and for each reader whether a candidate suits a state.
    pub(super) fn couplings(&self) -> impl Iterator<Item = Coupling<'_>> {
        self.shared.iter().map(|shared| Coupling { shared, sites: &self.sites })
    }

    /// The same formats for every contraction that has them as a candidate, by name; the first keeps the model's.
    pub fn uniform_choices(&self) -> Vec<(String, Vec<usize>)> {
        let formats = formats(&self.options.features);
        let mut all = vec![("f32".to_owned(), vec![0; self.sites.len()])];
        for &weights in &formats {
            for &activations in &formats {
                let grouped = [weights, activations].map(|f| matches!(f, Format::Grouped(_)));
                if weights == Format::F32 || (weights != activations && grouped != [true, true]) {
                    continue;
                }
                if weights.element().bits() > activations.element().bits() {
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
                let choice: Vec<usize> = self.sites.iter().map(pick).collect();
                if choice.iter().any(|&c| c > 0) {
                    all.push((name, choice));
                }
            }
        }
        all
    }
}

/// A shared value seen as a variable.
pub(super) struct Coupling<'a> {
    shared: &'a Shared,
    sites: &'a [Site],
}

impl Coupling<'_> {
    /// Sites that read the value.
    pub fn sites(&self) -> &[usize] {
        &self.shared.users
    }

    /// Cycles and bytes of each state.
    pub fn states(&self) -> impl ExactSizeIterator<Item = (f64, u64)> + '_ {
        self.shared.states.iter().map(|s| (s.1, s.2))
    }

    /// Whether a site's candidate reads only forms that a state has.
    pub fn suits(&self, state: usize, site: usize, candidate: usize) -> bool {
        let have = &self.shared.states[state].0;
        self.shared.site_forms(&self.sites[site], candidate).all(|f| have.contains(&f))
    }
}

impl Shared {
    fn site_forms<'s>(&'s self, site: &'s Site, candidate: usize) -> impl Iterator<Item = Form> + 's {
        let formats = site.candidates[candidate].formats;
        (0..2).filter(|&i| site.values[i] == self.value).map(move |i| form(formats[i], site.axes[i]))
    }

    fn forms(&self, sites: &[Site], choice: &[usize]) -> Vec<Form> {
        let mut forms: Vec<Form> =
            self.users.iter().flat_map(|&s| self.site_forms(&sites[s], choice[s])).collect();
        forms.sort_unstable();
        forms.dedup();
        forms
    }
}

impl Site {
    /// The candidates that a run for `format` measures.
    fn probes(&self, format: Format) -> Vec<(Forms, [Format; 2])> {
        let measured = |c: &&Candidate| {
            let both = c.formats == [format; 2];
            let weights_alone = (0..2).all(|i| c.formats[i] == if self.constant[i] { format } else { Format::F32 });
            !c.dense && (both || (weights_alone && self.constant != [false; 2]))
        };
        let found = self.candidates[1..].iter().filter(measured);
        found.map(|c| (Forms { operands: c.formats.map(Some), dense: false }, c.formats)).collect()
    }

    fn set_local(&mut self, formats: [Format; 2], ratio: f64) {
        for c in self.candidates.iter_mut().filter(|c| c.formats == formats) {
            c.local_error = ratio;
        }
    }

    fn local(&self, formats: [Format; 2]) -> Option<f64> {
        self.candidates.iter().find(|c| c.formats == formats).map(|c| c.local_error)
    }

    /// Local errors of pairs that no run measured: noise of both operands adds.
    fn combine_local(&mut self) {
        let pair = |weights: Format, activations: Format| {
            self.constant.map(|c| if c { weights } else { activations })
        };
        let errors: Vec<f64> = self
            .candidates
            .iter()
            .map(|c| {
                if c.local_error.is_finite() {
                    return c.local_error;
                }
                let Some(w) = self.constant.iter().position(|&c| c) else { return c.local_error };
                let (weights, activations) = (c.formats[w], c.formats[1 - w]);
                let of_weights = |f: Format| self.local(pair(f, Format::F32));
                // What both lose, less what the weights lose; a cast loses little, and all of it is counted.
                let both = self.local([activations; 2]);
                let of_activations = both.map(|b| match activations {
                    Format::Scalar(_) => b,
                    Format::Grouped(_) => (b - of_weights(activations).unwrap_or(0.0)).max(0.0),
                });
                of_weights(weights).zip(of_activations).map_or(f64::INFINITY, |(w, a)| w + a)
            })
            .collect();
        for (candidate, error) in self.candidates.iter_mut().zip(errors) {
            candidate.local_error = error;
        }
    }

    /// The candidate with both operands in one format whose local error suits the measurement of the gain best.
    fn gain_probe(&self) -> Option<usize> {
        let suited = |c: &Candidate| c.local_error > 0.0 && c.local_error.is_finite() && !c.dense;
        let distance = |c: &Candidate| (c.local_error / PROBE_NOISE).ln().abs();
        let same = (0..self.candidates.len()).filter(|&i| {
            let c = &self.candidates[i];
            suited(c) && c.formats[0] == c.formats[1]
        });
        same.min_by(|&a, &b| distance(&self.candidates[a]).total_cmp(&distance(&self.candidates[b])))
    }
}

fn form(format: Format, axis: u8) -> Form {
    match format {
        Format::Scalar(_) => (format, 0),
        Format::Grouped(_) => (format, axis),
    }
}

/// Whether the constant second operand of a contraction is 2:4 sparse as it is.
fn zeros_follow(module: &Module, func: &Function, id: Node) -> bool {
    let node = &func.nodes[id];
    summed_dims(&node.op).into_iter().any(|(operand, axis)| {
        operand == 1
            && func.as_const(node.args[1]).is_some_and(|c| {
                follows(&module.constants[c], axis, WeightSparsity::TWO_OF_FOUR)
            })
    })
}

/// The pairs of operand formats of a contraction, its own first. Activations are at least as wide as weights: the narrower operand gains nothing
/// while the wider one sets the rate, and activations cost a conversion.
fn pairs(
    own: [Format; 2],
    constant: [bool; 2],
    castable: bool,
    groupable: bool,
    formats: &[Format],
) -> Vec<[Format; 2]> {
    let mut pairs = vec![own];
    let has_weights = constant[0] != constant[1];
    for &weights in formats {
        for &activations in formats {
            let allowed = match (weights, activations) {
                (Format::Scalar(w), Format::Scalar(a)) => castable && w == a,
                (Format::Grouped(_), Format::Scalar(a)) => {
                    has_weights && groupable && (castable || a == own[usize::from(constant[0])].element())
                }
                (Format::Grouped(w), Format::Grouped(a)) => {
                    groupable && w.size == a.size && (weights == activations || has_weights)
                }
                (Format::Scalar(_), Format::Grouped(_)) => false,
            };
            let pair = constant.map(|c| if c { weights } else { activations });
            if allowed && !pairs.contains(&pair) {
                pairs.push(pair);
            }
        }
    }
    pairs
}

/// What conversions of values cost.
struct Conversions<'a> {
    func: &'a Function,
    model: Model<'a>,
    uses: &'a SecondaryMap<Value, usize>,
    readers: &'a IndexMap<Value, Vec<(usize, usize)>>,
}

impl Conversions<'_> {
    /// Cycles for a computed value to exist in `forms` at once: the store by its producer, and a kernel for each conversion that does not
    /// join the producer's.
    fn cycles(&self, value: Value, forms: &[Form]) -> f64 {
        let ty = self.func.ty(value);
        let elements = ty.shape.elements();
        let own = ty.elem.format();
        let read_by_contractions = self.readers.get(&value).map_or(0, Vec::len);
        let others = self.uses[value] > read_by_contractions;
        let [(format, _)] = forms else {
            let kernels = forms.iter().filter(|f| f.0 != own).map(|f| self.model.convert(elements, f.0).cycles);
            return self.model.store(elements, own).cycles + kernels.sum::<f64>();
        };
        if *format == own {
            return self.model.store(elements, own).cycles;
        }
        let uses = |v: Value| self.uses[v];
        if !others && joins_producer(self.func, value, *format, &uses) {
            return self.model.store(elements, *format).cycles;
        }
        self.model.store(elements, own).cycles + self.model.convert(elements, *format).cycles
    }

    /// Values that several operands of contractions read.
    fn shared(&self, module: &Module, sites: &[Site], constant: &SecondaryMap<Value, bool>) -> Vec<Shared> {
        let mut all = Vec::new();
        for (&value, readers) in self.readers.iter().filter(|(_, r)| r.len() > 1) {
            let mut users: Vec<usize> = readers.iter().map(|r| r.0).collect();
            users.dedup();
            let mut forms: Vec<Form> = Vec::new();
            for &(site, operand) in readers {
                let site = &sites[site];
                forms.extend(site.candidates.iter().map(|c| form(c.formats[operand], site.axes[operand])));
            }
            forms.sort_unstable();
            forms.dedup();
            let mut sets: Vec<Vec<Form>> = forms.iter().map(|&f| vec![f]).collect();
            for (i, &a) in forms.iter().enumerate() {
                sets.extend(forms[i + 1..].iter().map(|&b| vec![a, b]));
            }
            let bytes = |form: Form| {
                let ty = self.func.ty(value);
                let elem = match form.0 {
                    Format::Scalar(s) => ElemType::Scalar(s),
                    Format::Grouped(format) => ElemType::Grouped { format, axis: form.1 },
                };
                let stored = self.func.as_const(value).is_some_and(|c| {
                    crate::constants::dense_bytes(&module.constants[c]).is_some()
                });
                if stored { (lacuna_ir::TensorType { elem, shape: ty.shape.clone() }).bytes() } else { 0 }
            };
            let states = sets.into_iter().map(|set| {
                let cycles = if constant[value] { 0.0 } else { self.cycles(value, &set) };
                let bytes = if constant[value] { set.iter().map(|&f| bytes(f)).sum() } else { 0 };
                (set, cycles, bytes)
            });
            all.push(Shared { value, users, states: states.collect() });
        }
        all
    }
}

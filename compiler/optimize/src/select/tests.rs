//! The choice under a budget on small functions, measured with the IR evaluator.

use lacuna_ir::eval::{Mode, Tensor, eval};
use lacuna_ir::op::{ContractMap, EmptyRow, Real, UnaryOp};
use lacuna_ir::{Entry, FunctionBuilder, Module, Op, TensorType, Value};
use lacuna_isa::format::{Format, ScalarType};
use lacuna_isa::target_file::target;

use super::*;
use crate::options::TargetFeatures;
use crate::weights::{Prune, PruneBy, Rounding, WeightOptions};

/// The evaluator on one data set; a cycle for each byte of weights and 1000 for each node stands for the machine.
struct Evaluator {
    inputs: Vec<Tensor>,
    n_runs: usize,
}

impl Measure for Evaluator {
    type Error = String;

    fn run(&mut self, module: &Module) -> Result<Outputs, String> {
        self.n_runs += 1;
        let found =
            eval(module, module.entries[0].func, &self.inputs, Mode::Typed).map_err(|e| e.to_string())?;
        Ok(vec![found.iter().map(|t| t.to_f64().to_vec()).collect()])
    }

    fn machine_cost(&mut self, selected: &Selected) -> Result<MachineCost, String> {
        let stored = |constant| selected.module.constants[constant].ty.bytes();
        let weight_bytes = weight_shares(&selected.module, &stored).iter().map(|s| s.bytes).sum();
        let n_nodes = selected.module.functions.values().map(|f| f.nodes.len() as u64).sum::<u64>();
        Ok(MachineCost { cycles: weight_bytes + 1000 * n_nodes, weight_bytes, hbm_bytes: 0, sram_bytes: 0 })
    }

    fn drop(&self, reference: &Outputs, found: &Outputs) -> Option<Drop> {
        let (a, b) = (&reference[0][0], &found[0][0]);
        let signs = a.iter().zip(b).filter(|(x, y)| (**x > 0.0) != (**y > 0.0)).count();
        Some(Drop {
            points: 100.0 * signs as f64 / a.len() as f64,
            n_judged: a.len() as u64,
            by_labels: false,
            held_out: false,
        })
    }
}

/// Values that look random: multiples of 1/512 in [-1, 1).
fn noise(seed: u64, n: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % 1024) as f32 / 512.0 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// `layers` products in a row with an activation between, each by its own 64 x 64 weights; `shared` more read the input.
fn network(layers: usize, shared: usize) -> (Module, Evaluator) {
    let mut module = Module::default();
    let mut b = FunctionBuilder::new(&mut module, "main");
    let x = b.param(TensorType::new(ScalarType::F32, vec![32, 64]), "x");
    let mut seed = 1;
    let mut product = |b: &mut FunctionBuilder<'_>, x: Value| {
        seed += 1;
        let w = b.const_f32(vec![64, 64], &noise(seed, 64 * 64)).expect("weights");
        let map = ContractMap::parse("mk,kn->mn").expect("a map");
        b.emit(Op::Contract { map, elem: ScalarType::F32 }, &[x, w]).expect("a product")
    };
    let mut y = x;
    for _ in 0..layers {
        y = product(&mut b, y);
        y = b.unary(UnaryOp::Tanh, y).expect("tanh");
    }
    let mut results = vec![y];
    results.extend((0..shared).map(|_| product(&mut b, x)));
    b.results(&results);
    let func = b.id();
    drop(b);
    let outputs = (0..results.len()).map(|i| format!("y{i}")).collect();
    module.entries.push(Entry { name: "main".into(), func, inputs: vec!["x".into()], outputs });
    lacuna_ir::verify::verify(&module).expect("a legal module");
    let values: Vec<f64> = noise(99, 32 * 64).into_iter().map(f64::from).collect();
    let input = Tensor::from_f64(ScalarType::F32, vec![32, 64], &values).expect("an input");
    (module, Evaluator { inputs: vec![input], n_runs: 0 })
}

fn survey(layers: usize, shared: usize) -> (Survey, Evaluator) {
    let (module, mut evaluator) = network(layers, shared);
    let options = Options { precision: Precision::Auto, ..Options::default() };
    let target = target("mtia-300").expect("a target");
    let survey = Survey::new(&module, &target, &options, &mut evaluator).expect("a survey");
    (survey, evaluator)
}

#[test]
fn a_few_passes_measure_every_format_of_every_layer() {
    let (survey, evaluator) = survey(6, 0);
    // The reference, five formats, three blocks.
    assert_eq!((survey.n_runs, evaluator.n_runs), (9, 9));
    for site in &survey.sites {
        let error = |weights: &str, activations: &str| {
            let want = [activations, weights].map(|f| Format::from_name(f).expect("a format"));
            site.candidates.iter().find(|c| c.formats == want).expect("a candidate").local_error
        };
        assert_eq!(error("f32", "f32"), 0.0);
        assert!(error("mxfp4", "f32") > 4.0 * error("mxfp8", "f32"));
        assert!(error("mxfp4", "mxfp4") > error("mxfp4", "mxfp8"));
        assert!(error("mxfp8", "mxfp8") > error("mxint8", "mxint8"));
        assert!(error("mxint8", "mxint8") > error("bf16", "bf16") && error("bf16", "bf16") > 0.0);
        assert!(site.gain > 0.0 && site.candidates.iter().all(|c| c.cycles > 0.0));
    }
}

#[test]
fn the_choice_holds_when_it_is_run() {
    let (mut survey, mut evaluator) = survey(4, 2);
    let mut last = f64::INFINITY;
    for db in [50.0, 40.0, 30.0, 20.0, 12.0] {
        let chosen = survey.choose(Budget::MinSqnr(db), &mut evaluator).expect("a choice");
        let point = &chosen.verdict.point;
        assert!(point.sqnr_db >= db, "{db}: {}", point.sqnr_db);
        // A looser budget never costs more, unless the machine of this test prefers a uniform precision.
        if chosen.verdict.uniform.is_none() {
            assert!(point.cycles <= last, "{db}");
            last = point.cycles;
        }
        // What is reported is what the module does.
        let found = evaluator.run(&chosen.selected.module).expect("it runs");
        let reference = evaluator.run(&survey.selected(&[0; 6]).expect("a module").module).expect("it runs");
        let noise = noise_to_signal(&reference, &found, 3);
        assert_eq!(sqnr_db(noise), point.sqnr_db);
        lacuna_ir::verify::verify(&chosen.selected.module).expect("a legal module");
        assert_eq!(chosen.selected.assignments.len(), 6);
        assert!(chosen.verdict.gap < 0.01, "{}", chosen.verdict.gap);
    }
}

#[test]
fn predictions_are_near_measurements() {
    let (mut survey, mut evaluator) = survey(4, 0);
    for choice in survey.frontier_choices(6) {
        let point = survey.point(&choice, &mut evaluator).expect("a point");
        if point.error > 0.0 {
            let off = sqnr_db(point.error) - point.sqnr_db;
            assert!(off.abs() < 6.0, "predicted {} dB, measured {} dB", sqnr_db(point.error), point.sqnr_db);
        }
    }
}

#[test]
fn one_conversion_serves_every_reader_and_two_formats_cost_two() {
    let (survey, _) = survey(0, 3);
    let site = &survey.sites[0];
    let of = |name: &str| {
        let format = Format::from_name(name).expect("a format");
        site.candidates.iter().position(|c| c.formats == [format; 2]).expect("a candidate")
    };
    let alone = |choice: &[usize]| {
        let own: f64 = survey.sites.iter().zip(choice).map(|(s, &c)| s.candidates[c].cycles).sum();
        survey.total(choice).0 - own
    };
    let (f32s, mxfp8, mxint8) = (of("f32"), of("mxfp8"), of("mxint8"));
    let one = alone(&[mxfp8; 3]);
    assert_eq!(one, alone(&[mxfp8, mxfp8, f32s]));
    assert!(alone(&[f32s; 3]) < one);
    let two = alone(&[mxfp8, mxint8, mxfp8]);
    assert!(two > one + 900.0, "{one} {two}");
}

#[test]
fn weights_fit_the_bytes() {
    let (mut survey, mut evaluator) = survey(4, 0);
    let mut last = f64::INFINITY;
    for bytes in [64 << 10, 30_000, 20_000, 14_000, 9_000] {
        let chosen = survey.choose(Budget::MaxBytes(bytes), &mut evaluator).expect("a choice");
        let point = &chosen.verdict.point;
        assert!(point.machine.weight_bytes <= bytes);
        assert!(point.sqnr_db <= last, "fewer bytes err more");
        last = point.sqnr_db;
    }
    let refused = survey.choose(Budget::MaxBytes(1000), &mut evaluator);
    assert!(matches!(refused, Err(SelectError::OverBudget { .. })));
}

/// A machine that stores weights without their zeros.
struct Compressing(Evaluator);

impl Measure for Compressing {
    type Error = String;

    fn run(&mut self, module: &Module) -> Result<Outputs, String> {
        self.0.run(module)
    }

    fn machine_cost(&mut self, selected: &Selected) -> Result<MachineCost, String> {
        let stored = |c: &lacuna_ir::Constant| {
            let (n_zero, n) = crate::zeros::density(c);
            let compressed = (n - n_zero) * u64::from(c.ty.elem.format().element().bits()) / 8 + n / 8;
            (compressed + c.ty.scale_bytes()).min(c.ty.bytes())
        };
        let weight_bytes = selected.module.constants.values().map(stored).sum();
        Ok(MachineCost { weight_bytes, ..self.0.machine_cost(selected)? })
    }

    fn drop(&self, reference: &Outputs, found: &Outputs) -> Option<Drop> {
        self.0.drop(reference, found)
    }
}

#[test]
fn weights_with_zeros_fit_without_narrowing() {
    let (mut module, evaluator) = network(4, 0);
    for constant in module.constants.values_mut() {
        let mut bytes = crate::module::dense(constant).expect("weights").bytes().to_vec();
        for (i, word) in bytes.chunks_exact_mut(4).enumerate() {
            if (i / 64 + i) % 16 != 3 {
                word.fill(0);
            }
        }
        *constant = lacuna_ir::Constant::dense(constant.ty.clone(), bytes, "");
    }
    let options = Options { precision: Precision::Auto, ..Options::default() };
    let target = target("mtia-300").expect("a target");
    let mut machine = Compressing(evaluator);
    let mut survey = Survey::new(&module, &target, &options, &mut machine).expect("a survey");
    // A seventh of what the weights take in f32 with their zeros; without, they take less.
    let chosen = survey.choose(Budget::MaxBytes(4 * 64 * 64 * 4 / 7), &mut machine).expect("a choice");
    assert_eq!(chosen.verdict.point.error, 0.0, "f32 fits");
    assert!(chosen.selected.assignments.iter().all(|a| a.formats == [Format::F32; 2]));
}

#[test]
fn a_budget_below_one_position_cannot_be_judged() {
    let (mut survey, mut evaluator) = survey(2, 0);
    let refused = survey.choose(Budget::MaxDrop(0.01), &mut evaluator);
    assert!(matches!(refused, Err(SelectError::TooFew { n_judged: 2048, .. })));
    let chosen = survey.choose(Budget::MaxDrop(1.0), &mut evaluator).expect("a choice");
    assert!(chosen.verdict.point.drop.is_some_and(|d| d.points <= 1.0));
    assert!(chosen.verdict.tried.len() <= 8);
}

#[test]
fn only_what_the_target_has_is_chosen() {
    let (module, mut evaluator) = network(3, 0);
    let formats = vec![Format::F32, Format::from_name("mxfp8").expect("a format")];
    let features = TargetFeatures { formats: formats.clone(), sparse_2_4: false };
    let options = Options { precision: Precision::Auto, features, ..Options::default() };
    let target = target("mtia-300").expect("a target");
    let mut survey = Survey::new(&module, &target, &options, &mut evaluator).expect("a survey");
    let chosen = survey.choose(Budget::MinSqnr(5.0), &mut evaluator).expect("a choice");
    let all = chosen.selected.assignments.iter().flat_map(|a| a.formats);
    assert!(all.into_iter().all(|f| formats.contains(&f)));
}

#[test]
fn the_same_twenty_times() {
    let run = || {
        let (mut survey, mut evaluator) = survey(2, 2);
        let chosen = survey.choose(Budget::MinSqnr(25.0), &mut evaluator).expect("a choice");
        chosen.selected.module.to_string()
    };
    let first = run();
    assert!((0..20).all(|_| run() == first));
}

/// Attention is a variable beside the contractions, and uniform choices are what the precisions of the same names make.
#[test]
fn attention_is_part_of_the_choice() {
    let (mut module, mut evaluator) = (Module::default(), network(1, 0).1);
    let mut b = FunctionBuilder::new(&mut module, "main");
    let x = b.param(TensorType::new(ScalarType::F32, vec![32, 64]), "x");
    let weights = b.const_f32(vec![64, 64], &noise(1, 64 * 64)).expect("weights");
    let map = ContractMap::parse("mk,kn->mn").expect("a map");
    let y = b.emit(Op::Contract { map, elem: ScalarType::F32 }, &[x, weights]).expect("a product");
    let heads = b.emit(Op::Reshape { shape: vec![1, 1, 32, 64].into() }, &[y]).expect("a reshape");
    let attention = Op::Attention {
        scale: Real(0.125),
        softcap: Real(0.0),
        causal: false,
        shift: 0,
        window: 0,
        empty_row: EmptyRow::Nan,
        elem: ScalarType::F32,
    };
    let z = b.emit(attention, &[heads, heads, heads]).expect("attention");
    b.results(&[z]);
    let func = b.id();
    drop(b);
    let (inputs, outputs) = (vec!["x".into()], vec!["z".into()]);
    module.entries.push(Entry { name: "main".into(), func, inputs, outputs });
    let options = |precision: &str| Options {
        precision: precision.parse().expect("a precision"),
        ..Options::default()
    };
    let target = target("mtia-300").expect("a target");
    let mut survey = Survey::new(&module, &target, &options("auto"), &mut evaluator).expect("a survey");
    let narrowed = survey.attention.expect("attention is a choice");
    assert!(narrowed.error > 0.0 && narrowed.error < 1e-3, "{narrowed:?}");
    for (name, choice) in survey.uniform_choices() {
        let own = select(module.clone(), &options(&name)).expect("formats").module;
        assert_eq!(survey.selected(&choice).expect("formats").module.to_string(), own.to_string(), "{name}");
    }
    for db in [60.0, 30.0, 10.0] {
        let chosen = survey.choose(Budget::MinSqnr(db), &mut evaluator).expect("a choice");
        assert!(chosen.verdict.point.sqnr_db >= db);
        assert_eq!(chosen.verdict.point.choice.len(), 2);
    }
}

/// Beneath a budget techniques work on what is run.
#[test]
fn techniques_work_beneath_a_budget() {
    let (module, mut evaluator) = network(4, 0);
    let target = target("mtia-300").expect("a target");
    let mut check = |weights: WeightOptions, n_refined: usize| {
        let calibration = vec![evaluator.inputs.clone()];
        let options = Options { precision: Precision::Auto, weights, calibration, ..Options::default() };
        let mut survey = Survey::new(&module, &target, &options, &mut evaluator).expect("a survey");
        let chosen = survey.choose(Budget::MinSqnr(12.0), &mut evaluator).expect("a choice");
        lacuna_ir::verify::verify(&chosen.selected.module).expect("a legal module");
        assert!(chosen.verdict.point.sqnr_db >= 12.0, "{weights:?}");
        let found = (chosen.selected.assignments.len(), chosen.selected.refined.len());
        assert_eq!(found, (4, n_refined), "{weights:?}");
    };
    let plain = WeightOptions::default();
    check(plain, 0);
    check(WeightOptions { rounding: Rounding::Corrected, ..plain }, 4);
    check(WeightOptions { scale_search: true, ..plain }, 4);
    check(WeightOptions { hadamard: true, ..plain }, 4);
}

/// Not even the model's own formats hold, if half of the weights are gone.
#[test]
fn pruning_counts_against_the_budget() {
    let (module, mut evaluator) = network(2, 0);
    let target = target("mtia-300").expect("a target");
    let prune = Some(Prune { pattern: WeightSparsity::TWO_OF_FOUR, by: PruneBy::Magnitude });
    let weights = WeightOptions { prune, ..WeightOptions::default() };
    let options = Options { precision: Precision::Auto, weights, ..Options::default() };
    let mut survey = Survey::new(&module, &target, &options, &mut evaluator).expect("a survey");
    let mut choose = |db: f64| survey.choose(Budget::MinSqnr(db), &mut evaluator);
    assert!(matches!(choose(30.0), Err(SelectError::OverBudget { .. })));
    assert!(choose(0.0).is_ok());
}

/// A rotation is a product that no layer's assignment is about.
#[test]
fn rotations_do_not_shift_assignments() {
    let prune = Some(Prune { pattern: WeightSparsity::TWO_OF_FOUR, by: PruneBy::Magnitude });
    let options = Options {
        precision: "mxfp8".parse().expect("a precision"),
        weights: WeightOptions { prune, hadamard: true, ..WeightOptions::default() },
        ..Options::default()
    };
    let mut selected = select(network(4, 0).0, &options).expect("formats");
    let sparse = |selected: &Selected| -> Vec<usize> {
        let func = selected.module.entries[0].func;
        let found = compressed(selected, func, &[WeightSparsity::TWO_OF_FOUR]);
        let places = found.values().enumerate().filter(|(_, s)| !s.patterns.is_empty());
        places.map(|(place, _)| place).collect()
    };
    let all = sparse(&selected);
    selected.assignments[1].dense = true;
    assert_eq!(all.len(), 4);
    assert_eq!(sparse(&selected), [all[0], all[2], all[3]]);
}

//! `lacuna sweep`: one model on many targets, in many precisions, sizes and sparsities: time, bytes, energy and error of each, and
//! which of them no other beats.

pub mod grid;
mod plot;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use lacuna_driver::compare::{Criterion, OutputStats};
use lacuna_driver::diagnostics::{Diagnostic, Exit, Failed};
use lacuna_driver::exec::Program;
use lacuna_driver::pipeline::Watch;
use lacuna_driver::progress::{Loudness, Progress};
use lacuna_driver::report::{self, Report};
use lacuna_driver::testset::{self, DataSet, TestSet};
use lacuna_driver::{codes, files};
use lacuna_ir::eval::{EvalError, Mode, Tensor, eval};
use lacuna_ir::{Module, TensorType};
use lacuna_isa::Blob;
use lacuna_isa::object::{EntryPoint, Object};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::verify::{bind, inputs_of, numbers, random_inputs};
use super::{Context, Model, Settings};
use crate::cli::{self, CompileOptions};
use grid::Point;

/// What was found at a point.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Found {
    cycles: u64,
    microseconds: f64,
    /// Share of the time that the sum of the launches' bounds is.
    fraction: f64,
    weight_bytes: u64,
    hbm_bytes: u64,
    energy_pj: Option<f64>,
    /// Signal-to-noise ratio of the worst output; absent where nothing was run, or nothing differs.
    sqnr_db: Option<f64>,
    /// Whether nothing differs.
    exact: bool,
}

/// What became of a point: figures, or why there are none.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Outcome {
    Found(Found),
    Refused(String),
}

/// Results of the IR evaluator, or why there are none, computed when they are first needed.
type Evaluated = OnceLock<Result<Vec<Tensor>, EvalError>>;

/// What all points share.
struct Sweep<'a> {
    args: &'a cli::Sweep,
    model: Model,
    data: Vec<DataSet>,
    /// Results of the IR evaluator on random inputs, by the sizes of dimensions.
    evaluated: Mutex<BTreeMap<String, Arc<Evaluated>>>,
    /// Hash of everything that a result depends on besides its point.
    content: blake3::Hash,
}

/// Runs the command.
///
/// # Errors
/// Those of reading the model and its data, of a target or figure that does not exist, and of writing. A point that is refused is a row.
pub fn run(args: &cli::Sweep, context: &Context) -> Result<Report, Failed> {
    let set = TestSet::find(&args.model)?;
    let model = Model::read(&set.model)?;
    let data = if set.has_data() { set.load()? } else { Vec::new() };
    let points = grid::points(args)?;
    files::keep_apart(&[args.csv.as_deref(), args.svg.as_deref()])?;
    for point in &points {
        // A name that is wrong is wrong for every row: it is said once, before anything is compiled.
        lacuna_driver::exec::target(&point.target, &point.changes)?;
    }
    import_once(args, &model, &data, &points, context)?;
    if let Some(folder) = &args.cache {
        files::make_folder(folder)?;
    }
    let content = content(&model, &data)?;
    let sweep = Sweep { args, model, data, evaluated: Mutex::default(), content };
    let threads = rayon::ThreadPoolBuilder::new().num_threads(context.threads).build();
    let threads = threads.map_err(|e| Diagnostic::new(codes::INTERNAL, e.to_string()))?;
    let done = std::sync::atomic::AtomicUsize::new(0);
    let outcomes: Vec<Outcome> = threads.install(|| {
        let each = |point: &Point| {
            let outcome = sweep.cached(point);
            let n = done.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
            context.progress.of(n, points.len(), "points");
            outcome
        };
        points.par_iter().map(each).collect::<Result<_, Diagnostic>>()
    })?;
    finish(args, &points, &outcomes)
}

/// Imports the model at the first point. A file that is no model, a size that is left open and a name that the model does not have
/// are wrong for every row.
///
/// # Errors
/// Those of such mistakes; what only this point may be refused for is left to its row.
fn import_once(
    args: &cli::Sweep,
    model: &Model,
    data: &[DataSet],
    points: &[Point],
    context: &Context,
) -> Result<(), Failed> {
    let mut options = args.compile_options();
    if let Some(first) = points.first() {
        options.dims.clone_from(&first.dims);
    }
    let mut settings = Settings::measuring(&options)?;
    if let Some(data) = data.first() {
        settings = bind(model, &settings, data, context).0;
    }
    let mut watch = Watch { progress: &context.progress, dump: None };
    let imported = lacuna_driver::pipeline::import(&settings.request(model, context.threads), &mut watch);
    let Err(failed) = imported else { return Ok(()) };
    let of_all = [&lacuna_onnx::codes::UNBOUND_DIM, &lacuna_onnx::codes::OPTION].map(|code| code.code);
    let is_no_model = testset::decode(&model.blob).is_none();
    let named = |d: &Diagnostic| is_no_model || of_all.contains(&d.code);
    if failed.0.iter().any(named) { Err(failed) } else { Ok(()) }
}

/// What results depend on: the compiler, the model, its data files, the test data.
fn content(model: &Model, data: &[DataSet]) -> Result<blake3::Hash, Diagnostic> {
    let mut hasher = blake3::Hasher::new();
    let executable = std::env::current_exe().map_err(|e| Diagnostic::new(codes::READ, e.to_string()))?;
    hasher.update(files::read(&executable)?.bytes());
    hasher.update(model.blob.bytes());
    let graph = testset::decode(&model.blob).and_then(|model| model.graph);
    let locations = graph.iter().flat_map(testset::data_files).collect::<BTreeSet<String>>();
    let folder = model.path.parent().unwrap_or(Path::new("."));
    for location in locations {
        // One that cannot be read is reported where it is needed.
        if let Ok(blob) = files::read(&folder.join(location)) {
            hasher.update(blob.bytes());
        }
    }
    for (name, literal) in data.iter().flat_map(|set| set.inputs.iter().chain(&set.outputs)) {
        hasher.update(name.as_bytes()).update(literal.data.bytes());
    }
    Ok(hasher.finalize())
}

impl Sweep<'_> {
    /// The outcome of a point, from the cache where it is there.
    ///
    /// # Errors
    /// L0003 when the cache cannot be written.
    fn cached(&self, point: &Point) -> Result<Outcome, Diagnostic> {
        let Some(folder) = &self.args.cache else { return Ok(self.outcome(point)) };
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.content.as_bytes()).update(format!("{point:?} {}", self.args.no_run).as_bytes());
        if lacuna_driver::exec::is_target_file(&point.target) {
            hasher.update(files::read(Path::new(&point.target))?.bytes());
        }
        let path = folder.join(format!("{}.json", hasher.finalize().to_hex()));
        if let Some(known) = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
            return Ok(known);
        }
        let outcome = self.outcome(point);
        let text =
            serde_json::to_vec(&outcome).map_err(|e| Diagnostic::new(codes::INTERNAL, e.to_string()))?;
        files::write(&path, &text)?;
        Ok(outcome)
    }

    fn outcome(&self, point: &Point) -> Outcome {
        match self.find(point) {
            Ok(found) => Outcome::Found(found),
            Err(failed) => {
                let first = failed.0.first();
                Outcome::Refused(first.map_or_else(String::new, |d| format!("{}: {}", d.code, d.reason)))
            }
        }
    }

    fn find(&self, point: &Point) -> Result<Found, Failed> {
        let mut options: CompileOptions = self.args.compile_options();
        options.target.clone_from(&point.target);
        options.precision = point.precision();
        options.dims.clone_from(&point.dims);
        options.changes.clone_from(&point.changes);
        options.weights.prune = point.pattern();
        // Points run side by side, so each has one thread.
        let context = Context { json: true, threads: 1, progress: Progress::new(Loudness::Silent) };
        let mut settings = Settings::measuring(&options)?;
        if let Some(data) = self.data.first() {
            settings = bind(&self.model, &settings, data, &context).0;
        }
        settings.calibrate_on(&self.data);
        let compiled = settings.compile(&self.model, &context, None)?;
        let profile = lacuna_runtime::profile(&compiled.object, &settings.target, 0)
            .map_err(|e| Diagnostic::new(codes::LOAD, e.to_string()))?;
        let sqnr = match self.args.no_run {
            true => None,
            false => Some(self.sqnr(point, &compiled.object, &compiled.imported)?),
        };
        Ok(Found {
            cycles: profile.cycles,
            microseconds: profile.cycles as f64 / (settings.target.clock_ghz * 1e3),
            fraction: profile.fraction,
            weight_bytes: compiled.object.weights.bytes().len() as u64,
            hbm_bytes: profile.launches.iter().map(|launch| launch.hbm_bytes).sum(),
            energy_pj: settings.target.energy.is_some().then_some(profile.energy_pj),
            sqnr_db: sqnr.filter(|db| db.is_finite()),
            exact: sqnr == Some(f64::INFINITY),
        })
    }

    /// Signal-to-noise ratio of the worst output, against reference outputs, or the IR evaluator on random inputs.
    fn sqnr(&self, point: &Point, object: &Object, module: &Module) -> Result<f64, Failed> {
        let program = Program::load(object, 1)?;
        let entry = program.entry();
        let mut stats: Vec<OutputStats> =
            entry.outputs.iter().map(|port| OutputStats::new(&port.name)).collect();
        let mut add = |inputs: &[Blob], expected: &[Tensor]| -> Result<(), Failed> {
            let outputs = program.run(inputs)?;
            for (((port, bytes), expected), stats) in
                entry.outputs.iter().zip(&outputs).zip(expected).zip(&mut stats)
            {
                let ty = TensorType::new(port.elem, port.shape.clone());
                let found = Tensor::from_bytes(ty, bytes).map_err(unevaluated)?;
                let (a, b) = numbers(&found, expected);
                stats.add(&a, &b, &port.shape, None, Criterion::Report);
            }
            Ok(())
        };
        if self.data.is_empty() {
            let inputs = random_inputs(self.args.seed, entry)?;
            let expected = self.evaluated(point, entry, &inputs, module)?;
            add(&inputs, &expected)?;
        }
        let names: Vec<String> = entry.outputs.iter().map(|port| port.name.clone()).collect();
        for data in &self.data {
            let mut expected = Vec::new();
            for i in data.pair(&data.outputs, &names, "outputs")? {
                let literal = &data.outputs[i].1;
                expected
                    .push(Tensor::from_bytes(literal.ty.clone(), literal.data.bytes()).map_err(unevaluated)?);
            }
            add(&inputs_of(data, entry)?, &expected)?;
        }
        Ok(stats.iter().map(OutputStats::sqnr_db).fold(f64::INFINITY, f64::min))
    }

    /// What the model gives on random inputs: computed once for all targets and precisions.
    fn evaluated(
        &self,
        point: &Point,
        entry: &EntryPoint,
        inputs: &[Blob],
        module: &Module,
    ) -> Result<Vec<Tensor>, Failed> {
        let slot = {
            let mut known = self.evaluated.lock().unwrap_or_else(PoisonError::into_inner);
            known.entry(format!("{:?}", point.dims)).or_default().clone()
        };
        let compute = || -> Result<Vec<Tensor>, EvalError> {
            let tensor = |(port, blob): (&lacuna_isa::object::Port, &Blob)| {
                Tensor::from_bytes(TensorType::new(port.elem, port.shape.clone()), blob.bytes())
            };
            let arguments = entry.inputs.iter().zip(inputs).map(tensor).collect::<Result<Vec<_>, _>>()?;
            eval(module, module.entries[0].func, &arguments, Mode::Typed)
        };
        slot.get_or_init(compute).clone().map_err(|e| unevaluated(e).into())
    }
}

fn unevaluated(error: EvalError) -> Diagnostic {
    Diagnostic::new(codes::REFERENCE, error.to_string())
}

/// Whether each point is beaten by none of its own sizes: no other is at least as good in time, bytes of weights, energy and error, and
/// better in one.
fn front(points: &[Point], outcomes: &[Outcome]) -> Vec<bool> {
    let measures = |outcome: &Outcome| match outcome {
        Outcome::Found(f) => {
            let noise = if f.exact { f64::NEG_INFINITY } else { f.sqnr_db.map_or(0.0, |db| -db) };
            Some([f.microseconds, f.weight_bytes as f64, f.energy_pj.unwrap_or(f64::INFINITY), noise])
        }
        Outcome::Refused(_) => None,
    };
    let all: Vec<(&Point, Option<[f64; 4]>)> = points.iter().zip(outcomes.iter().map(measures)).collect();
    let beats = |a: &[f64; 4], b: &[f64; 4]| a.iter().zip(b).all(|(a, b)| a <= b) && a != b;
    let is_best = |(point, measures): &(&Point, Option<[f64; 4]>)| {
        let Some(own) = measures else { return false };
        let mut others =
            all.iter().filter(|(other, _)| other.dims == point.dims).filter_map(|(_, m)| m.as_ref());
        !others.any(|other| beats(other, own))
    };
    all.iter().map(is_best).collect()
}

/// The columns of the table, and those of the file of comma-separated values.
const COLUMNS: [[&str; 2]; 12] = [
    ["target", "target"],
    ["precision", "precision"],
    ["prune", "prune"],
    ["settings", "settings"],
    ["cycles", "cycles"],
    ["us", "microseconds"],
    ["of bound", "fraction"],
    ["weights", "weight_bytes"],
    ["HBM", "hbm_bytes"],
    ["uJ", "energy_pj"],
    ["SQNR dB", "sqnr_db"],
    ["best", "best"],
];

/// A row for people.
fn row(point: &Point, outcome: &Outcome, best: bool) -> [String; 12] {
    let Point { target, precision, prune, .. } = point;
    let [target, precision, prune] = [target, precision, prune].map(String::clone);
    let settings = point.settings();
    match outcome {
        Outcome::Found(f) => [
            target,
            precision,
            prune,
            settings,
            f.cycles.to_string(),
            format!("{:.2}", f.microseconds),
            format!("{:.1}%", 100.0 * f.fraction),
            report::bytes(f.weight_bytes),
            report::bytes(f.hbm_bytes),
            f.energy_pj.map_or_else(|| "-".to_owned(), |pj| format!("{:.3}", pj * 1e-6)),
            match (f.exact, f.sqnr_db) {
                (true, _) => "exact".to_owned(),
                (false, db) => db.map_or_else(|| "-".to_owned(), |db| format!("{db:.1}")),
            },
            if best { "*".to_owned() } else { String::new() },
        ],
        Outcome::Refused(why) => {
            let mut cells: [String; 12] = std::array::from_fn(|_| "-".to_owned());
            cells[..3].clone_from_slice(&[target, precision, prune]);
            cells[3] = format!("{settings} {why}").trim().to_owned();
            cells
        }
    }
}

/// The table as comma-separated values: numbers in plain units, and nothing where there is none.
fn csv(points: &[Point], outcomes: &[Outcome], front: &[bool]) -> String {
    let quoted = |cell: &str| format!("\"{}\"", cell.replace('"', "\"\""));
    let number = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
    let line = |((point, outcome), best): ((&Point, &Outcome), &bool)| {
        let names = [&point.target, &point.precision, &point.prune, &point.settings()].map(|s| quoted(s));
        let figures = match outcome {
            Outcome::Found(f) => [
                f.cycles.to_string(),
                f.microseconds.to_string(),
                f.fraction.to_string(),
                f.weight_bytes.to_string(),
                f.hbm_bytes.to_string(),
                number(f.energy_pj),
                if f.exact { "inf".to_owned() } else { number(f.sqnr_db) },
                u8::from(*best).to_string(),
                String::new(),
            ],
            Outcome::Refused(why) => {
                let mut cells: [String; 9] = Default::default();
                cells[7] = "0".to_owned();
                cells[8] = quoted(why);
                cells
            }
        };
        names.into_iter().chain(figures).collect::<Vec<_>>().join(",") + "\r\n"
    };
    let header = COLUMNS.map(|[_, name]| name).join(",") + ",refused\r\n";
    header + &points.iter().zip(outcomes).zip(front).map(line).collect::<String>()
}

/// The report: a table, the same as CSV if wanted.
fn finish(args: &cli::Sweep, points: &[Point], outcomes: &[Outcome]) -> Result<Report, Failed> {
    let front = front(points, outcomes);
    let rows =
        points.iter().zip(outcomes).zip(&front).map(|((point, outcome), &best)| row(point, outcome, best));
    let mut text = report::table(COLUMNS.map(|[name, _]| name), rows, &[4, 5, 6, 7, 8, 9, 10]);
    text += "*: no other point of its sizes is at least as good in time, weights, energy and error\n";
    if let Some(path) = &args.csv {
        files::write(path, csv(points, outcomes, &front).as_bytes())?;
        text += &format!("{}\n", path.display());
    }
    if let Some(path) = &args.svg {
        let drawn = plot::draw(args, points, outcomes, &front)
            .map_err(|e| Diagnostic::new(codes::WRITE, format!("{}: {e}", path.display())))?;
        files::write(path, drawn.as_bytes())?;
        text += &format!("{}\n", path.display());
    }
    let listed: Vec<_> = points
        .iter()
        .zip(outcomes)
        .zip(&front)
        .map(|((point, outcome), best)| {
            let (found, refused) = match outcome {
                Outcome::Found(found) => (Some(found), None),
                Outcome::Refused(why) => (None, Some(why)),
            };
            json!({ "point": point, "found": found, "refused": refused, "best": best })
        })
        .collect();
    let any = outcomes.iter().any(|outcome| matches!(outcome, Outcome::Found(_)));
    let json = json!({ "ok": any, "points": listed, "csv": args.csv, "svg": args.svg });
    let exit = if any { Exit::Holds } else { Exit::Unsupported };
    Ok(Report { exit, ..Report::new(text, json) })
}

//! The command line's grammar: commands, options and their defaults.

mod bench;
mod lists;
mod values;

use std::path::PathBuf;

pub use bench::Bench;
use clap::{Args, Parser, Subcommand, ValueEnum};
use lacuna_driver::given::Given;
use lacuna_isa::target_file::Change;
use lacuna_optimize::weights::{Prune, PruneBy, Rounding, ScaleModes};
use lacuna_optimize::{Extraction, Precision, WeightOptions, WeightSparsity};

use values::{
    parse_bytes, parse_change, parse_decibels, parse_dim, parse_entry, parse_file, parse_names,
    parse_percentage, parse_share, parse_tolerance,
};

/// Compiles ONNX models to accelerator instruction streams, runs them bit-exactly, and shows what they cost.
#[derive(Parser, Debug)]
#[command(name = "lacuna", version, arg_required_else_help = true)]
pub struct Cli {
    /// Print one JSON object to standard output and nothing else.
    #[arg(long, global = true)]
    pub json: bool,
    /// Threads of the interpreter; 0 takes one per core. Results do not depend on it.
    #[arg(long, global = true, default_value_t = 0, value_name = "N")]
    pub threads: usize,
    /// Say each step on standard error, with the seconds since the start.
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    pub verbose: bool,
    /// Neither warnings nor progress, nor a report on files that were written.
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Compile a model to an object file.
    Compile(Compile),
    /// Run an object file.
    Run(Run),
    /// Generate tokens with an object that keeps its caches as states.
    Generate(Generate),
    /// Compile a model, run it, and compare its outputs with reference outputs.
    Verify(Verify),
    /// Show a model at a stage of compilation.
    Inspect(Inspect),
    /// Print an object file as assembly text.
    Disasm(Disasm),
    /// Make an object file from assembly text.
    Asm(Asm),
    /// Show cycles, bounds, bytes and skipped zeros of an object file or a model.
    Profile(Profile),
    /// Time an object file or a model in the interpreter, loading apart from running.
    Bench(Bench),
    /// Compile and measure a model on many targets, in many precisions and settings.
    Sweep(Sweep),
    /// Say what a model or an object file is: inputs, outputs, sizes.
    Info(Info),
    /// Prove that no run of an object file, or of assembly text, can trap.
    Check(Check),
    /// List the targets, or show the figures of one with their sources.
    Targets(Targets),
    /// List the supported ONNX operators.
    Ops(Ops),
    /// Explain a diagnostic code, or what the optimiser did to a model.
    Explain(Explain),
    /// Write completions for a shell.
    Completions(Completions),
    /// Write the pages of the manual for `man`.
    Man(Man),
    /// Compare chosen formats with uniform ones at the error of each.
    #[command(hide = true)]
    Compare(Compare),
}

/// Options of everything that compiles a model.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Compilation")]
pub struct CompileOptions {
    /// Target: one that `lacuna targets` lists, or a file such as ./mine.toml.
    #[arg(long, default_value = "mtia-300", value_name = "NAME|FILE")]
    pub target: String,
    /// Another value for a figure of the target, such as hbm_bandwidth=8TB/s, clock=2.5GHz or rate.mxfp8=2048MAC/cycle.
    #[arg(long = "set", value_name = "FIGURE=VALUE", value_parser = parse_change)]
    pub changes: Vec<Change>,
    /// Number formats of contractions: f32, bf16, mxfp8, mxfp6, mxfp4, mxint8, mx9, mx6, WEIGHTS:ACTIVATIONS such as mxfp4:bf16,
    /// mxfp8:e4m3 or int4:bf16, or auto.
    #[arg(long, default_value = "f32", value_name = "P")]
    pub precision: Precision,
    /// Size of a symbolic dimension; one without a name is INPUT.AXIS, the length of a sequence INPUT.length.
    #[arg(long = "dim", value_name = "NAME=N", value_parser = parse_dim)]
    pub dims: Vec<(String, u64)>,
    /// Value of an input that determines a shape, or that has a default in the model (.npy or .pb).
    #[arg(long = "bind", value_name = "NAME=FILE", value_parser = parse_file)]
    pub bindings: Vec<(String, PathBuf)>,
    /// An input and an output that are one tensor, which stays in device memory from one run to the next, such as a cache; `*` stands for
    /// any part of a name.
    #[arg(long = "state", value_name = "INPUT=OUTPUT", value_parser = parse_names)]
    pub states: Vec<(String, String)>,
    /// Rows of states whose outputs are longer than their inputs: the latest stay. Those of the input unless given.
    #[arg(long, value_name = "N", requires = "states")]
    pub state_length: Option<u64>,
    /// With --precision auto: fewest cycles with at least this signal-to-noise ratio at every output, in dB.
    #[arg(long, value_name = "DB", value_parser = parse_decibels, allow_hyphen_values = true)]
    pub min_sqnr: Option<f64>,
    /// With --precision auto: fewest cycles that lose at most this many percentage points of accuracy.
    #[arg(long, value_name = "PCT", value_parser = parse_percentage, conflicts_with = "min_sqnr")]
    pub max_drop: Option<f64>,
    /// With --precision auto: least error with weights of at most N bytes; K, M and G are 2^10, 2^20 and 2^30.
    #[arg(long, value_name = "N", value_parser = parse_bytes, conflicts_with_all = ["min_sqnr", "max_drop"])]
    pub max_bytes: Option<u64>,
    /// Inputs to measure on, for --precision auto and for techniques of weights: test_data_set_* folders, input_*.pb, or
    /// NAME.npy. `verify` of that same folder measures techniques on each half of the samples in turn and scores the other.
    #[arg(long, value_name = "DIR")]
    pub calibrate: Option<PathBuf>,
    /// Allow rewrites of element-wise work that hold over the real numbers and change what floats compute: products by rounded
    /// reciprocals for quotients, constants that meet through sums and products, zero for anything times zero.
    #[arg(long)]
    pub relaxed: bool,
    /// How terms are chosen from all equal ones: exact, or greedy, which measurements compare with.
    #[arg(long, default_value = "exact", value_name = "HOW", hide = true)]
    pub extraction: Extraction,
    /// How weights become narrow or sparse.
    #[command(flatten)]
    pub weights: WeightArgs,
}

/// Options of how weights become narrow or sparse.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Weights")]
pub struct WeightArgs {
    /// Keep N of each M weights along the summed dimension, and set the others to zero before quantising, such as 2:4.
    #[arg(long, value_name = "N:M")]
    pub prune: Option<WeightSparsity>,
    /// With --prune: which weights stay, by magnitude, or by calibration: magnitude times the size of the input that each
    /// meets.
    #[arg(long, default_value = "magnitude", value_name = "BY", requires = "prune")]
    pub prune_by: PruneBy,
    /// Rounding of weights: nearest; compensated: the weights that follow make up for each error, as calibration says;
    /// or corrected: they also make up for what the inputs lost.
    #[arg(long, default_value = "nearest", value_name = "HOW")]
    pub rounding: Rounding,
    /// Scales of groups from their largest magnitude: floor, rceil, even, ceil or tosa, or WEIGHTS:ACTIVATIONS.
    #[arg(long, default_value = "tosa:floor", value_name = "MODE")]
    pub scale_mode: ScaleModes,
    /// Try the scales beside it for each group of weights, and take the one with the least error.
    #[arg(long)]
    pub scale_search: bool,
    /// Rotate both operands by 32 x 32 Hadamard blocks along the summed dimension before quantising.
    #[arg(long)]
    pub hadamard: bool,
}

impl WeightArgs {
    /// The options, with the name on the command line of each that is not the default.
    pub fn options(&self) -> (WeightOptions, Vec<&'static str>) {
        let options = WeightOptions {
            rounding: self.rounding,
            scale_modes: self.scale_mode,
            scale_search: self.scale_search,
            prune: self.prune.map(|pattern| Prune { pattern, by: self.prune_by }),
            hadamard: self.hadamard,
        };
        let plain = WeightOptions::default();
        let given = [
            (options.prune != plain.prune, "--prune"),
            (options.rounding != plain.rounding, "--rounding"),
            (options.scale_modes != plain.scale_modes, "--scale-mode"),
            (options.scale_search, "--scale-search"),
            (options.hadamard, "--hadamard"),
        ];
        (options, given.into_iter().filter_map(|(given, name)| given.then_some(name)).collect())
    }
}

/// `lacuna compile`
#[derive(Args, Debug)]
pub struct Compile {
    /// The ONNX model, its test folder, or several, each of which becomes an entry; `-` is standard input.
    #[arg(required = true, value_name = "MODEL")]
    pub models: Vec<PathBuf>,
    /// Where the object file goes; beside the first model with the ending .lac unless given. `-` is standard output.
    #[arg(short, long, value_name = "OUT.lac")]
    pub output: Option<PathBuf>,
    /// Name of an entry: one for each model in turn, or several of one model, which differ in sizes of its symbolic dimensions.
    #[arg(long = "entry", value_name = "NAME[:DIM=N,..]", value_parser = parse_entry)]
    pub entries: Vec<EntrySpec>,
    /// Options of compilation.
    #[command(flatten)]
    pub options: CompileOptions,
}

/// An entry to compile: its name, and sizes of symbolic dimensions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EntrySpec {
    /// Its name.
    pub name: String,
    /// Sizes beside those of `--dim`.
    pub dims: Vec<(String, u64)>,
}

/// `lacuna run`
#[derive(Args, Debug)]
pub struct Run {
    /// The object file; `-` is standard input.
    pub object: PathBuf,
    /// An input (.npy or .pb), or a folder or a file .npz with inputs by name; others are random.
    #[arg(long = "input", value_name = "NAME=FILE|DIR|NPZ")]
    pub inputs: Vec<Given>,
    /// Folder for the outputs: NAME.npy, or NAME.pb for element types that .npy has not.
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Seed of random inputs.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub seed: u64,
    /// The entry to run; the first unless given.
    #[arg(long, value_name = "NAME")]
    pub entry: Option<String>,
    /// Folder with the states from before, as --save-state writes it; zeros unless given.
    #[arg(long, value_name = "DIR")]
    pub load_state: Option<PathBuf>,
    /// Folder for the states from after the run.
    #[arg(long, value_name = "DIR")]
    pub save_state: Option<PathBuf>,
}

/// `lacuna generate`
#[derive(Args, Debug)]
pub struct Generate {
    /// The object file: an entry that takes one token, and any that take more at once.
    pub object: PathBuf,
    /// Token ids of the prompt, such as 1,15043, or a file with them.
    #[arg(long = "prompt-ids", value_name = "IDS|FILE")]
    pub prompt: String,
    /// Tokens to generate.
    #[arg(short = 'n', long = "count", default_value_t = 16, value_name = "N")]
    pub count: usize,
    /// Divisor of the logits; 0 takes the likeliest token each time.
    #[arg(long, default_value_t = 0.0, value_name = "T", value_parser = parse_tolerance)]
    pub temperature: f64,
    /// With a temperature: candidates are the K likeliest tokens; 0 for all.
    #[arg(long, default_value_t = 0, value_name = "K")]
    pub top_k: usize,
    /// With a temperature: candidates are the likeliest tokens that have this share of the probability together.
    #[arg(long, default_value_t = 1.0, value_name = "SHARE", value_parser = parse_share)]
    pub top_p: f64,
    /// With a temperature: seed of the choices.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub seed: u64,
    /// A token that ends the text.
    #[arg(long, value_name = "ID")]
    pub stop: Option<u64>,
    /// The input of token ids, where its name does not say so.
    #[arg(long, value_name = "NAME")]
    pub token: Option<String>,
    /// The input of positions, where its name does not say so.
    #[arg(long, value_name = "NAME")]
    pub position: Option<String>,
    /// The output of logits, where it is not the one with the longest rows.
    #[arg(long, value_name = "NAME")]
    pub logits: Option<String>,
}

/// `lacuna verify`
#[derive(Args, Debug)]
pub struct Verify {
    /// The ONNX model, or a folder with model.onnx and test_data_set_*.
    pub model: PathBuf,
    /// An input (.npy or .pb), or a folder or a file .npz with inputs by name, in place of test data.
    #[arg(long = "input", value_name = "NAME=FILE|DIR|NPZ", conflicts_with = "seed")]
    pub inputs: Vec<Given>,
    /// What an output must be, in the same forms; outputs without are not compared. With --input alone, the reference is the IR
    /// evaluator.
    #[arg(long = "expect", value_name = "NAME=FILE|DIR|NPZ", requires = "inputs")]
    pub expected: Vec<Given>,
    /// Options of compilation.
    #[command(flatten)]
    pub options: CompileOptions,
    /// Relative tolerance: |a - b| <= atol + rtol * |b|; by default 0.001 for f32, and by the output's type for others.
    #[arg(long, value_name = "X", value_parser = parse_tolerance)]
    pub rtol: Option<f64>,
    /// Absolute tolerance: by default 0.00001 for f32, and by the output's type for others. Integers are equal unless given.
    #[arg(long, value_name = "X", value_parser = parse_tolerance)]
    pub atol: Option<f64>,
    /// Least top-1 agreement in percent for the outputs to hold; 99 for mxfp8 unless given.
    #[arg(long, value_name = "PCT", value_parser = parse_percentage)]
    pub min_agreement: Option<f64>,
    /// Seed of the random inputs of a model without test data.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub seed: u64,
    /// Take this object file instead of compiling the model, which must be the one that it was compiled from.
    #[arg(long, value_name = "FILE.lac")]
    pub object: Option<PathBuf>,
    /// Compare every tensor of the model, in order of execution, and say which is the first that differs. All of them become outputs,
    /// so rewrites across layers do not take part.
    #[arg(long, conflicts_with = "object")]
    pub layers: bool,
    /// With --layers: folder of reference tensors, NAME.npy or NAME.pb; where there is none, the IR evaluator is the reference.
    #[arg(long, value_name = "DIR", requires = "layers")]
    pub reference: Option<PathBuf>,
    /// With --layers: only the N tensors that differ most from what their own operands give.
    #[arg(long, value_name = "N", requires = "layers")]
    pub top: Option<usize>,
    /// With --layers: all of them as comma-separated values too.
    #[arg(long, value_name = "FILE", requires = "layers")]
    pub csv: Option<PathBuf>,
}

/// A stage of compilation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum)]
pub enum StageArg {
    /// The tensor IR of the model.
    Imported,
    /// After exact rewriting.
    Optimized,
    /// After the choice of number formats.
    Selected,
    /// Kernels with their tiles and buffers.
    Tiled,
    /// Instructions.
    Machine,
    /// Every stage.
    All,
}

/// `lacuna inspect`
#[derive(Args, Debug)]
pub struct Inspect {
    /// The ONNX model or the object file.
    pub file: PathBuf,
    /// The stage; an object file has only `machine`.
    #[arg(long, value_enum)]
    pub stage: StageArg,
    /// Only what comes from this ONNX node.
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// Folder for one file per stage, instead of standard output.
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Options of compilation.
    #[command(flatten)]
    pub options: CompileOptions,
}

/// `lacuna disasm`
#[derive(Args, Debug)]
pub struct Disasm {
    /// The object file.
    pub object: PathBuf,
    /// Where the text goes; standard output unless given.
    #[arg(short, long, value_name = "FILE.s")]
    pub output: Option<PathBuf>,
}

/// `lacuna asm`
#[derive(Args, Debug)]
pub struct Asm {
    /// The assembly text; `-` is standard input.
    pub file: PathBuf,
    /// Where the object file goes; `-` is standard output.
    #[arg(short, long, value_name = "OUT.lac")]
    pub output: PathBuf,
}

/// What `profile` sums over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum By {
    /// One row per kernel launch.
    #[default]
    Layer,
    /// One row per engine.
    Engine,
}

/// `lacuna profile`
#[derive(Args, Debug)]
pub struct Profile {
    /// The object file or the ONNX model.
    pub file: PathBuf,
    /// Where a timeline goes that chrome://tracing and ui.perfetto.dev show.
    #[arg(long, value_name = "FILE.json")]
    pub trace: Option<PathBuf>,
    /// Of an object file: the entry; the first unless given.
    #[arg(long, value_name = "NAME")]
    pub entry: Option<String>,
    /// Rows of the table.
    #[arg(long, value_enum, default_value_t = By::Layer)]
    pub by: By,
    /// Share of set flags, 0 to 1, in the masks that the program computes while it runs.
    #[arg(long, default_value_t = 1.0, value_name = "SHARE", value_parser = parse_share)]
    pub activity: f64,
    /// Run the program once, and take its masks and zeros as they were then.
    #[arg(long)]
    pub run: bool,
    /// With --run: an input (.npy or .pb), or a folder or a file .npz with inputs by name; others are random.
    #[arg(long = "input", value_name = "NAME=FILE|DIR|NPZ", requires = "run")]
    pub inputs: Vec<Given>,
    /// With --run: seed of random inputs.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub seed: u64,
    /// What positions are that kernels load, such as the row of a cache that is written; the greatest unless given.
    #[arg(long, value_name = "N")]
    pub position: Option<i32>,
    /// Options of compilation.
    #[command(flatten)]
    pub options: CompileOptions,
}

/// `lacuna sweep`
#[derive(Args, Debug)]
pub struct Sweep {
    /// The ONNX model, or a folder with model.onnx and test_data_set_*.
    pub model: PathBuf,
    /// Targets or their files, separated by commas.
    #[arg(long = "target", value_delimiter = ',', default_value = "mtia-300", value_name = "NAME,..")]
    pub targets: Vec<String>,
    /// Precisions, separated by commas.
    #[arg(long = "precision", value_delimiter = ',', default_value = "f32", value_name = "P,..")]
    pub precisions: Vec<Precision>,
    /// Patterns that weights are pruned to, separated by commas; none leaves them as they are.
    #[arg(long, value_delimiter = ',', default_value = "none", value_name = "N:M,..", value_parser = lists::parse_prune)]
    pub prune: Vec<String>,
    /// Sizes of a symbolic dimension, such as batch=1,8,64.
    #[arg(long = "dim", value_name = "NAME=N,..", value_parser = lists::parse_sizes)]
    pub dims: Vec<(String, Vec<u64>)>,
    /// Values of a figure of the targets: hbm_bandwidth=4,8TB/s, or from one to another in steps: 4..12TB/s:5.
    #[arg(long = "set", value_name = "FIGURE=VALUE,..", value_parser = lists::parse_values)]
    pub changes: Vec<(String, Vec<String>)>,
    /// Value of an input that determines a shape, or that has a default in the model (.npy or .pb).
    #[arg(long = "bind", value_name = "NAME=FILE", value_parser = parse_file)]
    pub bindings: Vec<(String, PathBuf)>,
    /// Compile only: no errors.
    #[arg(long)]
    pub no_run: bool,
    /// Seed of the random inputs of a model without test data.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub seed: u64,
    /// Folder of results: those that are there are taken, others are added, so that a sweep that was stopped goes on.
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// The table as comma-separated values too.
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Where a plot goes: time over the figure that varies, or error against time.
    #[arg(long, value_name = "FILE.svg")]
    pub svg: Option<PathBuf>,
}

impl Sweep {
    /// Options of compilation with their defaults, and the bindings.
    pub fn compile_options(&self) -> CompileOptions {
        /// A command line of nothing but options of compilation.
        #[derive(Parser)]
        struct Defaults {
            #[command(flatten)]
            options: CompileOptions,
        }
        let Defaults { mut options } = Defaults::parse_from(["sweep"]);
        options.bindings.clone_from(&self.bindings);
        options
    }
}

/// `lacuna info`
#[derive(Args, Debug)]
pub struct Info {
    /// The ONNX model or the object file.
    pub file: PathBuf,
}

/// `lacuna check`
#[derive(Args, Debug)]
pub struct Check {
    /// The object file, or assembly text.
    pub file: PathBuf,
}

/// `lacuna completions`
#[derive(Args, Debug)]
pub struct Completions {
    /// The shell.
    pub shell: clap_complete::Shell,
}

/// `lacuna man`
#[derive(Args, Debug)]
pub struct Man {
    /// Folder for the pages.
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
}

/// `lacuna targets`
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Targets {
    /// The target to show, or the file of one.
    pub name: Option<String>,
    /// With a target: another value for a figure, such as hbm_bandwidth=8TB/s.
    #[arg(long = "set", value_name = "FIGURE=VALUE", value_parser = parse_change, requires = "name")]
    pub changes: Vec<Change>,
    /// What to do instead.
    #[command(subcommand)]
    pub task: Option<TargetsTask>,
}

/// What `lacuna targets` does with files.
#[derive(Subcommand, Debug)]
pub enum TargetsTask {
    /// Write the file of a target, to be changed.
    New {
        /// The target to start from.
        #[arg(long, default_value = "mtia-300", value_name = "NAME")]
        from: String,
        /// Where to write the file; the new target has its name. Standard output unless given, or for `-`.
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Replace a file that is there.
        #[arg(long)]
        force: bool,
    },
    /// Check the file of a target.
    Check {
        /// The file.
        file: PathBuf,
    },
}

/// `lacuna ops`
#[derive(Args, Debug)]
pub struct Ops {
    /// Print the table as a page of the manual.
    #[arg(long)]
    pub markdown: bool,
}

/// `lacuna explain`
#[derive(Args, Debug)]
pub struct Explain {
    /// A code such as L0201, an ONNX model, or a folder with model.onnx and test_data_set_*.
    #[arg(required_unless_present = "list")]
    pub subject: Option<String>,
    /// Explain every code.
    #[arg(long, conflicts_with = "subject", group = "list")]
    pub all: bool,
    /// List the rewrite rules, and what each may change in the numbers that a model computes.
    #[arg(long, conflicts_with = "subject", group = "list")]
    pub rules: bool,
    /// Print as a page of the manual.
    #[arg(long, requires = "list")]
    pub markdown: bool,
    /// Of a model: where a plot of cycles, error and bytes goes.
    #[arg(long, value_name = "FILE.svg", conflicts_with = "list")]
    pub svg: Option<PathBuf>,
    /// Of a model: only the N worst layers.
    #[arg(long, value_name = "N", conflicts_with = "list")]
    pub top: Option<usize>,
    /// Of a model: what makes a layer worse than another; by default noise at the outputs, or cycles where nothing is rounded.
    #[arg(long, value_enum, value_name = "KEY", conflicts_with = "list")]
    pub sort: Option<SortLayers>,
    /// Options of compilation.
    #[command(flatten)]
    pub options: CompileOptions,
}

/// What layers are ordered by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum SortLayers {
    /// Order of execution.
    Order,
    /// Noise that reaches the worst output.
    Noise,
    /// Noise of the layer's own result.
    Local,
    /// Modelled cycles.
    Cycles,
    /// Bytes of weights.
    Bytes,
    /// Multiply-accumulates.
    Macs,
}

impl SortLayers {
    /// The heading of layers in this order.
    pub fn title(self) -> &'static str {
        match self {
            SortLayers::Order => "layers in order of execution",
            SortLayers::Noise => "layers whose rounding reaches the worst output most",
            SortLayers::Local => "layers that lose most by their own rounding",
            SortLayers::Cycles => "layers that take most cycles",
            SortLayers::Bytes => "layers with most bytes of weights",
            SortLayers::Macs => "layers with most multiply-accumulates",
        }
    }
}

/// `lacuna compare`, for developers.
#[derive(Args, Debug)]
pub struct Compare {
    /// The ONNX model, or a folder with model.onnx and test_data_set_*.
    pub model: PathBuf,
    /// A uniform precision whose error becomes a budget.
    #[arg(long, required = true, value_name = "P")]
    pub uniform: Vec<Precision>,
    /// Compare at the accuracy of each, not at its signal-to-noise ratio.
    #[arg(long)]
    pub by_drop: bool,
    /// Options of compilation.
    #[command(flatten)]
    pub options: CompileOptions,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
    }
}

//! The options of `lacuna bench`.

use std::path::PathBuf;

use clap::Args;
use lacuna_driver::given::Given;

use super::CompileOptions;

/// `lacuna bench`
#[derive(Args, Debug)]
pub struct Bench {
    /// The object file or the ONNX model.
    pub file: PathBuf,
    /// Runs that are counted.
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub runs: u32,
    /// Runs before them that are not.
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub warmup: u32,
    /// An input (.npy or .pb), or a folder or a file .npz with inputs by name; others are random.
    #[arg(long = "input", value_name = "NAME=FILE|DIR|NPZ")]
    pub inputs: Vec<Given>,
    /// Seed of random inputs.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub seed: u64,
    /// Options of compilation.
    #[command(flatten)]
    pub options: CompileOptions,
}

//! `lacuna profile`: what an object file or a model costs on its target.

use super::{Context, Settings};
use crate::cli::{self, By};
use lacuna_driver::codes;
use lacuna_driver::diagnostics::{Diagnostic, Failed};
use lacuna_driver::exec;
use lacuna_driver::files;
use lacuna_driver::report::Report;

/// Checks its arguments, then refuses: there is no machine model to ask yet.
///
/// # Errors
/// Those of reading the file and of the options; L0005 otherwise.
pub fn run(args: &cli::Profile, _: &Context) -> Result<Report, Failed> {
    let blob = files::read(&args.file)?;
    if files::is_elf(&blob) {
        exec::target_of(&exec::object(&blob, &args.file)?)?;
    } else {
        Settings::new(&args.options)?;
    }
    let by = match args.by {
        By::Layer => "cycles by layer",
        By::Engine => "cycles by engine",
    };
    let trace = if args.trace.is_some() { ", and their timeline" } else { "" };
    let hint = "lacuna compile reports sizes and numbers of instructions";
    Err(Diagnostic::new(codes::NOT_YET, format!("profile: {by}{trace}")).hint(hint).into())
}

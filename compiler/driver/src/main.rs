//! The command `lacuna`: reads arguments, runs one command and prints its report.
//!
//! Commands do not print. They return a [`report::Report`] or diagnostics, and this file turns either into text or one
//! JSON object, and into the exit status: 0 holds, 1 outputs differ, 2 bad usage or input, 3 model not supported, 4 trap,
//! 70 a defect of the compiler.

mod cli;
mod commands;
mod help;

use std::ffi::OsString;
use std::io::{IsTerminal, stdout};
use std::process::ExitCode;

use lacuna_driver::diagnostics::{Diagnostic, Failed};
use lacuna_driver::{codes, interrupt, report};

use crate::commands::Context;

fn main() -> ExitCode {
    interrupt::guard();
    let args: Vec<OsString> = std::env::args_os().collect();
    let exit = match help::parse(&args) {
        Ok(cli) => {
            let (context, is_quiet) = (Context::new(&cli), cli.quiet);
            let result = commands::run(cli.command, &context);
            context.progress.finish();
            report::emit(result, context.json, is_quiet)
        }
        // Help and version; also for no arguments at all, which is no mistake.
        Err(error) if !error.use_stderr() || args.len() < 2 => {
            let text = error.render();
            let plain = text.to_string();
            let shown = if stdout().is_terminal() { text.ansi().to_string() } else { plain };
            report::print(shown.as_bytes())
        }
        Err(error) => {
            let json = args.iter().any(|a| a == "--json");
            let message = error.render().to_string();
            let message = message.strip_prefix("error: ").unwrap_or(&message);
            let message = message.split("\n\nFor more information").next().unwrap_or(message).trim_end();
            report::emit(Err(Failed::from(Diagnostic::new(codes::USAGE, message))), json, false)
        }
    };
    ExitCode::from(exit as u8)
}

//! The command `lacuna`: reads arguments, runs one command and prints its report.
//!
//! Commands do not print. They return a [`report::Report`] or diagnostics, and this file turns either into text or one
//! JSON object, and into the exit status: 0 holds, 1 outputs differ, 2 bad usage or input, 3 model not supported, 4 trap,
//! 70 a defect of the compiler.

mod cli;
mod commands;

use std::ffi::OsString;
use std::io::{IsTerminal, stdout};
use std::process::ExitCode;

use clap::Parser;
use lacuna_driver::diagnostics::{Diagnostic, Failed};
use lacuna_driver::{codes, interrupt, report};

use crate::cli::Cli;
use crate::commands::Context;

fn main() -> ExitCode {
    interrupt::guard();
    let args: Vec<OsString> = std::env::args_os().collect();
    let exit = match Cli::try_parse_from(&args) {
        Ok(cli) => {
            let context = Context::new(&cli);
            let result = commands::run(cli.command, &context);
            context.progress.finish();
            report::emit(result, context.json)
        }
        // Help and version; also for no arguments at all, which is no mistake.
        Err(error) if !error.use_stderr() || args.len() < 2 => {
            let text = error.render();
            let plain = text.to_string();
            report::print(&if stdout().is_terminal() { text.ansi().to_string() } else { plain })
        }
        Err(error) => {
            let json = args.iter().any(|a| a == "--json");
            let message = error.render().to_string();
            let message = message.strip_prefix("error: ").unwrap_or(&message);
            let message = message.split("\n\nFor more information").next().unwrap_or(message).trim_end();
            report::emit(Err(Failed::from(Diagnostic::new(codes::USAGE, message))), json)
        }
    };
    ExitCode::from(exit as u8)
}

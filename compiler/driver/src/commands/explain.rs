//! `lacuna explain`: what a diagnostic code means; of a model, see [`super::explain_model`].

use std::path::Path;

use serde_json::{Value, json};

use super::Context;
use crate::cli;
use lacuna_driver::codes;
use lacuna_driver::diagnostics::{Diagnostic, Failed};
use lacuna_driver::files;
use lacuna_driver::report::Report;

/// Runs the command.
///
/// # Errors
/// L0018 when there is no such code, or those of compiling the model.
pub fn run(args: &cli::Explain, context: &Context) -> Result<Report, Failed> {
    if args.rules {
        return Ok(super::explain_rules::run(args.markdown));
    }
    let Some(subject) = &args.subject else { return Ok(every_code(args.markdown)) };
    if let Some((code, title, explanation)) =
        codes::all().into_iter().find(|(code, ..)| is_code(subject, code))
    {
        let text = format!("{code}: {title}\n\n{explanation}\n");
        return Ok(Report::new(
            text,
            json!({ "ok": true, "code": code, "title": title, "explanation": explanation }),
        ));
    }
    let path = Path::new(subject);
    if !path.exists() && !files::is_standard(path) {
        // What looks like a file was meant as one.
        if subject.contains(['.', '/']) {
            return Err(files::read(path)
                .err()
                .unwrap_or_else(|| Diagnostic::new(codes::READ, subject))
                .into());
        }
        let hint = "lacuna explain --all lists every code";
        return Err(Diagnostic::new(codes::NO_CODE, format!("`{subject}`")).hint(hint).into());
    }
    super::explain_model::run(path, args, context)
}

/// Whether a text means a code: its letter in either case, its zeros in front left out.
fn is_code(text: &str, code: &str) -> bool {
    let digits = text.strip_prefix(['L', 'l']);
    let number = digits.filter(|d| d.bytes().all(|b| b.is_ascii_digit())).and_then(|d| d.parse::<u16>().ok());
    number.is_some() && number == code.get(1..).and_then(|digits| digits.parse().ok())
}

fn every_code(markdown: bool) -> Report {
    let all = codes::all();
    let mut text = String::new();
    if markdown {
        text += "# Errors\n\n<!-- Written by `cargo xtask docs` from the tables of codes. -->\n\n\
                 `lacuna explain CODE` prints the same text. The exit status is 1 when outputs differ, 2 for bad usage or \
                 input, 3 for a model that is not supported, 4 for a trap, and 70 for a fault of the compiler (L0090).\n";
    }
    for (code, title, explanation) in &all {
        let head =
            if markdown { format!("\n## {code}: {title}\n\n") } else { format!("{code}: {title}\n  ") };
        text += &format!("{head}{explanation}\n");
    }
    let json: Vec<Value> = all
        .iter()
        .map(|(code, title, text)| json!({ "code": code, "title": title, "explanation": text }))
        .collect();
    Report::new(text, json!({ "ok": true, "codes": json }))
}

//! What shells and `man` want to know: `lacuna completions` and `lacuna man`.

use serde_json::json;

use crate::cli;
use crate::help;
use lacuna_driver::codes;
use lacuna_driver::diagnostics::{Diagnostic, Failed};
use lacuna_driver::files;
use lacuna_driver::report::Report;

/// Runs `lacuna completions`.
pub fn completions(args: &cli::Completions) -> Report {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut help::command(), "lacuna", &mut script);
    let text = String::from_utf8_lossy(&script).into_owned();
    Report::new(text.clone(), json!({ "ok": true, "text": text }))
}

/// Runs `lacuna man`: a page for the command, and one for each of its commands.
///
/// # Errors
/// L0003.
pub fn man(args: &cli::Man) -> Result<Report, Failed> {
    files::make_folder(&args.output)?;
    let mut root = help::command();
    root.build();
    let mut pages = vec![("lacuna".to_owned(), root.clone())];
    for command in root.get_subcommands().filter(|command| !command.is_hide_set()) {
        pages.push((format!("lacuna-{}", command.get_name()), command.clone()));
    }
    let mut written = Vec::new();
    for (name, command) in pages {
        let path = args.output.join(format!("{name}.1"));
        let mut page = Vec::new();
        let rendered = clap_mangen::Man::new(command).title(name).render(&mut page);
        rendered.map_err(|e| Diagnostic::new(codes::WRITE, format!("{}: {e}", path.display())))?;
        files::write(&path, &page)?;
        written.push(path);
    }
    let text = written.iter().map(|path| format!("{}\n", path.display())).collect::<String>();
    Ok(Report::of_files(text, json!({ "ok": true, "files": written })))
}

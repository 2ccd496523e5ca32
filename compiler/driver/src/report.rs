//! What a command reports when it succeeds, and how reports and diagnostics reach the terminal.

use std::io::{ErrorKind, IsTerminal, Write, stderr, stdout};

use comfy_table::{CellAlignment, ContentArrangement, Table};
use serde_json::{Value, json};

use crate::codes;
use crate::diagnostics::{Diagnostic, Exit, Failed};

/// The result of a command: the same content as text and as JSON.
#[derive(Debug)]
pub struct Report {
    /// For people: to standard output.
    pub text: String,
    /// For programs: one object.
    pub json: Value,
    /// What deserves attention: to standard error, or the field `warnings`.
    pub warnings: Vec<String>,
    /// Exit status.
    pub exit: Exit,
    /// What goes to standard output in place of the text, which goes to standard error then.
    pub output: Option<Vec<u8>>,
    /// Whether the text is about files that were written, and not the answer itself: then nobody who wants quiet wants it.
    pub is_of_files: bool,
}

impl Report {
    /// A report of success whose result is in files.
    pub fn of_files(text: impl Into<String>, json: Value) -> Report {
        Report { is_of_files: true, ..Report::new(text, json) }
    }

    /// A report of success.
    pub fn new(text: impl Into<String>, json: Value) -> Report {
        Report {
            text: text.into(),
            json,
            warnings: Vec::new(),
            exit: Exit::Holds,
            output: None,
            is_of_files: false,
        }
    }
}

/// Prints a result and returns the exit status. Where quiet is wanted, warnings are left out, and what is said of files that were
/// written; programs get all.
pub fn emit(result: Result<Report, Failed>, as_json: bool, is_quiet: bool) -> Exit {
    let (text, errors, exit) = match result {
        Ok(Report { output: Some(bytes), text, warnings, exit, .. }) => {
            let warnings: String = warnings.iter().map(|w| format!("warning: {w}\n")).collect();
            (bytes, if is_quiet { String::new() } else { text + &warnings }, exit)
        }
        Ok(mut report) => {
            if as_json {
                if let Value::Object(object) = &mut report.json {
                    object.insert("warnings".to_owned(), json!(report.warnings));
                }
                (format!("{}\n", report.json).into_bytes(), String::new(), report.exit)
            } else {
                let shown = report.warnings.iter().filter(|_| !is_quiet);
                let warnings = shown.map(|w| format!("warning: {w}\n")).collect();
                let text = if is_quiet && report.is_of_files { String::new() } else { report.text };
                (text.into_bytes(), warnings, report.exit)
            }
        }
        Err(failed) if as_json => (format!("{}\n", failed.json()).into_bytes(), String::new(), failed.exit()),
        Err(failed) => (Vec::new(), failed.render(colour()), failed.exit()),
    };
    // If standard error is gone, nothing can be said about it.
    let _ = stderr().write_all(errors.as_bytes());
    let printed = print(&text);
    if exit == Exit::Holds { printed } else { exit }
}

/// Writes to standard output; the exit status. A reader that closed the pipe has seen enough, which is no error.
pub fn print(text: &[u8]) -> Exit {
    match stdout().write_all(text).and_then(|()| stdout().flush()) {
        Ok(()) => Exit::Holds,
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Exit::Holds,
        Err(e) => {
            let failed = Failed::from(Diagnostic::new(codes::WRITE, format!("standard output: {e}")));
            let _ = stderr().write_all(failed.render(colour()).as_bytes());
            failed.exit()
        }
    }
}

fn colour() -> bool {
    stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// A table without borders; columns of `right` (by number) are aligned to the right.
pub fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
    right: &[usize],
) -> String {
    arranged(header, rows, right).trim_fmt() + "\n"
}

/// Characters of a line that is broken for readers.
pub const WIDTH: usize = 118;

/// A [`table`] whose long cells are broken into lines, so that none is longer than [`WIDTH`].
pub fn wrapped_table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
    right: &[usize],
) -> String {
    let mut table = arranged(header, rows, right);
    table.set_content_arrangement(ContentArrangement::Dynamic).set_width(WIDTH as u16);
    table.trim_fmt() + "\n"
}

fn arranged<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
    right: &[usize],
) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(header);
    for row in rows {
        table.add_row(row);
    }
    for &column in right {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// A paragraph in lines of at most [`WIDTH`] characters, those after the first indented by two.
pub fn wrapped(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last().map_or(0, |line| line.chars().count());
        if line > 2 && line + 1 + word.chars().count() > WIDTH {
            lines.push("  ".to_owned());
        }
        if let Some(line) = lines.last_mut() {
            if !line.trim().is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines.join("\n") + "\n"
}

/// A page of the manual's table.
pub fn markdown<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut text = line(header.iter().map(|&h| h.to_owned()).collect());
    text += &format!("|{}\n", "---|".repeat(N));
    for row in rows {
        text += &line(row.iter().map(|cell| cell.replace('|', "\\|").replace('\n', " ")).collect());
    }
    text
}

/// A signal-to-noise ratio for people: `exact` where there is no noise.
pub fn decibels(db: f64) -> String {
    if db == f64::INFINITY { "exact".to_owned() } else { format!("{db:.1} dB") }
}

/// A number of bytes for people.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        for (n, expect) in [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 30, "3.0 GiB")] {
            assert_eq!(bytes(n), expect);
        }
    }

    #[test]
    fn long_texts_are_broken() {
        let long = "word ".repeat(60);
        let text = wrapped_table(["name", "text"], [["a".to_owned(), long.clone()]], &[]) + &wrapped(&long);
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        assert_eq!(text.split_whitespace().filter(|word| *word == "word").count(), 120);
        assert!(text.lines().count() > 5, "{text}");
    }

    #[test]
    fn tables() {
        let rows = || [["a".to_owned(), "1".to_owned()], ["b|c".to_owned(), "22".to_owned()]];
        assert_eq!(table(["name", "n"], rows(), &[1]), "name   n\na      1\nb|c   22\n");
        assert_eq!(markdown(["name", "n"], rows()), "| name | n |\n|---|---|\n| a | 1 |\n| b\\|c | 22 |\n");
    }
}

//! House rules that neither formatter nor linter checks.

use std::fs;
use std::path::{Path, PathBuf};

use crate::functions;
use crate::guides;
use crate::sources::Sources;

/// Source files aim at 150 to 600 lines; above this many they must be split.
const MAX_LINES: usize = 800;

/// Files that are still too long. Nothing may be added to them, nor to this list.
const TOO_LONG: [(&str, usize); 0] = [];

/// Folders that hold no sources of the project.
const SKIPPED: [&str; 4] = ["target", ".git", "node_modules", "__pycache__"];

/// Crates whose functions are measured.
const MEMBERS: [&str; 8] = [
    "isa",
    "runtime",
    "compiler/ir",
    "compiler/onnx",
    "compiler/optimize",
    "compiler/codegen",
    "compiler/driver",
    "xtask",
];

/// Checks every Rust and Markdown file, and the functions of every crate.
pub fn check(root: &Path) -> Result<(), String> {
    let mut files = Vec::new();
    collect(root, &mut files).map_err(|e| e.to_string())?;
    let mut faults = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        faults.extend(of_file(&name, &text).into_iter().map(|fault| format!("{name}: {fault}")));
    }
    faults.extend(guides::faults(root)?);
    for member in MEMBERS {
        faults.extend(functions::faults(member, &Sources::read(&root.join(member))?));
    }
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            if !SKIPPED.iter().any(|s| entry.file_name() == *s) {
                collect(&path, files)?;
            }
        } else if path.extension().is_some_and(|e| e == "rs" || e == "md") {
            files.push(path);
        }
    }
    files.sort();
    Ok(())
}

fn of_file(name: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if name.ends_with(".rs") {
        if !text.starts_with("//!") {
            faults.push("the file does not open with a `//!` header".to_owned());
        }
        let n_lines = text.lines().count();
        let max = TOO_LONG.iter().find(|(known, _)| *known == name).map_or(MAX_LINES, |(_, n)| *n);
        if n_lines > max {
            faults.push(format!("{n_lines} lines; split it ({max} at most)"));
        }
    }
    // Put together here, so that this file does not match itself.
    let home = ["/ho", "me/"].concat();
    let users = ["/Us", "ers/"].concat();
    let todo = ["TO", "DO"].concat();
    for (number, line) in text.lines().enumerate() {
        if line.contains(&home) || line.contains(&users) {
            faults.push(format!("line {}: a path of somebody's machine", number + 1));
        }
        if name.ends_with(".rs") && line.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == todo)
        {
            faults.push(format!("line {}: unfinished work", number + 1));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_keeps_the_rules() {
        assert_eq!(check(&crate::root()), Ok(()));
    }

    #[test]
    fn faults_are_found() {
        let check = |name: &str, text: &str, n: usize| assert_eq!(of_file(name, text).len(), n, "{text}");
        check("a.rs", "//! Header.\n", 0);
        check("a.rs", "fn main() {}\n", 1);
        check("a.rs", &["//! x\n// TO", "DO: later\n"].concat(), 1);
        check("a.md", &["see /ho", "me/someone/x\n"].concat(), 1);
        check("a.rs", &format!("//! x\n{}", "\n".repeat(MAX_LINES)), 1);
    }
}

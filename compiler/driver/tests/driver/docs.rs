//! The manual: every command of its pages runs and prints what the page shows, and every link leads somewhere.
//!
//! A page with a comment `files: FOLDER` is a script: its blocks `sh` run in order in a copy of that folder, and each line of a block
//! `text` behind one must be in what it printed. Blocks `shell` and `python` need Python; they run where `LACUNA_PYTHON` names one that
//! has the packages. With `LACUNA_RENEW` set, shown lines are replaced by those that differ from them in numbers alone.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The pages of the manual, and the readme.
fn pages() -> Vec<PathBuf> {
    let docs = root().join("docs");
    let mut pages = vec![root().join("README.md")];
    for folder in [docs.clone(), docs.join("how-to")] {
        let entries = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
        pages.extend(entries.filter(|p| p.extension().is_some_and(|e| e == "md")));
    }
    pages.sort();
    pages
}

/// Fenced blocks: language, first line in the page, text.
fn blocks(page: &str) -> Vec<(String, usize, String)> {
    let mut found: Vec<(String, usize, String)> = Vec::new();
    let mut open = false;
    for (number, line) in page.lines().enumerate() {
        match line.strip_prefix("```") {
            Some(language) if !open => {
                found.push((language.to_owned(), number + 1, String::new()));
                open = true;
            }
            Some(_) => open = false,
            None if open => *found.last_mut().map(|(.., text)| text).unwrap() += &format!("{line}\n"),
            None => {}
        }
    }
    assert!(!open, "a block that does not end");
    found
}

/// A line with one space between words.
fn words(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The same without its numbers.
fn shape(line: &str) -> String {
    words(line).chars().filter(|c| !c.is_ascii_digit() && *c != '.').collect()
}

/// The part of a printed line that differs from a shown one in numbers alone.
fn alike(line: &str, shown: &str) -> Option<String> {
    if shape(line) == shape(shown) {
        return Some(line.trim_end().to_owned());
    }
    let all: Vec<&str> = line.split_whitespace().collect();
    let parts = all.windows(shown.split_whitespace().count().max(1)).map(|part| part.join(" "));
    // A shown line may end within a sentence.
    let whole = |part: String| match shown.ends_with([';', ',']) {
        true => part,
        false => part.trim_end_matches([';', ',']).to_owned(),
    };
    parts.map(whole).find(|part| shape(part) == shape(shown))
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Runs a block, and returns what it prints.
fn run(script: &str, at: &Path, python: Option<&Path>) -> String {
    let binary = Path::new(env!("CARGO_BIN_EXE_lacuna")).parent().unwrap();
    let mut path = vec![binary.to_owned()];
    path.extend(python.and_then(Path::parent).map(Path::to_owned));
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let mut command = Command::new("bash");
    command.current_dir(at).env("PATH", std::env::join_paths(path).unwrap());
    let output = command.args(["-euo", "pipefail", "-c", script]).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, errors) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{script}\n{out}{errors}");
    out
}

/// Runs a page; the page with its shown lines renewed.
fn check(page: &Path, python: Option<&Path>) -> String {
    let text = fs::read_to_string(page).unwrap();
    let mut renewed: Vec<String> = text.lines().map(str::to_owned).collect();
    let files = text.lines().find_map(|line| line.strip_prefix("<!-- files: ")?.strip_suffix(" -->"));
    let Some(files) = files else { return text };
    let folder = tempfile::tempdir().unwrap();
    copy(&root().join(files), folder.path());
    if python.is_some() {
        copy(&root().join("docs/how-to"), folder.path());
        fs::write(folder.path().join("labels.npy"), labels()).unwrap();
    }
    let mut printed = None;
    let mut faults = Vec::new();
    for (language, line, block) in blocks(&text) {
        match (language.as_str(), python) {
            ("sh", _) | ("shell", Some(_)) => printed = Some(run(&block, folder.path(), python)),
            ("python", Some(_)) => {
                let name = block.lines().next().and_then(|first| first.strip_prefix("# ")).unwrap();
                fs::write(folder.path().join(name), &block).unwrap();
                run(&format!("python {name}"), folder.path(), python);
            }
            ("text", _) => {
                let Some(printed) = printed.take() else { continue };
                // Shown lines are some of those that are printed, in their order.
                let mut rest = printed.lines();
                for (i, shown) in block.lines().enumerate() {
                    let ahead = rest.clone();
                    if rest.any(|line| words(line).contains(&words(shown))) {
                        continue;
                    }
                    faults.push(format!("{}:{}: {shown}", page.display(), line + i + 1));
                    rest = ahead;
                    match rest.find_map(|line| alike(line, shown)) {
                        Some(now) => renewed[line + i] = now,
                        None if std::env::var_os("LACUNA_RENEW").is_some() => {
                            panic!("not like anything that is printed: {}", faults.join("\n"))
                        }
                        None => {}
                    }
                }
                if !faults.is_empty() && std::env::var_os("LACUNA_RENEW").is_none() {
                    panic!("not printed:\n{}\nprinted:\n{printed}", faults.join("\n"));
                }
            }
            _ => {}
        }
    }
    renewed.join("\n") + "\n"
}

/// Labels of eight samples, as NumPy writes them.
fn labels() -> Vec<u8> {
    let mut bytes = b"\x93NUMPY\x01\x00\x3a\x00".to_vec();
    bytes.extend(format!("{:<57}\n", "{'descr': '<i8', 'fortran_order': False, 'shape': (8,), }").bytes());
    bytes.extend((0..8i64).flat_map(i64::to_le_bytes));
    bytes
}

fn script(name: &str) {
    let page = root().join(name);
    let python = std::env::var_os("LACUNA_PYTHON").map(PathBuf::from);
    let renewed = check(&page, python.as_deref());
    if std::env::var_os("LACUNA_RENEW").is_some() {
        fs::write(page, renewed).unwrap();
    }
}

#[test]
fn the_readme_runs() {
    script("README.md");
}

#[test]
fn the_tutorial_runs() {
    script("docs/tutorial.md");
    script("docs/llm.md");
}

#[test]
fn commands_of_the_command_line_run() {
    script("docs/cli.md");
}

#[test]
fn own_models_run() {
    script("docs/how-to/own-model.md");
}

#[test]
fn test_folders_run() {
    script("docs/how-to/test-folder.md");
}

#[test]
fn precisions_run() {
    script("docs/how-to/precision.md");
}

#[test]
fn faster_memory_runs() {
    script("docs/how-to/memory.md");
}

/// Every page that is a script has a test above.
#[test]
fn no_script_is_left_out() {
    let source = include_str!("docs.rs");
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        if text.contains("\n<!-- files: ") {
            let name = page.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
            assert!(source.contains(&format!("script(\"{name}\")")), "{name}");
        }
    }
}

/// The place that a heading of this text has in its page.
fn anchor(heading: &str) -> String {
    let kept = |c: char| c.is_alphanumeric() || c == '-' || c == '_' || c == ' ';
    heading.trim().to_lowercase().chars().filter(|c| kept(*c)).collect::<String>().replace(' ', "-")
}

#[test]
fn every_link_leads_somewhere() {
    let docs = root().join("docs");
    let mut linked = BTreeSet::new();
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        let code: Vec<String> = blocks(&text).into_iter().map(|(.., block)| block).collect();
        for part in text.split("](").skip(1) {
            let Some(target) = part.split(')').next() else { continue };
            if code.iter().any(|block| block.contains(&format!("]({target})"))) || target.contains("://") {
                continue;
            }
            let (file, place) = target.split_once('#').map_or((target, None), |(f, p)| (f, Some(p)));
            let path = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            assert!(path.exists(), "{}: {target}", page.display());
            if page.ends_with("SUMMARY.md") {
                assert!(linked.insert(path.canonicalize().unwrap()), "{target} comes twice");
            }
            if let Some(place) = place {
                let text = fs::read_to_string(&path).unwrap();
                let headings = text.lines().filter(|line| line.starts_with('#'));
                let found = headings.map(|line| anchor(line.trim_start_matches('#'))).any(|a| a == place);
                assert!(found, "{}: {target}", page.display());
            }
        }
    }
    for page in pages().iter().filter(|page| page.starts_with(&docs) && !page.ends_with("SUMMARY.md")) {
        assert!(linked.contains(&page.canonicalize().unwrap()), "{} is not in the summary", page.display());
    }
}

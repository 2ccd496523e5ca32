//! The pages that show how something is added are true: every file that they list is there, and has what they name.

use std::fs;
use std::path::Path;

/// Pages, and the most files that such an addition may touch.
const GUIDES: [(&str, usize); 3] =
    [("docs/adding-an-instruction.md", 8), ("docs/adding-an-operator.md", 4), ("docs/adding-a-kernel.md", 3)];

/// What is wrong with the pages.
pub fn faults(root: &Path) -> Result<Vec<String>, String> {
    let mut faults = Vec::new();
    for (page, most) in GUIDES {
        let text = fs::read_to_string(root.join(page)).map_err(|e| format!("{page}: {e}"))?;
        let read = |file: &str| fs::read_to_string(root.join(file)).ok();
        faults.extend(of_page(&text, most, read).into_iter().map(|fault| format!("{page}: {fault}")));
    }
    Ok(faults)
}

/// Rows of the page's table: a file, what it needs, and code that stands in it.
fn of_page(text: &str, most: usize, read: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let mut faults = Vec::new();
    let rows: Vec<Vec<String>> = text.lines().filter(|line| line.starts_with("| `")).map(cells).collect();
    if rows.is_empty() || rows.len() > most {
        faults.push(format!("it lists {} files, not 1 to {most}", rows.len()));
    }
    for row in rows {
        let [file, _, named] = &row[..] else {
            faults.push(format!("a row has {} columns, not 3", row.len()));
            continue;
        };
        let (file, named) = (file.trim_matches('`'), named.trim_matches('`'));
        match read(file) {
            None => faults.push(format!("there is no file {file}")),
            Some(source) if named.is_empty() || !source.contains(named) => {
                faults.push(format!("{file} has no `{named}`"));
            }
            Some(_) => {}
        }
    }
    faults
}

/// The cells of a row, in which `\\|` is a bar.
fn cells(row: &str) -> Vec<String> {
    let row = row.trim().trim_matches('|').replace("\\|", "\u{0}");
    row.split('|').map(|cell| cell.trim().replace('\u{0}', "|")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guides_are_true() {
        assert_eq!(faults(&crate::root()), Ok(Vec::new()));
    }

    #[test]
    fn stale_rows_are_found() {
        let read = |file: &str| (file == "a.rs").then(|| "fn f() { g(|x| x) }".to_owned());
        let check = |rows: &str, expect: &[&str]| {
            let text = format!("# Page\n\n| file | what | named |\n|---|---|---|\n{rows}");
            assert_eq!(of_page(&text, 2, read), expect, "{rows}");
        };
        check("| `a.rs` | x | `fn f()` |\n", &[]);
        check("| `a.rs` | x | `g(\\|x\\| x)` |\n", &[]);
        check("| `a.rs` | x | `fn h()` |\n", &["a.rs has no `fn h()`"]);
        check("| `b.rs` | x | `fn f()` |\n", &["there is no file b.rs"]);
        check("| `a.rs` | x |\n", &["a row has 2 columns, not 3"]);
        check("", &["it lists 0 files, not 1 to 2"]);
        check(&"| `a.rs` | x | `fn f()` |\n".repeat(3), &["it lists 3 files, not 1 to 2"]);
    }
}

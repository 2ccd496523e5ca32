//! The generated pages of the manual: written from the tables that the code itself uses.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::{output, verify};

/// Writes `docs/isa.md`, `docs/operators.md`, `docs/exactness.md` and `docs/errors.md`, or checks that they are what would be written.
pub fn run(root: &Path, check: bool) -> Result<(), String> {
    let binary = verify::binary(root, "dev")?;
    let lacuna = |args: &[&str]| output(Command::new(&binary).args(args).current_dir(root));
    let pages = [
        ("docs/isa.md", lacuna_isa::reference::reference()),
        ("docs/operators.md", lacuna(&["ops", "--markdown"])?),
        ("docs/exactness.md", lacuna(&["explain", "--rules", "--markdown"])?),
        ("docs/errors.md", lacuna(&["explain", "--all", "--markdown"])?),
    ];
    let mut stale = Vec::new();
    for (name, text) in pages {
        let path = root.join(name);
        if fs::read_to_string(&path).is_ok_and(|old| old == text) {
            continue;
        }
        if check {
            stale.push(name);
        } else {
            fs::write(&path, text).map_err(|e| format!("{name}: {e}"))?;
            println!("wrote {name}");
        }
    }
    if stale.is_empty() {
        Ok(())
    } else {
        Err(format!("{} out of date; run `cargo xtask docs`", stale.join(", ")))
    }
}

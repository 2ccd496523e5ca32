//! Crates depend downwards only, as the page on the architecture has it, and files of a crate import each other in no circle.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::circles;
use crate::sources::Sources;

/// The page with the table of crates.
const PAGE: &str = "docs/architecture.md";

/// What a crate depends on, apart from crates of others.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
struct Depends {
    /// In its code.
    always: BTreeSet<String>,
    /// Only in its tests.
    in_tests: BTreeSet<String>,
}

/// Checks every member of the workspace.
pub fn check(root: &Path) -> Result<(), String> {
    let members = members(root)?;
    let page = fs::read_to_string(root.join(PAGE)).map_err(|e| format!("{PAGE}: {e}"))?;
    let mut faults = faults(&members, &table(&page));
    for (folder, manifest) in &members {
        let mut arrows = circles::Arrows::new();
        for sources in Sources::read(&root.join(folder))? {
            arrows.extend(sources.arrows());
        }
        faults.extend(circles::faults(name_of(manifest), &arrows, circles::KNOWN));
    }
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
}

/// The manifest of every member, by its folder.
fn members(root: &Path) -> Result<BTreeMap<String, toml::Table>, String> {
    let read = |path: &Path| -> Result<toml::Table, String> {
        let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        text.parse().map_err(|e| format!("{}: {e}", path.display()))
    };
    let workspace = read(&root.join("Cargo.toml"))?;
    let members = workspace.get("workspace").and_then(|w| w.get("members")?.as_array());
    let members = members.ok_or("Cargo.toml has no workspace members")?;
    members
        .iter()
        .filter_map(|m| m.as_str())
        .map(|member| Ok((member.to_owned(), read(&root.join(member).join("Cargo.toml"))?)))
        .collect()
}

fn name_of(manifest: &toml::Table) -> &str {
    manifest.get("package").and_then(|p| p.get("name")?.as_str()).unwrap_or_default()
}

/// The page's table: rows of folder, crate, what it is, what it depends on, and what its tests also depend on. A crate may go
/// without the prefix that all have.
fn table(page: &str) -> BTreeMap<String, Depends> {
    let rows = page.lines().filter(|line| line.starts_with("| `")).filter_map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let &[_, name, _, always, in_tests] = &cells[..] else { return None };
        let list = |cell: &str| {
            let names = cell.split(", ").filter(|name| *name != "-");
            names.map(|name| format!("lacuna-{name}")).collect()
        };
        Some((name.trim_matches('`').to_owned(), Depends { always: list(always), in_tests: list(in_tests) }))
    });
    rows.collect()
}

/// What a manifest says.
fn depends(manifest: &toml::Table, known: &BTreeMap<String, Depends>) -> Depends {
    let mut depends = Depends::default();
    let platforms = manifest.get("target").and_then(|t| t.as_table()).into_iter().flat_map(|t| t.values());
    for owner in std::iter::once(manifest).chain(platforms.filter_map(|t| t.as_table())) {
        for section in ["dependencies", "build-dependencies", "dev-dependencies"] {
            let list =
                if section == "dev-dependencies" { &mut depends.in_tests } else { &mut depends.always };
            for (key, value) in owner.get(section).and_then(|t| t.as_table()).into_iter().flatten() {
                // A dependency may be renamed; `package` then says what it is.
                let real = value.get("package").and_then(|p| p.as_str()).unwrap_or(key);
                if known.contains_key(real) {
                    list.insert(real.to_owned());
                }
            }
        }
    }
    depends.in_tests.retain(|name| !depends.always.contains(name));
    depends
}

fn faults(members: &BTreeMap<String, toml::Table>, table: &BTreeMap<String, Depends>) -> Vec<String> {
    let mut faults = Vec::new();
    for (folder, manifest) in members {
        let name = name_of(manifest);
        let Some(allowed) = table.get(name) else {
            faults.push(format!("{folder}: crate `{name}` is not in the table of {PAGE}"));
            continue;
        };
        let found = depends(manifest, table);
        for (section, found, allowed) in
            [("", &found.always, &allowed.always), (" in tests", &found.in_tests, &allowed.in_tests)]
        {
            for other in found.difference(allowed) {
                faults.push(format!("{folder}: `{name}` must not depend on `{other}`{section}"));
            }
            for other in allowed.difference(found) {
                faults.push(format!(
                    "{folder}: `{name}` does not depend on `{other}`{section}, but {PAGE} says so"
                ));
            }
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_is_layered() {
        assert_eq!(check(&crate::root()), Ok(()));
    }

    #[test]
    fn violations_are_found() {
        let page = "| folder | crate | what | depends on | tests |\n|---|---|---|---|---|\n\
                    | `isa/` | `lacuna-isa` | x | - | - |\n| `ir/` | `lacuna-ir` | x | isa | - |\n\
                    | `runtime/` | `lacuna-runtime` | x | isa | - |\n| `codegen/` | `lacuna-codegen` | x | isa | runtime |\n";
        let check = |manifest: &str, expect: &str| {
            let manifest: toml::Table = manifest.parse().unwrap();
            let faults = faults(&BTreeMap::from([("folder".to_owned(), manifest)]), &table(page));
            assert_eq!(faults.join("; "), expect);
        };
        let package = |name: &str, rest: &str| format!("[package]\nname = \"{name}\"\n{rest}");
        let runtime = |rest: &str| {
            package("lacuna-runtime", &format!("[dependencies]\nlacuna-isa.workspace = true\n{rest}"))
        };
        let refused = "folder: `lacuna-runtime` must not depend on `lacuna-ir`";
        check(&runtime("rayon = \"1\""), "");
        check(&runtime("lacuna-ir.workspace = true"), refused);
        check(&runtime("x = { package = \"lacuna-ir\", path = \"x\" }"), refused);
        check(&runtime("[build-dependencies]\nlacuna-ir.workspace = true"), refused);
        check(&runtime("[target.'cfg(unix)'.dependencies]\nlacuna-ir.workspace = true"), refused);
        check(
            &runtime("[dev-dependencies]\nlacuna-ir.workspace = true"),
            "folder: `lacuna-runtime` must not depend on `lacuna-ir` in tests",
        );
        check(
            &package("lacuna-runtime", ""),
            "folder: `lacuna-runtime` does not depend on `lacuna-isa`, but docs/architecture.md says so",
        );
        let codegen = |section: &str| {
            let isa = "[dependencies]\nlacuna-isa.workspace = true\n";
            package("lacuna-codegen", &format!("{isa}{section}lacuna-runtime.workspace = true"))
        };
        check(&codegen("[dev-dependencies]\n"), "");
        check(
            &codegen(""),
            "folder: `lacuna-codegen` must not depend on `lacuna-runtime`; folder: `lacuna-codegen` does not depend on \
             `lacuna-runtime` in tests, but docs/architecture.md says so",
        );
        check(
            &package("surprise", ""),
            "folder: crate `surprise` is not in the table of docs/architecture.md",
        );
    }
}

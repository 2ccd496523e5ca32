//! Crates depend downwards only, and the runtime never sees the compiler.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// What each crate may depend on. In tests (`dev-dependencies`) the second list may come in too.
const TABLE: &[(&str, &[&str], &[&str])] = &[
    ("lacuna-isa", &[], &[]),
    ("lacuna-runtime", &["lacuna-isa"], &[]),
    ("lacuna-ir", &["lacuna-isa"], &[]),
    ("lacuna-onnx", &["lacuna-isa", "lacuna-ir"], &[]),
    ("lacuna-optimize", &["lacuna-isa", "lacuna-ir"], &["lacuna-onnx"]),
    ("lacuna-codegen", &["lacuna-isa", "lacuna-ir"], &["lacuna-onnx", "lacuna-optimize", "lacuna-runtime"]),
    (
        "lacuna",
        &["lacuna-isa", "lacuna-runtime", "lacuna-ir", "lacuna-onnx", "lacuna-optimize", "lacuna-codegen"],
        &[],
    ),
    ("xtask", &["lacuna-isa"], &[]),
];

/// Checks every member of the workspace.
pub fn check(root: &Path) -> Result<(), String> {
    let faults = faults(&members(root)?);
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

fn faults(members: &BTreeMap<String, toml::Table>) -> Vec<String> {
    let mut faults = Vec::new();
    for (folder, manifest) in members {
        let name = manifest.get("package").and_then(|p| p.get("name")?.as_str()).unwrap_or_default();
        let Some((_, allowed, in_tests)) = TABLE.iter().find(|(known, ..)| *known == name) else {
            faults.push(format!("{folder}: crate `{name}` is not in the layering table"));
            continue;
        };
        let mut tables: Vec<(&toml::Table, bool)> = Vec::new();
        let platforms =
            manifest.get("target").and_then(|t| t.as_table()).into_iter().flat_map(|t| t.values());
        for owner in std::iter::once(manifest).chain(platforms.filter_map(|t| t.as_table())) {
            for (section, tests) in
                [("dependencies", false), ("build-dependencies", false), ("dev-dependencies", true)]
            {
                tables.extend(owner.get(section).and_then(|t| t.as_table()).map(|t| (t, tests)));
            }
        }
        for (dependencies, tests) in tables {
            for (key, value) in dependencies {
                // A dependency may be renamed; `package` then says what it is.
                let real = value.get("package").and_then(|p| p.as_str()).unwrap_or(key);
                let ours = TABLE.iter().any(|(known, ..)| *known == real);
                let fits = allowed.contains(&real) || (tests && in_tests.contains(&real));
                if ours && !fits {
                    faults.push(format!("{folder}: `{name}` must not depend on `{real}`"));
                }
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
        let check = |manifest: &str, expect: &str| {
            let table: toml::Table = manifest.parse().unwrap();
            let faults = faults(&BTreeMap::from([("folder".to_owned(), table)]));
            assert_eq!(faults.join("; "), expect, "{manifest}");
        };
        let package = |name: &str, rest: &str| format!("[package]\nname = \"{name}\"\n{rest}");
        let runtime = |rest| package("lacuna-runtime", rest);
        let refused = "folder: `lacuna-runtime` must not depend on `lacuna-ir`";
        check(&runtime("[dependencies]\nlacuna-isa.workspace = true\nrayon = \"1\""), "");
        check(&runtime("[dependencies]\nlacuna-ir.workspace = true"), refused);
        check(&runtime("[dev-dependencies]\nlacuna-ir.workspace = true"), refused);
        check(&runtime("[build-dependencies]\nlacuna-ir.workspace = true"), refused);
        check(&runtime("[dependencies]\nx = { package = \"lacuna-ir\", path = \"x\" }"), refused);
        check(&runtime("[target.'cfg(unix)'.dependencies]\nlacuna-ir.workspace = true"), refused);
        check(&package("lacuna-codegen", "[dev-dependencies]\nlacuna-runtime.workspace = true"), "");
        check(
            &package("lacuna-codegen", "[dependencies]\nlacuna-runtime.workspace = true"),
            "folder: `lacuna-codegen` must not depend on `lacuna-runtime`",
        );
        check(&package("surprise", ""), "folder: crate `surprise` is not in the layering table");
    }
}

//! Files of a crate import each other in no circle, but for a parent and its child.

use std::collections::{BTreeMap, BTreeSet};

pub use crate::sources::Arrows;

/// A circle that is still closed. The list may only shrink: one that has opened, or has other files, is a fault.
pub struct Known {
    /// The crate.
    pub package: &'static str,
    /// All files of the circle, sorted.
    pub files: &'static [&'static str],
    /// Why it is not open yet.
    pub reason: &'static str,
}

/// The circles that nobody has opened yet.
pub const KNOWN: &[Known] = &[
    Known {
        package: "lacuna-codegen",
        files: &[
            "src/kernels/attention_plan.rs",
            "src/kernels/attention_programs.rs",
            "src/kernels/attention_stripe_plan.rs",
            "src/kernels/attention_stripes.rs",
            "src/kernels/attention_tiles.rs",
            "src/kernels/attention_time.rs",
        ],
        reason: "the constructor of a plan of attention is the search for it",
    },
    Known {
        package: "lacuna-runtime",
        files: &["src/profile/chain.rs", "src/profile/model.rs"],
        reason: "what a launch hands over has queues and ports of the model, which begins with it",
    },
    Known {
        package: "lacuna-runtime",
        files: &["src/profile/masks.rs", "src/profile/walk.rs"],
        reason: "the walk asks masks for prices, and these are found from the walk's uses of slots",
    },
];

/// What is wrong with the arrows of `package`.
pub fn faults(package: &str, arrows: &Arrows, known: &[Known]) -> Vec<String> {
    let circles = circles(arrows);
    let known: Vec<&Known> = known.iter().filter(|known| known.package == package).collect();
    let mut faults = Vec::new();
    for circle in &circles {
        if !known.iter().any(|known| known.files == circle) {
            faults.push(format!("{package}: files import each other in a circle\n{}", ties(circle, arrows)));
        }
    }
    for known in known {
        if !circles.iter().any(|circle| known.files == circle) {
            let (files, reason) = (known.files.join(", "), known.reason);
            faults
                .push(format!("{package}: this circle is no more, take it off the list: {files} ({reason})"));
        }
    }
    faults
}

/// Every largest set of files that reach one another. A circle that runs through a file and otherwise only through modules
/// under it is no fault: a parent calls its children, and they use what it holds.
fn circles(arrows: &Arrows) -> Vec<Vec<&str>> {
    let files: BTreeSet<&str> = arrows.keys().flat_map(|(from, to)| [from.as_str(), to.as_str()]).collect();
    let mut open = vec![files];
    let mut circles = Vec::new();
    while let Some(files) = open.pop() {
        for mut circle in components(&files, arrows) {
            let parent = circle.iter().copied().find(|parent| circle.iter().all(|file| within(parent, file)));
            match parent {
                Some(parent) => {
                    circle.remove(parent);
                    open.push(circle);
                }
                None => circles.push(circle.into_iter().collect()),
            }
        }
    }
    circles.sort();
    circles
}

/// The sets of two and more of `files` that reach one another within `files`.
fn components<'a>(files: &BTreeSet<&'a str>, arrows: &'a Arrows) -> Vec<BTreeSet<&'a str>> {
    let mut next: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (from, to) in arrows.keys().filter(|(a, b)| files.contains(a.as_str()) && files.contains(b.as_str()))
    {
        next.entry(from).or_default().push(to);
    }
    let reached: BTreeMap<&str, BTreeSet<&str>> =
        files.iter().map(|&from| (from, reach(from, &next))).collect();
    let mut seen = BTreeSet::new();
    let mut components = Vec::new();
    for (from, targets) in &reached {
        if seen.contains(from) || !targets.contains(from) {
            continue;
        }
        let component: BTreeSet<&str> =
            targets.iter().copied().filter(|to| reached[to].contains(from)).collect();
        seen.extend(component.iter().copied());
        components.push(component);
    }
    components
}

/// All that `from` reaches, itself if it is part of a circle.
fn reach<'a>(from: &'a str, next: &BTreeMap<&'a str, Vec<&'a str>>) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut open = vec![from];
    while let Some(file) = open.pop() {
        for &to in next.get(file).into_iter().flatten() {
            if reached.insert(to) {
                open.push(to);
            }
        }
    }
    reached
}

/// Whether `file` is `parent` or the file of a module under it.
fn within(parent: &str, file: &str) -> bool {
    let home = match parent.rsplit_once('/') {
        Some((folder, "mod.rs" | "lib.rs" | "main.rs")) => folder,
        _ => parent.trim_end_matches(".rs"),
    };
    file == parent || file.strip_prefix(home).is_some_and(|rest| rest.starts_with('/'))
}

/// The arrows of a circle, one a line, with the names that each takes.
fn ties(circle: &[&str], arrows: &Arrows) -> String {
    let inner =
        arrows.iter().filter(|((a, b), _)| circle.contains(&a.as_str()) && circle.contains(&b.as_str()));
    let lines = inner.map(|((from, to), names)| {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        format!("  {from} -> {to}: {}", names.join(", "))
    });
    lines.collect::<Vec<String>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrows(pairs: &[(&str, &str)]) -> Arrows {
        let name = BTreeSet::from(["Name".to_owned()]);
        let pair = |(a, b): &(&str, &str)| ((format!("src/{a}.rs"), format!("src/{b}.rs")), name.clone());
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn a_planted_circle_is_found() {
        let check = |pairs: &[(&str, &str)], expect: &[&[&str]]| {
            let arrows = arrows(pairs);
            let found: Vec<Vec<String>> = circles(&arrows)
                .into_iter()
                .map(|circle| circle.into_iter().map(|f| f[4..f.len() - 3].to_owned()).collect())
                .collect();
            assert_eq!(found, expect, "{pairs:?}");
        };
        check(&[("a", "b"), ("b", "c"), ("a", "c")], &[]);
        check(&[("a", "b"), ("b", "a")], &[&["a", "b"]]);
        check(&[("a", "b"), ("b", "c"), ("c", "a"), ("d", "a")], &[&["a", "b", "c"]]);
        // A parent and its children, also where one child uses another.
        check(&[("a", "a/x"), ("a/x", "a")], &[]);
        check(&[("a", "a/x"), ("a/x", "a/y"), ("a/y", "a")], &[]);
        check(&[("lib", "a/mod"), ("a/mod", "a/x"), ("a/x", "lib")], &[]);
        // Children among themselves, and a child by way of a stranger.
        check(&[("a", "a/x"), ("a/x", "a/y"), ("a/y", "a/x"), ("a/y", "a")], &[&["a/x", "a/y"]]);
        check(&[("a", "a/x"), ("a/x", "b"), ("b", "a")], &[&["a", "a/x", "b"]]);
        check(&[("a", "b"), ("b", "a/x"), ("a/x", "a")], &[&["a", "a/x", "b"]]);
    }

    #[test]
    fn the_list_of_known_circles_only_shrinks() {
        let known = Known { package: "p", files: &["src/a.rs", "src/b.rs"], reason: "why" };
        let check = |pairs: &[(&str, &str)], package: &str, n: usize| {
            assert_eq!(faults(package, &arrows(pairs), std::slice::from_ref(&known)).len(), n, "{pairs:?}");
        };
        check(&[("a", "b"), ("b", "a")], "p", 0);
        check(&[("a", "b"), ("b", "a")], "q", 1);
        check(&[("a", "b")], "p", 1);
        check(&[("a", "b"), ("b", "c"), ("c", "a")], "p", 2);
    }
}

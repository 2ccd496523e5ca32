//! The parsed sources of a crate: its files by module, and what each file names of the others.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

/// A crate's files by module path; the root's is empty. Code for tests only is left out.
pub struct Sources {
    files: BTreeMap<Vec<String>, File>,
}

/// One file.
pub struct File {
    /// Path from the crate's folder.
    pub path: String,
    /// What it holds.
    pub syntax: syn::File,
    /// Names that `use` brings in, with what they stand for, from the crate's root.
    imports: BTreeMap<String, Vec<String>>,
    /// Modules all of whose names `use` brings in.
    globs: Vec<Vec<String>>,
}

/// Names that one file takes from another, by (user, definer).
pub type Arrows = BTreeMap<(String, String), BTreeSet<String>>;

impl Sources {
    /// Reads a crate from its folder: one for its library and one for its command, where it has both.
    ///
    /// # Errors
    /// A file cannot be read or parsed, or a module has no file.
    pub fn read(folder: &Path) -> Result<Vec<Self>, String> {
        let roots = ["src/lib.rs", "src/main.rs"].map(|root| folder.join(root));
        let read = |root: &PathBuf| {
            let mut sources = Sources { files: BTreeMap::new() };
            sources.read_module(folder, root, Vec::new())?;
            Ok(sources)
        };
        roots.iter().filter(|root| root.exists()).map(read).collect()
    }

    /// Every file.
    pub fn files(&self) -> impl Iterator<Item = &File> {
        self.files.values()
    }

    fn read_module(&mut self, folder: &Path, path: &Path, module: Vec<String>) -> Result<(), String> {
        let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let name = path.strip_prefix(folder).unwrap_or(path).display().to_string();
        let children = self.add(&name, &text, module.clone())?;
        // `foo/mod.rs`, `lib.rs` and `main.rs` have their children beside them, `foo.rs` in `foo/`.
        let beside = path.parent().unwrap_or(folder);
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let home = match stem {
            "mod" | "lib" | "main" => beside.to_owned(),
            _ => beside.join(stem),
        };
        for child in children {
            let candidates: [PathBuf; 2] =
                [home.join(format!("{child}.rs")), home.join(&child).join("mod.rs")];
            let file = candidates.iter().find(|file| file.exists());
            let file = file.ok_or_else(|| format!("{name}: module `{child}` has no file"))?;
            let mut inner = module.clone();
            inner.push(child);
            self.read_module(folder, file, inner)?;
        }
        Ok(())
    }

    /// Adds a file, and names the modules that it declares.
    fn add(&mut self, path: &str, text: &str, module: Vec<String>) -> Result<Vec<String>, String> {
        let mut syntax = syn::parse_file(text).map_err(|e| format!("{path}: {e}"))?;
        syntax.items.retain(|item| !for_tests(item));
        let mut children = Vec::new();
        let (mut imports, mut globs) = (BTreeMap::new(), Vec::new());
        for item in &syntax.items {
            match item {
                syn::Item::Mod(item) if item.content.is_none() => children.push(item.ident.to_string()),
                syn::Item::Use(item) => {
                    for (name, target) in leaves(&item.tree) {
                        let first = target.first().map(String::as_str);
                        let bare_child = first.is_some_and(|first| declares(&syntax, first));
                        let Some(target) = absolute(&module, &target, bare_child) else { continue };
                        match name {
                            Some(name) => drop(imports.insert(name, target)),
                            None => globs.push(target),
                        }
                    }
                }
                _ => {}
            }
        }
        self.files.insert(module, File { path: path.to_owned(), syntax, imports, globs });
        Ok(children)
    }

    /// The arrows between the crate's files. A name that a file only hands on counts for the file that defines it.
    pub fn arrows(&self) -> Arrows {
        let mut arrows = Arrows::new();
        for (module, file) in &self.files {
            let mut paths = Paths(BTreeSet::new());
            paths.visit_file(&file.syntax);
            for path in paths.0 {
                let Some(path) = self.expand(module, file, &path) else { continue };
                let Some((target, name)) = self.definition(&path, 0) else { continue };
                if target != file.path {
                    arrows.entry((file.path.clone(), target)).or_default().insert(name);
                }
            }
        }
        arrows
    }

    /// A path as the code of `file` has it, from the crate's root; `None` where it leads out of the crate.
    fn expand(&self, module: &[String], file: &File, path: &[String]) -> Option<Vec<String>> {
        let (first, rest) = path.split_first()?;
        if let Some(target) = file.imports.get(first) {
            return Some([target, rest].concat());
        }
        let mut child = module.to_vec();
        child.push(first.clone());
        if let Some(path) = absolute(module, path, self.files.contains_key(&child)) {
            return Some(path);
        }
        // Of a name that stands alone only what a glob brings in can come from another file.
        file.globs
            .iter()
            .map(|glob| [&glob[..], path].concat())
            .find(|path| self.definition(path, 0).is_some())
    }

    /// The file that defines what `path` names, and the name that it has there. A module alone defines nothing.
    fn definition(&self, path: &[String], depth: usize) -> Option<(String, String)> {
        let n_module = (0..=path.len()).rev().find(|&n| self.files.contains_key(&path[..n]))?;
        let (file, rest) = (&self.files[&path[..n_module]], &path[n_module..]);
        let name = rest.first()?;
        if let Some(target) = file.imports.get(name)
            && depth < 8
        {
            return self.definition(&[target, &rest[1..]].concat(), depth + 1);
        }
        if defines(&file.syntax, name) {
            return Some((file.path.clone(), name.clone()));
        }
        let globs = file.globs.iter().filter(|_| depth < 8);
        globs.map(|glob| [&glob[..], rest].concat()).find_map(|path| self.definition(&path, depth + 1))
    }
}

/// Whether an item is compiled for tests only.
pub fn for_tests(item: &syn::Item) -> bool {
    let attributes = match item {
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Const(item) => &item.attrs,
        _ => return false,
    };
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::List(list) => list.path.is_ident("cfg") && list.tokens.to_string() == "test",
        syn::Meta::Path(path) => path.is_ident("test"),
        syn::Meta::NameValue(_) => false,
    })
}

/// Whether the file has the module `name`.
fn declares(file: &syn::File, name: &str) -> bool {
    file.items.iter().any(|item| matches!(item, syn::Item::Mod(item) if item.ident == name))
}

/// Whether the file defines `name`. What a macro call of it may expand to counts, if the call names it.
fn defines(file: &syn::File, name: &str) -> bool {
    file.items.iter().any(|item| match item {
        syn::Item::Const(item) => item.ident == name,
        syn::Item::Enum(item) => item.ident == name,
        syn::Item::Fn(item) => item.sig.ident == name,
        syn::Item::Macro(item) => {
            item.ident.as_ref().is_some_and(|ident| ident == name) || mentions(&item.mac.tokens, name)
        }
        syn::Item::Mod(item) => item.ident == name && item.content.is_some(),
        syn::Item::Static(item) => item.ident == name,
        syn::Item::Struct(item) => item.ident == name,
        syn::Item::Trait(item) => item.ident == name,
        syn::Item::Type(item) => item.ident == name,
        syn::Item::Union(item) => item.ident == name,
        _ => false,
    })
}

fn mentions(tokens: &TokenStream, name: &str) -> bool {
    tokens.clone().into_iter().any(|token| match token {
        TokenTree::Ident(ident) => ident == name,
        TokenTree::Group(group) => mentions(&group.stream(), name),
        TokenTree::Punct(_) | TokenTree::Literal(_) => false,
    })
}

/// A path of a file in `module` from the crate's root. `child` says whether its first name is a module of that file.
fn absolute(module: &[String], path: &[String], child: bool) -> Option<Vec<String>> {
    let (first, rest) = path.split_first()?;
    match first.as_str() {
        "crate" => Some(rest.to_vec()),
        "self" => Some([module, rest].concat()),
        "super" => {
            let above = &module[..module.len().checked_sub(1)?];
            match rest.first() {
                Some(second) if second == "super" => absolute(above, rest, false),
                _ => Some([above, rest].concat()),
            }
        }
        _ => child.then(|| [module, path].concat()),
    }
}

/// The paths of a `use` tree, each with the name that it brings in; a glob brings in no name.
fn leaves(tree: &syn::UseTree) -> Vec<(Option<String>, Vec<String>)> {
    fn walk(tree: &syn::UseTree, prefix: &[String], out: &mut Vec<(Option<String>, Vec<String>)>) {
        let with = |name: &syn::Ident| [prefix, &[name.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => walk(&path.tree, &with(&path.ident), out),
            syn::UseTree::Name(name) if name.ident == "self" => {
                out.push((prefix.last().cloned(), prefix.to_vec()));
            }
            syn::UseTree::Name(name) => out.push((Some(name.ident.to_string()), with(&name.ident))),
            syn::UseTree::Rename(name) => out.push((Some(name.rename.to_string()), with(&name.ident))),
            syn::UseTree::Glob(_) => out.push((None, prefix.to_vec())),
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| walk(tree, prefix, out)),
        }
    }
    let mut out = Vec::new();
    walk(tree, &[], &mut out);
    out
}

/// Collects every path of a file: of `use`, of types, expressions and patterns, and of what attributes and macros are given.
struct Paths(BTreeSet<Vec<String>>);

impl Paths {
    fn add_tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut joined = false;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if !joined {
                        self.0.insert(std::mem::take(&mut path));
                    }
                    path.push(ident.to_string());
                    joined = false;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' && !path.is_empty() => joined = true,
                TokenTree::Group(group) => {
                    self.0.insert(std::mem::take(&mut path));
                    joined = false;
                    self.add_tokens(group.stream());
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => {
                    self.0.insert(std::mem::take(&mut path));
                    joined = false;
                }
            }
        }
        self.0.insert(path);
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if !for_tests(item) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.0.extend(leaves(&item.tree).into_iter().map(|(_, path)| path));
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.0.insert(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, mac: &'ast syn::Macro) {
        self.visit_path(&mac.path);
        self.add_tokens(mac.tokens.clone());
    }

    fn visit_meta_list(&mut self, list: &'ast syn::MetaList) {
        self.add_tokens(list.tokens.clone());
    }

    fn visit_vis_restricted(&mut self, _: &'ast syn::VisRestricted) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(files: &[(&str, &str)]) -> Sources {
        let mut sources = Sources { files: BTreeMap::new() };
        for (path, text) in files {
            let name = path.trim_end_matches(".rs").trim_end_matches("/mod");
            let module = name.split('/').filter(|part| *part != "lib").map(str::to_owned).collect();
            sources.add(path, text, module).unwrap();
        }
        sources
    }

    #[test]
    fn arrows_are_found() {
        let check = |files: &[(&str, &str)], expect: &[(&str, &str, &str)]| {
            let arrows = sources(files).arrows();
            let found = arrows.iter().flat_map(|((from, to), names)| {
                names.iter().map(move |name| (from.as_str(), to.as_str(), name.as_str()))
            });
            assert_eq!(found.collect::<Vec<_>>(), expect, "{files:?}");
        };
        let b = ("b.rs", "pub struct B; pub fn f() {} pub const N: u8 = 0;");
        let lib = ("lib.rs", "mod a; mod b; pub use b::B;");
        let all = |a| [lib, ("a.rs", a), b];
        let arrow = |name| [("a.rs", "b.rs", name), ("lib.rs", "b.rs", "B")];
        check(&all("use crate::b::B;"), &arrow("B"));
        check(&all("use crate::b::{self, B as C};"), &arrow("B"));
        check(&all("use super::b; fn g() { b::f() }"), &arrow("f"));
        check(&all("fn g(x: crate::b::B) {}"), &arrow("B"));
        check(&all("use crate::b; fn g() { assert_eq!(1, [b::N]) }"), &arrow("N"));
        check(&all("use crate::b::*; fn g() { f() }"), &arrow("f"));
        check(&all("use crate::b; #[arg(parser = b::f)] struct S;"), &arrow("f"));
        // What a file only hands on is taken from the file that defines it.
        check(&all("use crate::B;"), &arrow("B"));
        // Modules themselves, other crates, own names, and tests tie nothing.
        let none = [("lib.rs", "b.rs", "B")];
        check(&all("use crate::b;"), &none);
        check(&all("use other::b::B; struct N; fn g(n: N) {}"), &none);
        check(&all("#[cfg(test)] mod tests { use crate::b::B; }"), &none);
        let nested =
            [("lib.rs", "mod a;"), ("a/mod.rs", "mod x; pub struct A;"), ("a/x.rs", "use super::A;")];
        check(&nested, &[("a/x.rs", "a/mod.rs", "A")]);
    }
}

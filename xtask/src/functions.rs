//! No function is long unless it is one flat match, and none has many parameters.

use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use crate::sources::{Sources, for_tests};

/// Most lines of a function, from its signature to its last brace.
const MAX_LINES: usize = 80;

/// Lines that a function may have besides its one flat match, and lines of an arm of that.
const MAX_BESIDES: usize = 20;

/// A function has fewer parameters than this, itself counted.
const MAX_PARAMETERS: usize = 7;

/// Functions that are still too long, with their lines. Nothing may be added to them, nor to this list; one that is short
/// enough leaves it.
const LONG: &[(&str, &str, usize)] = &[
    ("compiler/codegen/src/kernels/attention.rs", "attention", 111),
    ("compiler/codegen/src/kernels/attention.rs", "softmax", 87),
    ("compiler/codegen/src/kernels/attention_plan.rs", "of", 91),
    ("compiler/codegen/src/kernels/carry.rs", "reduce_in_tiles", 173),
    ("compiler/codegen/src/kernels/gather.rs", "gather_batched", 95),
    ("compiler/codegen/src/kernels/gather.rs", "lookup", 81),
    ("compiler/codegen/src/kernels/map.rs", "map_space", 99),
    ("compiler/codegen/src/kernels/norm.rs", "norm", 108),
    ("compiler/codegen/src/kernels/norm.rs", "softmax", 81),
    ("compiler/codegen/src/kernels/product.rs", "emit_product", 170),
    ("compiler/codegen/src/kernels/product_problem.rs", "conv_problem", 137),
    ("compiler/codegen/src/kernels/product_time.rs", "of", 98),
    ("compiler/driver/src/commands/verify/report.rs", "report", 86),
    ("compiler/onnx/src/ops/attention.rs", "attention", 91),
    ("compiler/optimize/src/select/candidates.rs", "list", 105),
];

/// Functions that still have too many parameters.
const WIDE: &[(&str, &str, usize)] = &[
    ("compiler/codegen/src/kernels/attention_tiles.rs", "load", 7),
    ("compiler/codegen/src/kernels/attention_tiles.rs", "run", 7),
    ("compiler/codegen/src/kernels/carry.rs", "reduce_copy", 7),
    ("compiler/codegen/src/kernels/product.rs", "outlet", 7),
    ("compiler/codegen/src/kernels/product_problem.rs", "panels", 7),
    ("compiler/codegen/src/kernels/space.rs", "tile_in_order", 7),
    ("compiler/codegen/src/lower/expressions.rs", "grow", 7),
    ("compiler/driver/src/commands/verify/mod.rs", "compare", 7),
    ("compiler/driver/src/measure.rs", "new", 7),
    ("compiler/optimize/src/parts.rs", "ordered", 7),
    ("compiler/optimize/src/rules/zeros.rs", "through", 7),
    ("isa/src/format/group/axis.rs", "quantize_part", 7),
    ("runtime/src/codes.rs", "strided", 7),
    ("runtime/src/dma/codes.rs", "apply_scales", 7),
    ("runtime/src/dma/store.rs", "put_run", 7),
    ("runtime/src/matmul/fast.rs", "grouped", 7),
    ("runtime/src/memory.rs", "store_codes", 7),
    ("runtime/src/profile/masks.rs", "actions", 8),
    ("runtime/src/se/load_store.rs", "load_scalar", 8),
    ("runtime/src/simd/integers.rs", "accumulate_integers", 7),
    ("runtime/src/simd/products.rs", "accumulate_groups", 7),
    ("runtime/src/simd/products.rs", "groups_plain", 7),
    ("runtime/src/simd/products.rs", "plain_rows", 7),
];

/// What is wrong with the functions of the crate in `folder`.
pub fn faults(folder: &str, crates: &[Sources]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut found = Vec::new();
    for file in crates.iter().flat_map(Sources::files) {
        let mut functions = Functions(Vec::new());
        functions.visit_file(&file.syntax);
        let path = format!("{folder}/{}", file.path);
        found.extend(functions.0.into_iter().map(|function| (path.clone(), function)));
    }
    let long = found.iter().filter(|(_, f)| f.n_lines > MAX_LINES && !f.flat);
    let long = long.map(|(path, f)| (path.as_str(), f.name.as_str(), f.n_lines));
    faults.extend(compare(folder, "lines", long.collect(), LONG));
    let wide = found.iter().filter(|(_, f)| f.n_parameters >= MAX_PARAMETERS);
    let wide = wide.map(|(path, f)| (path.as_str(), f.name.as_str(), f.n_parameters));
    faults.extend(compare(folder, "parameters", wide.collect(), WIDE));
    faults
}

/// Holds what was found against a list that may only shrink.
fn compare(
    folder: &str,
    what: &str,
    found: Vec<(&str, &str, usize)>,
    known: &[(&str, &str, usize)],
) -> Vec<String> {
    let of = |list: &[(&str, &str, usize)], path: &str, name: &str| {
        list.iter().filter(|(p, n, _)| (*p, *n) == (path, name)).map(|(.., n)| *n).max()
    };
    let mut faults = Vec::new();
    for &(path, name, n) in &found {
        if of(known, path, name).is_none_or(|most| n > most) {
            faults.push(format!("{path}: `{name}` has {n} {what}; split it by meaning"));
        }
    }
    let own = known.iter().filter(|(path, ..)| path.strip_prefix(folder).is_some_and(|p| p.starts_with('/')));
    for (path, name, most) in own {
        if of(&found, path, name).is_none_or(|n| n < *most) {
            faults.push(format!("{path}: `{name}` has fewer than {most} {what}: say so in xtask's list"));
        }
    }
    faults
}

/// A function with a body.
struct Function {
    name: String,
    n_lines: usize,
    n_parameters: usize,
    /// Whether it is one match with short arms and little else.
    flat: bool,
}

struct Functions(Vec<Function>);

impl Functions {
    fn add(&mut self, signature: &syn::Signature, body: &syn::Block) {
        let n_lines = lines(signature.fn_token.span, body.brace_token.span.close());
        let mut matches = Matches(Vec::new());
        matches.visit_block(body);
        let flat = matches
            .0
            .iter()
            .any(|&(n, longest_arm)| n_lines.saturating_sub(n) <= MAX_BESIDES && longest_arm <= MAX_BESIDES);
        let name = signature.ident.to_string();
        self.0.push(Function { name, n_lines, n_parameters: signature.inputs.len(), flat });
    }
}

impl<'ast> Visit<'ast> for Functions {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if !for_tests(item) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.add(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.add(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }
}

/// The matches of a body: lines of each, and of its longest arm.
struct Matches(Vec<(usize, usize)>);

impl<'ast> Visit<'ast> for Matches {
    fn visit_expr_match(&mut self, expr: &'ast syn::ExprMatch) {
        let arms = expr.arms.iter().map(|arm| lines(arm.pat.span(), arm.body.span()));
        let n = lines(expr.match_token.span, expr.brace_token.span.close());
        self.0.push((n, arms.max().unwrap_or(0)));
        visit::visit_expr_match(self, expr);
    }
}

fn lines(from: proc_macro2::Span, to: proc_macro2::Span) -> usize {
    to.end().line + 1 - from.start().line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: (usize, usize, bool)) {
        let mut functions = Functions(Vec::new());
        functions.visit_file(&syn::parse_file(text).unwrap());
        let found: Vec<_> = functions.0.iter().map(|f| (f.n_lines, f.n_parameters, f.flat)).collect();
        assert_eq!(found, [expect], "{text}");
    }

    #[test]
    fn functions_are_measured() {
        check("fn f() {}", (1, 0, false));
        check("/// Text.\n#[inline]\nfn f(a: u8, b: u8) {\n    a();\n}", (3, 2, false));
        check("impl S {\n    fn f(&self, a: u8) {\n    }\n}", (2, 2, false));
        check("#[cfg(test)] mod tests { fn g() {} }\nfn f() {}", (1, 0, false));
        let arms = "        A => 1,\n".repeat(100);
        check(&format!("fn f() {{\n    let a = 1;\n    match a {{\n{arms}    }}\n}}"), (105, 0, true));
        let long_arm = format!("        A => {{\n{}        }}\n", "            g();\n".repeat(30));
        check(&format!("fn f() {{\n    match a {{\n{arms}{long_arm}    }}\n}}"), (136, 0, false));
        let besides = "    g();\n".repeat(30);
        check(&format!("fn f() {{\n{besides}    match a {{\n{arms}    }}\n}}"), (134, 0, false));
    }

    #[test]
    fn the_lists_only_shrink() {
        let check = |found: &[(&str, &str, usize)], n: usize| {
            assert_eq!(compare("a", "lines", found.to_vec(), &[("a/x.rs", "f", 90)]).len(), n, "{found:?}");
        };
        check(&[("a/x.rs", "f", 90)], 0);
        check(&[("a/x.rs", "f", 91)], 1);
        check(&[("a/x.rs", "f", 85)], 1);
        check(&[], 1);
        check(&[("a/x.rs", "f", 90), ("a/x.rs", "g", 90)], 1);
        assert!(compare("b", "lines", Vec::new(), &[("a/x.rs", "f", 90)]).is_empty());
    }
}

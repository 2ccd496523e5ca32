//! Patterns of rules and their matches.
//!
//! Text form: `?x` is any value, `$c` a constant one, `(mul ?x $c)` an operator on patterns, `(concat ...)` an
//! operator with any operands; `unary` and `binary` stand for every function of one or two operands, `scaled` for a product or a quotient. A variable that
//! occurs twice must match one class.

use egg::{Id, Language};
use lacuna_ir::Op;
use lacuna_ir::op::{BinaryOp, UnaryOp};

use crate::graph::{Graph, Source};
use crate::lang::{Kind, Term};

#[derive(Clone, PartialEq, Eq, Debug)]
enum Pat {
    Var { slot: usize, constant: bool },
    Apply { kinds: Vec<Kind>, args: Option<Vec<usize>> },
}

/// A pattern.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pattern {
    pats: Vec<Pat>,
    root: usize,
    vars: Vec<String>,
}

/// A pattern found in the graph.
#[derive(Clone, Debug)]
pub struct Match {
    /// The class that the whole pattern computes.
    pub root: Id,
    /// The terms that the pattern's operators matched, outermost first, left to right.
    pub terms: Vec<Term>,
    /// Classes of the variables, in order of their first occurrence.
    pub vars: Vec<Id>,
}

impl Match {
    /// Where the matched terms come from; before anything is applied to the graph, all of it.
    pub fn source(&self, g: &Graph) -> Source {
        let mut source = Source::default();
        for term in &self.terms {
            if let Some(s) = g.sources.get(term) {
                source.join(s);
            }
        }
        source
    }

    /// A hash of what was matched.
    pub fn key(&self) -> u64 {
        let mut key = usize::from(self.root) as u64;
        let mut mix = |n: u64| key = (key.rotate_left(5) ^ n).wrapping_mul(0x517c_c1b7_2722_0a95);
        for term in &self.terms {
            mix(term.op().map_or(u64::MAX, |op| op.number()));
            term.children().iter().for_each(|&c| mix(usize::from(c) as u64));
        }
        key
    }

    /// The operator that the pattern's operator number `i` matched.
    pub fn op<'g>(&self, g: &'g Graph, i: usize) -> Option<&'g Op> {
        g.op(self.terms.get(i)?)
    }

    /// Operands of the term that operator number `i` matched.
    pub fn args(&self, i: usize) -> &[Id] {
        self.terms.get(i).map_or(&[], |t| t.children())
    }
}

impl Pattern {
    /// Reads the text form; `None` where it is malformed.
    pub fn parse(text: &str) -> Option<Pattern> {
        let spaced = text.replace('(', " ( ").replace(')', " ) ");
        let tokens: Vec<&str> = spaced.split_whitespace().collect();
        let mut pattern = Pattern { pats: Vec::new(), root: 0, vars: Vec::new() };
        let mut at = 0;
        pattern.root = pattern.read(&tokens, &mut at)?;
        (at == tokens.len()).then_some(pattern)
    }

    fn read(&mut self, tokens: &[&str], at: &mut usize) -> Option<usize> {
        let token = *tokens.get(*at)?;
        *at += 1;
        let pat = if token == "(" {
            let kinds = kinds_of(tokens.get(*at)?)?;
            *at += 1;
            let mut args = Some(Vec::new());
            while *tokens.get(*at)? != ")" {
                if tokens[*at] == "..." {
                    *at += 1;
                    args = None;
                } else {
                    let arg = self.read(tokens, at)?;
                    args.as_mut()?.push(arg);
                }
            }
            *at += 1;
            Pat::Apply { kinds, args }
        } else {
            let constant = token.starts_with('$');
            let name = token.strip_prefix(['?', '$'])?.to_string();
            let slot = self.vars.iter().position(|v| *v == name).unwrap_or_else(|| {
                self.vars.push(name);
                self.vars.len() - 1
            });
            Pat::Var { slot, constant }
        };
        self.pats.push(pat);
        Some(self.pats.len() - 1)
    }

    /// All matches, by the order of classes in the graph, which must be rebuilt.
    pub fn search(&self, g: &Graph) -> Vec<Match> {
        let mut found = Vec::new();
        let Pat::Apply { kinds, .. } = &self.pats[self.root] else { return found };
        for kind in kinds {
            for class in g.eg.classes_for_op(kind).into_iter().flatten() {
                let mut state = State {
                    root: class,
                    vars: vec![None; self.vars.len()],
                    terms: Vec::new(),
                    only: Some(*kind),
                };
                self.step(g, &mut vec![(self.root, class)], &mut state, &mut found);
            }
        }
        found
    }

    fn step(&self, g: &Graph, todo: &mut Vec<(usize, Id)>, state: &mut State, found: &mut Vec<Match>) {
        let Some((pat, class)) = todo.pop() else {
            let vars: Option<Vec<Id>> = state.vars.iter().copied().collect();
            if let Some(vars) = vars {
                found.push(Match { root: state.root, terms: state.terms.clone(), vars });
            }
            return;
        };
        match &self.pats[pat] {
            Pat::Var { slot, constant } => {
                let fits = state.vars[*slot].is_none_or(|v| v == class) && (!constant || g.is_const(class));
                if fits {
                    let before = state.vars[*slot].replace(class);
                    self.step(g, todo, state, found);
                    state.vars[*slot] = before;
                }
            }
            Pat::Apply { kinds, args } => {
                let only = state.only.take();
                for term in &g.eg[class].nodes {
                    let kind = term.discriminant();
                    let wanted = only.map_or_else(|| kinds.contains(&kind), |k| k == kind);
                    let children = term.children();
                    if !wanted || args.as_ref().is_some_and(|a| a.len() != children.len()) {
                        continue;
                    }
                    let mut inner = todo.clone();
                    let patterns = args.as_deref().unwrap_or(&[]);
                    for (&arg, &child) in patterns.iter().zip(children).rev() {
                        inner.push((arg, child));
                    }
                    state.terms.push(term.clone());
                    self.step(g, &mut inner, state, found);
                    state.terms.pop();
                }
                state.only = only;
            }
        }
        todo.push((pat, class));
    }
}

struct State {
    root: Id,
    vars: Vec<Option<Id>>,
    terms: Vec<Term>,
    only: Option<Kind>,
}

const OPERATORS: &[&str] = &[
    "compare",
    "select",
    "cast",
    "reshape",
    "permute",
    "broadcast",
    "slice",
    "pad",
    "concat",
    "window",
    "gather",
    "reduce",
    "contract",
    "conv",
    "softmax",
    "norm",
    "attention",
    "mx_quantize",
];

fn kinds_of(name: &str) -> Option<Vec<Kind>> {
    let unary = UnaryOp::ALL.iter().map(|u| u.name());
    let binary = BinaryOp::ALL.iter().map(|b| b.name());
    match name {
        "unary" => Some(unary.map(Kind::Op).collect()),
        "binary" => Some(binary.map(Kind::Op).collect()),
        "scaled" => Some([BinaryOp::Mul, BinaryOp::Div].map(|b| Kind::Op(b.name())).to_vec()),
        name => unary
            .chain(binary)
            .chain(OPERATORS.iter().copied())
            .find(|n| *n == name)
            .map(|n| vec![Kind::Op(n)]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_patterns_are_refused() {
        for text in ["", "(", "(mul ?x", "(mul ?x))", "(frobnicate ?x)", "x", "(mul ?x ?y) ?z"] {
            assert!(Pattern::parse(text).is_none(), "{text}");
        }
        assert_eq!(
            Pattern::parse("(mul (conv ?x $w) $s)").map(|p| p.vars),
            Some(vec!["x".into(), "w".into(), "s".into()])
        );
    }
}

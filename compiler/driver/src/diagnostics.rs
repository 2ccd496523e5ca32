//! What a command says when it fails: code, title, node, reason, hint; as text or as JSON.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::codes::Code;
pub use crate::codes::Exit;

/// One finding.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnostic {
    /// Code, for example `L0201`.
    pub code: &'static str,
    /// Title of the code.
    pub title: &'static str,
    /// The model's file, for findings about its content.
    pub file: Option<String>,
    /// Name of the ONNX node.
    pub node: Option<String>,
    /// ONNX operator type of the node.
    pub op: Option<String>,
    /// Why, about this very case.
    pub reason: String,
    /// What to do; may be empty.
    pub hint: String,
    /// For an operand that must be constant: names of the graph inputs that it depends on.
    pub inputs: Vec<String>,
    /// What the process returns.
    pub exit: Exit,
}

impl Diagnostic {
    /// A finding with a code of this crate's table.
    pub fn new(code: &'static Code, reason: impl Into<String>) -> Diagnostic {
        Diagnostic {
            code: code.code,
            title: code.title,
            file: None,
            node: None,
            op: None,
            reason: reason.into(),
            hint: String::new(),
            inputs: Vec::new(),
            exit: code.exit,
        }
    }

    /// Adds advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Diagnostic {
        self.hint = hint.into();
        self
    }

    fn is_unsupported(&self) -> bool {
        self.exit == Exit::Unsupported
    }

    /// Text for people; `colour` makes the head bold red.
    pub fn render(&self, colour: bool) -> String {
        let (on, off) = if colour { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
        let mut text = format!("{on}error[{}]{off}: {}", self.code, self.title);
        let mut line = |label: &str, body: &str| {
            // Writing to a string cannot fail.
            let _ = write!(text, "\n  {label}: {}", body.replace('\n', "\n    "));
        };
        if let Some(file) = &self.file {
            line("file", file);
        }
        match (&self.node, &self.op) {
            (Some(node), Some(op)) => line("node", &format!("{node} ({op})")),
            (Some(node), None) => line("node", node),
            (None, Some(op)) => line("operator", op),
            (None, None) => {}
        }
        line("reason", &self.reason);
        if !self.hint.is_empty() {
            line("hint", &self.hint);
        }
        text.push('\n');
        text
    }

    fn json(&self) -> Value {
        json!({
            "code": self.code,
            "message": format!("{}: {}", self.title, self.reason),
            "file": self.file,
            "node": self.node,
            "op": self.op,
            "hint": self.hint,
        })
    }
}

impl From<lacuna_onnx::Diagnostic> for Diagnostic {
    fn from(d: lacuna_onnx::Diagnostic) -> Diagnostic {
        let exit = if d.is_unsupported() { Exit::Unsupported } else { Exit::BadInput };
        let lacuna_onnx::Diagnostic { code, title, node, op, reason, hint, inputs } = d;
        Diagnostic { code, title, file: None, node, op, reason, hint, inputs, exit }
    }
}

/// Why a command failed: at least one diagnostic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failed(pub Vec<Diagnostic>);

impl Failed {
    /// Names the model's file in every finding.
    #[must_use]
    pub fn in_file(mut self, path: &Path) -> Failed {
        for diagnostic in &mut self.0 {
            diagnostic.file = Some(path.display().to_string());
        }
        self
    }

    /// Exit status: bad input before an unsupported model, because it must be put right first. A dimension without a size
    /// does not count where the model is refused for any.
    pub fn exit(&self) -> Exit {
        let refused = self.0.iter().any(Diagnostic::is_unsupported);
        let open = |d: &Diagnostic| refused && d.code == lacuna_onnx::codes::UNBOUND_DIM.code;
        let has = |exit| self.0.iter().any(|d| d.exit == exit && !open(d));
        [Exit::BadInput, Exit::Unsupported, Exit::Internal, Exit::Trap]
            .into_iter()
            .find(|&e| has(e))
            .unwrap_or(Exit::BadInput)
    }

    /// Text for people, with a summary where there are many.
    pub fn render(&self, colour: bool) -> String {
        let mut text: String = self.0.iter().map(|d| d.render(colour)).collect();
        if self.0.len() > 1 {
            let _ = writeln!(text, "{} errors", self.0.len());
        }
        text
    }

    /// `error` is the first finding, `errors` has all, `unsupported` those about legal but unsupported models.
    pub fn json(&self) -> Value {
        let first = self.0.iter().find(|d| d.exit == self.exit()).map(Diagnostic::json);
        let unsupported: Vec<Value> = self
            .0
            .iter()
            .filter(|d| d.is_unsupported())
            .map(|d| json!({ "op": d.op, "node": d.node, "reason": d.reason, "code": d.code }))
            .collect();
        let errors: Vec<Value> = self.0.iter().map(Diagnostic::json).collect();
        json!({ "ok": false, "error": first, "errors": errors, "unsupported": unsupported })
    }
}

impl From<Diagnostic> for Failed {
    fn from(diagnostic: Diagnostic) -> Failed {
        Failed(vec![diagnostic])
    }
}

impl From<Vec<lacuna_onnx::Diagnostic>> for Failed {
    fn from(all: Vec<lacuna_onnx::Diagnostic>) -> Failed {
        Failed(all.into_iter().map(Diagnostic::from).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codes;

    #[test]
    fn text_has_every_part() {
        let mut d = Diagnostic::new(codes::TARGET, "line one\nline two").hint("do this");
        d.node = Some("/conv1".to_owned());
        d.op = Some("Conv".to_owned());
        let expect = format!(
            "error[{}]: {}\n  node: /conv1 (Conv)\n  reason: line one\n    line two\n  hint: do this\n",
            codes::TARGET.code,
            codes::TARGET.title
        );
        assert_eq!(d.render(false), expect);
        assert!(d.render(true).starts_with("\x1b[1;31merror[") && !d.render(false).contains('\x1b'));
    }

    #[test]
    fn bad_input_decides_the_exit_status() {
        let bad = Diagnostic::new(codes::TARGET, "");
        let memory = Diagnostic::new(codes::MEMORY, "");
        assert_eq!(Failed(vec![memory.clone(), bad]).exit(), Exit::BadInput);
        let mut size = Diagnostic::new(codes::TARGET, "");
        size.code = lacuna_onnx::codes::UNBOUND_DIM.code;
        assert_eq!(Failed(vec![size.clone()]).exit(), Exit::BadInput);
        assert_eq!(Failed(vec![size, memory.clone()]).exit(), Exit::Unsupported);
        let internal = Diagnostic::new(codes::INTERNAL, "");
        assert_eq!(Failed(vec![internal]).exit() as u8, 70);
        let failed = Failed(vec![memory]);
        assert_eq!(failed.exit(), Exit::Unsupported);
        assert_eq!(failed.json()["unsupported"].as_array().map(Vec::len), Some(1));
    }
}

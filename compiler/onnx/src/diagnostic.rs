//! What the importer says about a model that it refuses.

use std::fmt;

use crate::codes::Code;

/// One finding. All findings of a model are reported in one run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnostic {
    /// Code, for example `L0201`; see [`crate::codes`].
    pub code: &'static str,
    /// Title of the code.
    pub title: &'static str,
    /// Name of the ONNX node, or of its first output where it has none.
    pub node: Option<String>,
    /// ONNX operator type of the node.
    pub op: Option<String>,
    /// Why, about this very model.
    pub reason: String,
    /// What to do; may be empty.
    pub hint: String,
    /// Inputs of the graph whose values must be known, where that is the reason.
    pub inputs: Vec<String>,
}

impl Diagnostic {
    /// A finding about no node in particular.
    pub fn new(code: Code, reason: impl Into<String>) -> Diagnostic {
        Diagnostic {
            code: code.code,
            title: code.title,
            node: None,
            op: None,
            reason: reason.into(),
            hint: String::new(),
            inputs: Vec::new(),
        }
    }

    /// Adds advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Diagnostic {
        self.hint = hint.into();
        self
    }

    /// Names the node.
    #[must_use]
    pub fn at(mut self, node: &str, op: &str) -> Diagnostic {
        self.node = Some(node.to_owned());
        self.op = Some(op.to_owned());
        self
    }

    /// True where the model is legal but not supported; false where the input or an option is wrong.
    pub fn is_unsupported(&self) -> bool {
        crate::codes::lookup(self.code).is_some_and(|code| code.is_unsupported())
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.title)?;
        if let (Some(node), Some(op)) = (&self.node, &self.op) {
            write!(f, "\n  node: {node} ({op})")?;
        }
        write!(f, "\n  reason: {}", self.reason)?;
        if !self.hint.is_empty() {
            write!(f, "\n  hint: {}", self.hint)?;
        }
        Ok(())
    }
}

/// Why one node was not lowered; the importer adds the node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Fail {
    pub code: Code,
    pub reason: String,
    pub hint: String,
    /// Inputs whose values must be known.
    pub inputs: Vec<String>,
}

impl Fail {
    pub fn new(code: Code, reason: impl Into<String>) -> Fail {
        Fail { code, reason: reason.into(), hint: String::new(), inputs: Vec::new() }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Fail {
        self.hint = hint.into();
        self
    }

    pub fn diagnostic(self) -> Diagnostic {
        Diagnostic { inputs: self.inputs, ..Diagnostic::new(self.code, self.reason).hint(self.hint) }
    }
}

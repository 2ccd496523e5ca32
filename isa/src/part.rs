//! Parts of an object: what a statement of its text stands for, and so what a fault is about.

/// A kind of statement.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Item {
    /// The figures of a target that is not shipped.
    Figures,
    /// A state.
    State,
    /// An ONNX node.
    Origin,
    /// A kernel.
    Kernel,
    /// A parameter of a kernel.
    Param,
    /// A tensor of a kernel.
    Tensor,
    /// A buffer of a kernel.
    Buffer,
    /// A view of a kernel.
    View,
    /// A trip count of a kernel.
    Trip,
    /// A constant of a kernel or program.
    Constant,
    /// An SE program of a kernel.
    Program,
    /// A stream of a program.
    Stream,
    /// An operation in the `init` section of a program.
    Init,
    /// An operation in the `body` section of a program.
    Body,
    /// An operation in the `finish` section of a program.
    Finish,
    /// An entry.
    Entry,
    /// An input of an entry.
    Input,
    /// An output of an entry.
    Output,
    /// A launch of an entry.
    Launch,
    /// A transfer of an entry.
    Transfer,
    /// An instruction of a kernel or entry.
    Inst,
}

impl Item {
    /// What stands before the number of a table entry; empty for statements without a number.
    pub const fn prefix(self) -> &'static str {
        match self {
            Item::Origin => "o",
            Item::Kernel => "k",
            Item::Param => "q",
            Item::Tensor => "r",
            Item::Buffer => "b",
            Item::View => "v",
            Item::Trip => "t",
            Item::Constant => "c",
            Item::Program => "p",
            Item::Stream => "s",
            Item::Entry => "e",
            Item::Launch => "#",
            Item::Transfer => "x",
            Item::Figures
            | Item::State
            | Item::Init
            | Item::Body
            | Item::Finish
            | Item::Input
            | Item::Output
            | Item::Inst => "",
        }
    }
}

/// Deepest nesting: an operation in a program in a kernel.
const DEPTH: usize = 3;

/// A part of an object, from the outside in; by default the object itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Part([Option<(Item, usize)>; DEPTH]);

impl Part {
    /// The item of this number, from 0, in this part.
    #[must_use]
    pub fn within(mut self, item: Item, number: usize) -> Part {
        if let Some(free) = self.0.iter_mut().find(|step| step.is_none()) {
            *free = Some((item, number));
        }
        self
    }

    /// What this part lies in; the object lies in nothing.
    pub fn outer(mut self) -> Option<Part> {
        self.0.iter_mut().rev().find(|step| step.is_some())?.take();
        Some(self)
    }
}

/// A structural fault of an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Flaw {
    /// What it is about.
    pub part: Part,
    /// What is wrong, with its place in words.
    pub text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_lie_in_each_other() {
        let kernel = Part::default().within(Item::Kernel, 2);
        let op = kernel.within(Item::Program, 1).within(Item::Body, 0);
        assert_eq!(op.outer().and_then(Part::outer), Some(kernel));
        assert_eq!((kernel.outer(), Part::default().outer()), (Some(Part::default()), None));
    }
}

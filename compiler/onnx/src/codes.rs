//! Every diagnostic code of the importer: its title, and the long text that `lacuna explain CODE` prints.

/// A code with its documentation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Code {
    /// `L0101` and the like; never reused.
    pub code: &'static str,
    /// One line.
    pub title: &'static str,
    /// What it means, why it happens and what to do.
    pub explanation: &'static str,
}

macro_rules! codes {
    ($($name:ident $code:literal $title:literal $text:literal;)*) => {
        $(
            #[doc = $title]
            pub const $name: Code = Code { code: $code, title: $title, explanation: $text };
        )*
        /// Every code, in order.
        pub const ALL: &[Code] = &[$($name,)*];
    };
}

codes! {
    NOT_ONNX "L0101" "the file is not an ONNX model"
        "The bytes do not decode as an ONNX ModelProto, or decode to a model without a graph. The file may be cut short (a \
         download that stopped, or a Git LFS pointer instead of the file), or have another format. Check its size, and load \
         it with `onnx.checker.check_model`.";
    EMPTY_GRAPH "L0102" "the graph has no outputs"
        "A model that computes nothing cannot be compiled. Files that are not ONNX sometimes decode by luck to such a graph.";
    OPSET "L0103" "the operator set version is not supported"
        "The importer knows versions 1 to 28 of the operator set `ai.onnx`; the model declares another, or none. Convert it \
         with `onnx.version_converter.convert_version(model, 18)`, or export it again with `opset_version=18`.";
    UNDEFINED "L0104" "a value is used before it is defined"
        "There must be an order of the nodes in which each operand is a graph input, an initializer or the result of an earlier \
         node. A name that nothing defines, and a cycle, break this rule.";
    DUPLICATE "L0105" "a name is defined twice"
        "Graph inputs, initializers and node results share one name space in which each name has one definition.";
    BAD_TENSOR "L0106" "a tensor is malformed"
        "The number of bytes or elements of a constant does not fit its shape and element type, its shape is negative or too \
         large, or its data type code is unknown. The file is damaged or was written by a faulty tool.";
    EXTERNAL_DATA "L0107" "external data cannot be read"
        "The elements of a constant are in another file, which is missing, too short, or outside the model's folder. Copy \
         the data files beside the model; their names are in its initializers' `location` entries.";
    UNBOUND_DIM "L0108" "a dimension has no size"
        "Shapes are static when code is emitted. A graph input has a dimension with a name, or without any, that the command \
         line did not bind: give `--dim NAME=N`. A dimension without a name is called INPUT.AXIS, for example \
         `--dim tokens.1=128`. The number of tensors of a sequence is INPUT.length, whether an optional has its element is \
         INPUT.present, and tensor i of a sequence is an input INPUT[i] of its own.";
    INPUT_TYPE "L0109" "the type of a graph input or output is not supported"
        "Graph inputs and outputs are dense tensors of a number type with known rank, sequences of them, or optionals. Maps, \
         strings, complex numbers and sparse tensors are not supported.";
    OPTION "L0110" "an option does not fit the model"
        "A `--dim` names a dimension that no input has, a `--bind` names something that is not an input, or the tensor that \
         it gives has another element type or shape than the input.";
    INVALID_NODE "L0111" "the node is not valid ONNX"
        "The number of operands, an attribute or the operands' types and shapes break the operator's specification. \
         `onnx.checker.check_model(model, full_check=True)` says more.";
    TOO_LARGE "L0112" "a value is too large"
        "A value has more than 2^40 elements or more than 8 dimensions. Such sizes usually come from a damaged file or a \
         wrong `--dim`.";
    STORED_TYPE "L0113" "a tensor's element type is not supported"
        "A constant holds strings or complex numbers, which the compiler has no instructions for.";
    OPERATOR "L0201" "the operator is not supported"
        "The importer has no lowering for this operator type. `lacuna ops` lists those that it has. There is no fallback to \
         the host: every node becomes instructions or the model is refused.";
    DOMAIN "L0202" "the operator's domain is not supported"
        "Operators of the domains that `lacuna ops` lists and functions that the model itself defines are supported. Contrib \
         operators usually come from an optimiser that ran before; export the model without it.";
    OPERATOR_VERSION "L0203" "this version of the operator is not supported"
        "The operator exists in the importer, but not with the meaning that it has in the operator set that the model \
         declares.";
    ATTRIBUTE "L0204" "an attribute value is not supported"
        "The operator is supported, but not with this value of the attribute or this optional operand or result. An attribute \
         or operand that the importer does not read in this place is refused too: it would be ignored, and the results be \
         others than the model means. It may be misspelt, or belong to another version of the operator. Remove it where \
         results do not depend on it.";
    ELEMENT_TYPE "L0205" "the element type is not supported"
        "The operator is supported, but not for operands of this element type.";
    NOT_CONSTANT "L0206" "an operand must be constant"
        "The operand determines a shape or an addressing pattern, and is computed at run time from graph inputs. Bind the \
         input that it depends on with `--bind NAME=FILE`, or its dimensions with `--dim NAME=N`.";
    EXPANSION "L0207" "the model expands to too much"
        "Loops, scans, recurrent layers and functions of the model are expanded in place: a loop becomes its steps. One loop \
         may have 4096 steps, a model may expand to 2^20 nodes, and functions and subgraphs nest 32 deep.";
}

impl Code {
    /// True where the model is legal but not supported; false where the input or an option is wrong.
    pub fn is_unsupported(&self) -> bool {
        self.code.starts_with("L02") || [OPSET, INPUT_TYPE, TOO_LARGE, STORED_TYPE].contains(self)
    }
}

/// The documentation of a code, if it exists.
pub fn lookup(code: &str) -> Option<&'static Code> {
    ALL.iter().find(|c| c.code == code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_ascend() {
        assert!(ALL.windows(2).all(|w| w[0].code < w[1].code));
        assert_eq!(lookup("L0108"), Some(&UNBOUND_DIM));
        assert_eq!(lookup("L9999"), None);
    }
}

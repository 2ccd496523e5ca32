//! The driver's diagnostic codes, and the joint table of all crates that `lacuna explain` reads.

/// Exit status of the process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Exit {
    /// Everything holds.
    Holds = 0,
    /// Outputs differ from the reference.
    Differs = 1,
    /// Bad usage or bad input.
    BadInput = 2,
    /// The model is legal, but not supported, or exceeds the target.
    Unsupported = 3,
    /// The program trapped.
    Trap = 4,
    /// A defect of the compiler (`EX_SOFTWARE` of `sysexits.h`).
    Internal = 70,
}

/// A code of the driver with its documentation.
#[derive(PartialEq, Eq, Debug)]
pub struct Code {
    /// `L0001` and the like; never reused.
    pub code: &'static str,
    /// One line.
    pub title: &'static str,
    /// What it means, why it happens and what to do.
    pub explanation: &'static str,
    /// Exit status that goes with it.
    pub exit: Exit,
}

macro_rules! codes {
    ($($name:ident $code:literal $exit:ident $title:literal $text:literal;)*) => {
        $(
            #[doc = $title]
            pub const $name: &Code = &Code { code: $code, title: $title, explanation: $text, exit: Exit::$exit };
        )*
        /// Every code of the driver, in order.
        pub const DRIVER: &[&Code] = &[$($name,)*];
    };
}

codes! {
    USAGE "L0001" BadInput "the command line is wrong"
        "An argument is missing, unknown or malformed. `lacuna help COMMAND` shows what a command takes.";
    READ "L0002" BadInput "a file cannot be read"
        "The file does not exist, is not a regular file, or may not be read by this user.";
    WRITE "L0003" BadInput "a file cannot be written"
        "The folder does not exist or may not be written to, the disk is full, the output would replace the \
         input, or two outputs have one path. Files are written under another name and renamed at the end, so nothing is left half-written.";
    TARGET "L0004" BadInput "there is no such target"
        "`lacuna targets` lists the targets that this build has.";
    TENSOR_FILE "L0006" BadInput "a tensor file is malformed"
        "Tensors are read from NumPy files (.npy, format 1 to 3; booleans, integers and floats) and from serialised ONNX \
         TensorProto messages (.pb). The file is cut short, has another format, or an element type that tensors have not.";
    NO_INPUT "L0007" BadInput "there is no such input"
        "A name on the command line is not one of the program's inputs, outputs or states, or comes twice. Names are those of the ONNX \
         graph; files of a folder are named as `run --output` and `run --save-state` name them.";
    INPUT "L0008" BadInput "an input does not fit"
        "A tensor's element type or shape differs from that of the program's input. Shapes are fixed when a model is compiled: \
         for another shape, compile again with other `--dim` options.";
    NOT_OBJECT "L0009" BadInput "the file is not a usable object file"
        "The file is no object file of this compiler, was written by another version, is cut short, or was changed after it \
         was written: the file carries its length and a hash of its contents. Compile the model again.";
    LOAD "L0010" BadInput "the object file cannot be loaded"
        "The file is intact, but its tables contradict one another: an instruction refers to a view that does not exist, or a \
         launch reaches beyond memory. The compiler never writes such a file; assembly by hand may.";
    MEMORY "L0011" Unsupported "the target has too little memory for any code of the model"
        "Inputs, outputs and weights alone, these in the narrowest format, exceed the HBM of one chip, so that nothing was compiled: no \
         precision helps, only smaller dimensions (`--dim`) or a target with more memory. Of an object file: its header asks for more HBM \
         or shared SRAM than the target has. L0402 is about memory that a model turns out to need once its code is there.";
    TEST_DATA "L0012" BadInput "the test data is malformed"
        "A test folder holds `model.onnx` and folders `test_data_set_*` with `input_*.pb` and `output_*.pb`. Inputs belong to \
         the graph's inputs by the name in the file, or by order where no input has that name. `labels_0.pb` is int64 and has \
         the shape of the first output without its last dimension.";
    ASSEMBLY "L0013" BadInput "the assembly text is wrong"
        "The text does not follow the grammar, or names something that is not declared. The place is given with the message.";
    REFERENCE "L0014" BadInput "the reference outputs cannot be computed"
        "A model without test data is compared with the IR evaluator on random inputs. The evaluator refused: a value is too \
         large to compute on the host, or an index that comes from a random input is out of range. Give real inputs in a test \
         folder.";
    TRAP "L0015" Trap "the program trapped"
        "The machine stopped at an illegal action: an empty buffer was popped, an access left its tensor, or two processing \
         elements raced. A compiled program traps where an index that it computes, or is given, is out of range: the node says \
         which operator. It is checked so that it never traps otherwise; assembly by hand may.";
    NO_NODE "L0016" BadInput "there is no such node"
        "Nothing at this stage comes from an ONNX node of that name. The optimiser may have removed the node; look at \
         `--stage imported`.";
    STAGE "L0017" BadInput "the file has no such stage"
        "An object file holds instructions only: `--stage machine`. Earlier stages come from the ONNX model.";
    NO_CODE "L0018" BadInput "there is no such code"
        "`lacuna explain` takes a code such as L0201 or the path of an ONNX model.";
    BUDGET "L0019" Unsupported "no choice of formats is within the budget"
        "With `--precision auto`, every choice that was run lost more than the budget allows, or the smallest weights are larger \
         than `--max-bytes`. Even with the model's own formats the bytes of weights have a lower limit, and so has the error of a \
         target without wide formats. Allow more: a lower `--min-sqnr`, a higher `--max-drop` or `--max-bytes`.";
    UNJUDGED "L0020" BadInput "the budget cannot be judged on this data"
        "`--max-drop` counts predictions that change. It needs an output with classes, that is a last dimension of at least 2, and so \
         many samples or positions that one of them is less than the budget: 200 for half a point. Give more data with \
         `--calibrate`, allow more, or bound the error itself with `--min-sqnr`.";
    TARGET_FILE "L0021" BadInput "the figures of a target are wrong"
        "A target's file, or `--set`, has a figure that does not exist, a unit that does not measure it, a value that cannot be, or figures \
         that contradict one another. `lacuna targets new --from NAME -o FILE.toml` writes a whole file to start from; with `base = NAME` \
         a file needs only what differs, and a figure may be text such as \"8 TB/s\".";
    RULE "L0022" BadInput "the program breaks a rule of the machine"
        "A run of the object could trap: a buffer runs empty or over, an access leaves its tensor, two PEs conflict, an output is not \
         complete. The compiler writes no such object; one that was assembled by hand may be. docs/checker.md has the rules.";
    NOT_A_FILE "L0023" BadInput "the file is neither a model nor an object file"
        "ONNX models are protobuf messages with a graph, object files are ELF files that `lacuna compile` or `lacuna asm` wrote. The file \
         has another format, or is cut short.";
    HOST_MEMORY "L0024" BadInput "this computer has too little memory"
        "The interpreter holds the memory of the chip that the program uses, HBM and shared SRAM, in the memory of this computer. The \
         program needs more than is free. Compile for a smaller batch (`--dim`); `profile` needs none of it.";
    STATE "L0025" BadInput "a state cannot be kept"
        "`--state INPUT=OUTPUT` makes an input and an output of the model one tensor that stays in device memory from one run to the next. \
         Both must exist, have the same element type and shape, and belong to no other state; `*` stands for any part of a name, the \
         same on both sides. Entries that are linked into one object must give a state of one name one type.";
    ENTRY "L0026" BadInput "there is no such entry"
        "An object file has one entry for each model that was compiled into it; `lacuna info FILE.lac` lists them. Two entries cannot have \
         one name.";
    INTERNAL "L0090" Internal "the compiler contradicts itself"
        "A pass made something that the next one, or the verifier between them, refuses. This is a defect of the compiler, \
         not of the model. No output was written. Please report it with the model.";
}

/// Code, title and explanation of every diagnostic of every crate, in order of the codes.
pub fn all() -> Vec<(&'static str, &'static str, &'static str)> {
    let driver = DRIVER.iter().map(|c| (c.code, c.title, c.explanation));
    let onnx = lacuna_onnx::codes::ALL.iter().map(|c| (c.code, c.title, c.explanation));
    let codegen = lacuna_codegen::CODES.iter().copied();
    let mut all: Vec<_> = driver.chain(onnx).chain(codegen).collect();
    all.sort_by_key(|(code, ..)| *code);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_explained() {
        let all = all();
        assert!(all.windows(2).all(|w| w[0].0 < w[1].0));
        for (code, title, explanation) in all {
            assert!(code.len() == 5 && code.starts_with('L'), "{code}");
            assert!(!title.is_empty() && explanation.len() > 40, "{code}");
        }
    }
}

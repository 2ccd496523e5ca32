//! The reference page of the instruction set, from the tables' own documentation.

use std::fmt::Write;

use crate::encode::{FieldSpec, RowSpec};
use crate::field::Style;
use crate::inst::InstKind;
use crate::program::SeOp;

const HEAD: &str = "\
# Instruction set

This page is generated from the tables of `lacuna-isa`. It says what a program means; [Numerics](numerics.md) says what each
operation computes, to the last bit.

";

const WORDS: &str = "
## Instruction words

An instruction is 128 bits, little endian: opcode (bits 0-7), flags (8-15, of which 8-9 hold the software-pipeline
stage), immediate (16-31) and four operands of 24 bits. Bits that no field covers are 0. In text, the stage follows the
mnemonic (`ld.s1`); positional arguments come in the order of the table, keyed ones as `name=value`, left out when they
have their default.

An operand (24 bits: buffer 6, delta 4, action 2, view 12) is written `b0+:v3`: buffer 0, pushed, with view 3. Actions are `+` push, `-` pop, `!` update, and none for a
read; `[2]` behind the action names the slot two behind the head.
";

const MACHINE: &str = include_str!("reference/machine.md");

const KINDS: &str = "
## Field kinds

| kind | bits | text |
|---|---|---|
| Source, Dest, Fresh | 24 | an operand in local memory that is read or popped, pushed or updated, pushed |
| BankSource, BankDest, BankChange | 24 | an operand in an accumulator bank that is read or popped, pushed or updated, updated |
| AnySource | 24 | an operand in either that is read or popped |
| GlobalSource, GlobalDest | 12 | `v0`: the view of a tensor that is read, written |
| BufferIdx, TripIdx, ProgramIdx, ConstIdx, LaunchIdx | 6, 16, 16, 16, 16 | `b0`, `t0`, `p0`, `c0`, `#0` |
| ParamIdx, EventIdx, TransferIdx | 4, 6, 16 | `q0`, `e0`, `x0` |
| Level, Stages, SlotCount, DimIdx, Count | 2, 3, 16, 3, 16 | `l0`, `stages=2`, `n=1`, `dim=0`, `k=1` |
| Engine | 3 | `cp`, `fi.load`, `fi.store`, `mlu`, `dpe`, `re`, `se`, `me` |
| MaskCode | 2 | `bitmap` (default), `nibble`, `rows` |
| Combine | 3 | `replace` (default), `add`, `mul`, `min`, `max` |
| Share | 1 | `all` (default), `part` |
| Extreme | 1 | `max`, `min` |
| Multicast | 2 | `none` (default), `row`, `col`, `all` |
| Fill | 2 | `zero` (default), `least`, `greatest`, `one` |
| Order | 1 | `kn` (default), `nk` |
| Reg, StreamIdx, AccIdx | 6, 3, 3 | `r0`, `s0`, `a0` |
| Lane | 2 | `f32`, `f64`, `i32`, `i64` |
| SeUnary, SeBinary, SeReduce, ScalarCode | 8, 8, 2, 8 | the function's or scalar type's name |
| Flag | 1 | `true`, `false` (default) |
";

const SE_HEAD: &str = "
## Operations of SE programs

An operation is 64 bits: opcode (bits 0-7), lanes and functions (8-31), registers (32-55) and the number of a stream,
accumulator or dimension (56-58). Suffixes of the mnemonic come in the order of the table: `unary.exp.f32 r1, r0`.
";

/// The page, in Markdown.
pub fn reference() -> String {
    let mut out = HEAD.to_owned();
    out.push_str(MACHINE);
    out.push_str(WORDS);
    out.push_str(KINDS);
    out.push_str("\n## Instructions\n");
    table(InstKind::ROWS, &mut out);
    for row in InstKind::ROWS {
        entry(row, &mut out);
    }
    out.push_str(SE_HEAD);
    for row in SeOp::ROWS {
        entry(row, &mut out);
    }
    out
}

// Writing to a String cannot fail, so the results of `write!` carry nothing.

fn table(rows: &[RowSpec], out: &mut String) {
    out.push_str("\n| opcode | mnemonic | engine |\n|---|---|---|\n");
    for RowSpec { opcode, mnemonic, engine, .. } in rows {
        let _ = writeln!(out, "| {opcode:#04x} | [`{mnemonic}`](#{mnemonic}) | {} |", engine.name());
    }
}

fn entry(row: &RowSpec, out: &mut String) {
    let _ = write!(out, "\n### {}\n\n", row.mnemonic);
    for line in row.doc {
        let _ = writeln!(out, "{}", line.trim());
    }
    let _ = write!(out, "\n`{}`, opcode {:#04x}, engine {}\n", row.syntax(), row.opcode, row.engine.name());
    if row.fields.is_empty() {
        return;
    }
    out.push_str("\n| field | kind | bits | text |\n|---|---|---|---|\n");
    for FieldSpec { name, kind, bit, width, style } in row.fields {
        let style = match style {
            Style::Suffix => "suffix",
            Style::Positional => "positional",
            Style::Keyed => "keyed",
        };
        let bits = match width {
            1 => bit.to_string(),
            _ => format!("{bit}-{}", bit + width - 1),
        };
        let _ = writeln!(out, "| {name} | {kind} | {bits} | {style} |");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::{Field, SeBinary, SeReduce, SeUnary};

    /// With `BLESS` in the environment, the test writes the page instead of comparing it.
    #[test]
    fn the_committed_page_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/isa.md");
        let page = reference();
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(path, &page).unwrap();
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(committed == page, "docs/isa.md is out of date: run this test with BLESS=1");
    }

    #[test]
    fn every_function_of_se_programs_is_explained() {
        let rows: Vec<&str> = MACHINE.lines().filter(|l| l.starts_with("| ")).collect();
        let explained: Vec<&str> = rows
            .iter()
            .filter_map(|l| l.split('|').nth(1))
            .flat_map(|l| l.split(','))
            .map(str::trim)
            .collect();
        let names = |f: &dyn Fn(u32) -> Option<String>| (0..256).filter_map(f).collect::<Vec<String>>();
        fn text<F: Field>(bits: u32) -> Option<String> {
            let mut out = String::new();
            F::print(F::from_bits(bits)?, &mut out);
            Some(out)
        }
        let functions =
            [names(&text::<SeUnary>), names(&text::<SeBinary>), names(&text::<SeReduce>)].concat();
        let missing: Vec<&String> =
            functions.iter().filter(|name| !explained.contains(&name.as_str())).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn the_example_is_a_legal_object() {
        let text = MACHINE.split("```").nth(1).unwrap();
        let object = crate::asm::assemble(text).unwrap();
        assert_eq!(object.validate(), Vec::<String>::new());
        let again: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
        let printed = crate::disasm::disassemble(&object);
        let printed: Vec<&str> = printed
            .lines()
            .map(|l| l.split("  ;").next().unwrap_or(l).trim())
            .filter(|l| !l.is_empty())
            .collect();
        assert_eq!(again, printed);
    }

    #[test]
    fn every_row_has_documentation() {
        for row in InstKind::ROWS.iter().chain(SeOp::ROWS) {
            assert!(row.doc.iter().any(|line| line.len() > 10), "{}", row.mnemonic);
        }
    }
}

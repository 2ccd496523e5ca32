//! The text form of the tiled stage: what each launch computes, its grid, loops, buffers and operands.

use std::fmt::Write;

use lacuna_ir::Module;
use lacuna_isa::inst::InstKind;
use lacuna_isa::object::{BufferKind, Kernel};
use lacuna_isa::view::{Space, View};

use crate::lower::Lowering;
use crate::place::{Packing, StorageKind};

/// Prints every launch, and every kernel once.
pub fn print(lowering: &Lowering, module: &Module) -> String {
    let mut text = String::new();
    for (number, kernel) in lowering.kernels.iter().enumerate() {
        print_kernel(&mut text, number, kernel);
    }
    for (number, launch) in lowering.launches.iter().enumerate() {
        let name = lowering.kernels.get_index(launch.kernel).map_or("?", |k| k.name.as_str());
        let nodes: Vec<&str> = launch.origins.iter().map(|&o| module.origins[o].node.as_str()).collect();
        let bases: Vec<String> = launch
            .bases
            .iter()
            .map(|&(s, offset)| {
                let storage = &lowering.storages[s];
                let kind = match &storage.kind {
                    StorageKind::Const(c, Packing::Plain) => format!("{c}"),
                    StorageKind::Const(c, Packing::Panels(panels)) => format!("{c}:{panels}"),
                    StorageKind::Const(c, Packing::Blocks { panels, tiles }) => {
                        format!("{c}:{panels} in blocks of {}", tiles.k)
                    }
                    StorageKind::Const(c, Packing::Flags { k, .. }) => format!("{c}:flags of {k}"),
                    StorageKind::Input(i) => format!("input {i}"),
                    StorageKind::Output(i) => format!("output {i}"),
                    StorageKind::Temp => format!("{s}"),
                };
                if offset == 0 { kind } else { format!("{kind}+{offset}") }
            })
            .collect();
        let _ = writeln!(
            text,
            "launch {number} = kernel {} {name}({}) ; {}",
            launch.kernel,
            bases.join(", "),
            nodes.join(", ")
        );
    }
    text
}

fn print_kernel(text: &mut String, number: usize, kernel: &Kernel) {
    let grid: Vec<String> = kernel.grid.iter().map(u16::to_string).collect();
    let _ = writeln!(text, "kernel {number} {} grid {} {{", kernel.name, grid.join("x"));
    for (i, b) in kernel.buffers.iter().enumerate() {
        let kind = match b.kind {
            BufferKind::Local => "local",
            BufferKind::Bank => "bank",
        };
        let _ = writeln!(text, "  buffer b{i} {} {kind} {} bytes x {}", b.name, b.slot_bytes, b.slots);
    }
    let mut indent = 1;
    for inst in &kernel.code {
        if matches!(inst.kind, InstKind::End {}) {
            indent -= 1;
        }
        let pad = "  ".repeat(indent);
        let _ = write!(text, "{pad}");
        let view = |v: u16| kernel.views.get(v as usize).map_or_else(String::new, boxed);
        let _ = match &inst.kind {
            InstKind::Loop { trip, level, .. } => {
                let n = kernel.trips.get(*trip as usize).map_or(0, |t| t.max);
                writeln!(text, "for l{level} in 0..{n} {{")
            }
            InstKind::End {} => writeln!(text, "}}"),
            InstKind::Ld { dst, src, cast, .. } => {
                writeln!(text, "b{} = load {} {cast:?}", dst.buffer, view(*src))
            }
            InstKind::St { src, dst } => writeln!(text, "store {} = b{}", view(*dst), src.buffer),
            InstKind::Gather { dst, src, idx, .. } => {
                writeln!(text, "b{} = gather {} by b{}", dst.buffer, view(*src), idx.buffer)
            }
            InstKind::Mm { bank, a, b, .. } | InstKind::Mmnm { bank, a, b, .. } => writeln!(
                text,
                "b{} += {} b{} {} * b{} {}",
                bank.buffer,
                inst.kind.mnemonic(),
                a.buffer,
                view(a.view),
                b.buffer,
                view(b.view)
            ),
            InstKind::Run { program } => {
                let program = kernel.programs.get(*program as usize);
                let name = program.map_or("?", |p| p.name.as_str());
                let streams: Vec<String> = program
                    .iter()
                    .flat_map(|p| &p.streams)
                    .map(|s| format!("b{}:{:?}", s.operand.buffer, s.operand.action))
                    .collect();
                writeln!(text, "run {name}({})", streams.join(", "))
            }
            other => writeln!(text, "{}", other.mnemonic()),
        };
        if matches!(inst.kind, InstKind::Loop { .. }) {
            indent += 1;
        }
    }
    let _ = writeln!(text, "}}");
}

/// A view as `format[size*stride, ..]`, unit dimensions left out.
fn boxed(view: &View) -> String {
    let dims: Vec<String> =
        view.dims.iter().filter(|d| d.size != 1).map(|d| format!("{}*{}", d.size, d.stride)).collect();
    let base = match view.space {
        Space::Local => String::new(),
        Space::Global(r) => format!("r{r} "),
    };
    format!("{base}{}[{}]", view.format, dims.join(", "))
}

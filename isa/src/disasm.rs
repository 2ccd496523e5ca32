//! The text form of an object. [`assemble`](crate::asm::assemble) turns it back into the same object, and so into the same
//! bytes.
//!
//! Everything is written: tables, programs, streams, signatures and provenance, and the weights as lines of 64 bytes with
//! runs folded. Comments, from `;` to the end of the line, say where launches come from; they carry no meaning.

use std::fmt::Write;

use crate::field::Field;
use crate::inst::{Combine, Inst, InstKind, Operand};
use crate::object::{
    Access, Address, BufferKind, EntryPoint, Kernel, MemSpace, Object, ParamTerm, Port, Transfer, Trip,
};
use crate::program::{Program, SeOp};
use crate::view::{Advance, Dim, LOOP_LEVELS, PE_COORDS, Shift, Space, View};

/// Bytes of weights in one line.
pub(crate) const WEIGHT_LINE_BYTES: usize = 64;

/// What a text holds beside tables and streams.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Weights {
    /// The bytes: the text assembles on its own.
    Full,
    /// Only their number: assembling needs the bytes from elsewhere.
    Elided,
}

/// The text of an object, weights included.
pub fn disassemble(object: &Object) -> String {
    print_object(object, Weights::Full)
}

/// The text of an object, with or without the bytes of the weights.
pub fn print_object(object: &Object, weights: Weights) -> String {
    let Object {
        name,
        target,
        target_file,
        kernels,
        entries,
        states,
        origins,
        hbm_bytes,
        sram_bytes,
        weights: blob,
    } = object;
    let mut p = Printer { out: String::new() };
    p.line(
        0,
        format_args!("object {} target {} hbm {hbm_bytes} sram {sram_bytes}", quoted(name), quoted(target)),
    );
    if !target_file.is_empty() {
        // A line of the target's file is one of the text.
        p.line(0, format_args!("figures {{"));
        for line in target_file.split('\n') {
            p.line(1, format_args!("{}", quoted(line)));
        }
        p.line(0, format_args!("}}"));
    }
    if !states.is_empty() {
        p.out.push('\n');
    }
    for state in states {
        p.port(0, "state", state);
    }
    if !origins.is_empty() {
        p.out.push('\n');
    }
    for (i, origin) in origins.iter().enumerate() {
        p.line(0, format_args!("origin o{i} {} {}", quoted(&origin.node), quoted(&origin.op)));
    }
    for (i, kernel) in kernels.iter().enumerate() {
        p.out.push('\n');
        p.kernel(i, kernel);
    }
    for (i, entry) in entries.iter().enumerate() {
        p.out.push('\n');
        p.entry(i, entry, object);
    }
    p.out.push('\n');
    match weights {
        Weights::Full => p.weights(blob.bytes()),
        Weights::Elided => p.line(0, format_args!("weights {} elided", blob.bytes().len())),
    }
    p.out
}

/// The text of one kernel, with its number.
pub fn print_kernel(number: usize, kernel: &Kernel) -> String {
    let mut p = Printer { out: String::new() };
    p.kernel(number, kernel);
    p.out
}

/// A name in quotes; quotes, backslashes and control characters are escaped.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

pub(crate) const fn space_name(space: MemSpace) -> &'static str {
    match space {
        MemSpace::Weights => "weights",
        MemSpace::Hbm => "hbm",
        MemSpace::Sram => "sram",
    }
}

pub(crate) const fn access_name(access: Access) -> &'static str {
    match access {
        Access::In => "in",
        Access::Out => "out",
        Access::InOut => "inout",
    }
}

pub(crate) const fn kind_name(kind: BufferKind) -> &'static str {
    match kind {
        BufferKind::Local => "local",
        BufferKind::Bank => "bank",
    }
}

fn address(address: Address) -> String {
    format!("{}:{}", space_name(address.space), address.offset)
}

/// `size:stride`, then `@origin` unless 0, then `<bound` unless free.
fn dim(dim: &Dim) -> String {
    let Dim { size, stride, origin, bound } = dim;
    let mut out = format!("{size}:{stride}");
    if *origin != 0 {
        let _ = write!(out, "@{origin}");
    }
    if *bound != u32::MAX {
        let _ = write!(out, "<{bound}");
    }
    out
}

fn numbers<T: ToString>(items: &[T], between: &str) -> String {
    items.iter().map(T::to_string).collect::<Vec<String>>().join(between)
}

struct Printer {
    out: String,
}

impl Printer {
    fn line(&mut self, indent: usize, text: std::fmt::Arguments<'_>) {
        self.indent(indent);
        // Writing to a String cannot fail.
        let _ = self.out.write_fmt(text);
        self.out.push('\n');
    }

    fn indent(&mut self, indent: usize) {
        for _ in 0..indent {
            self.out.push_str("  ");
        }
    }

    fn kernel(&mut self, number: usize, kernel: &Kernel) {
        let Kernel { name, grid, params, tensors, buffers, views, trips, programs, constants, code } = kernel;
        self.line(0, format_args!("kernel k{number} {} grid {} {{", quoted(name), numbers(grid, "x")));
        for (i, p) in params.iter().enumerate() {
            self.line(1, format_args!("param q{i} {} from {} to {}", quoted(&p.name), p.lo, p.hi));
        }
        for (i, t) in tensors.iter().enumerate() {
            let (access, planes) = (access_name(t.access), numbers(&t.planes, " "));
            self.line(1, format_args!("tensor r{i} {access} bytes {} planes {planes}", t.bytes));
        }
        for (i, b) in buffers.iter().enumerate() {
            let (name, kind) = (quoted(&b.name), kind_name(b.kind));
            self.line(1, format_args!("buffer b{i} {name} {kind} {} x {}", b.slot_bytes, b.slots));
        }
        for (i, view) in views.iter().enumerate() {
            self.view(i, view);
        }
        for (i, trip) in trips.iter().enumerate() {
            self.trip(i, trip);
        }
        self.constants(1, constants);
        for (i, program) in programs.iter().enumerate() {
            self.program(i, program);
        }
        self.line(1, format_args!("code:"));
        self.code(code);
        self.line(0, format_args!("}}"));
    }

    fn view(&mut self, number: usize, view: &View) {
        let View { format, pattern, k_dim, space, offset, dims, levels, coords, shift } = view;
        let mut text = format!("view v{number} {format}");
        if let Some(pattern) = pattern {
            let _ = write!(text, " {pattern}");
        }
        match space {
            Space::Local => text.push_str(" local"),
            Space::Global(base) => {
                let _ = write!(text, " global r{base}");
            }
        }
        let dims: Vec<String> = dims.iter().map(dim).collect();
        let _ = write!(text, " k{k_dim} offset {offset} ({})", dims.join(", "));
        for (prefix, advances) in [("l", levels), ("p", coords)] {
            for (i, advance) in advances.iter().enumerate() {
                if let Some(Advance { dim, step }) = advance {
                    let _ = write!(text, " {prefix}{i}:d{dim}{step:+}");
                }
            }
        }
        if let Some(Shift { param, dim, origin, bound }) = shift {
            let _ = write!(text, " q{param}:d{dim}{origin:+}<{bound:+}");
        }
        self.line(1, format_args!("{text}"));
    }

    fn trip(&mut self, number: usize, trip: &Trip) {
        let Trip { base, levels, coords, param, max } = trip;
        let mut text = format!("trip t{number} {base} max {max}");
        let factors = levels.iter().enumerate().map(|(i, f)| ("l", i, f));
        for (prefix, i, factor) in factors.chain(coords.iter().enumerate().map(|(i, f)| ("p", i, f))) {
            if *factor != 0 {
                let _ = write!(text, " {prefix}{i}*{factor}");
            }
        }
        if let Some(ParamTerm { param, factor, divisor }) = param {
            let _ = write!(text, " q{param}*{factor}/{divisor}");
        }
        self.line(1, format_args!("{text}"));
    }

    fn constants(&mut self, indent: usize, constants: &[u64]) {
        for (i, constant) in constants.iter().enumerate() {
            self.line(indent, format_args!("constant c{i} {constant:#x}"));
        }
    }

    fn program(&mut self, number: usize, program: &Program) {
        let Program { name, domain, parallel, streams, constants, init, body, finish } = program;
        let name = quoted(name);
        self.line(1, format_args!("program p{number} {name} domain v{domain} parallel {parallel} {{"));
        for (i, stream) in streams.iter().enumerate() {
            let mut operand = String::new();
            <Operand as Field>::print(stream.operand, &mut operand);
            self.line(2, format_args!("stream s{i} {operand} {}", stream.mode));
        }
        self.constants(2, constants);
        self.ops("init", init);
        self.ops("body", body);
        self.ops("finish", finish);
        self.line(1, format_args!("}}"));
    }

    fn ops(&mut self, section: &str, ops: &[SeOp]) {
        if ops.is_empty() {
            return;
        }
        self.line(2, format_args!("{section}:"));
        for op in ops {
            self.indent(3);
            op.print(&mut self.out);
            self.out.push('\n');
        }
    }

    fn code(&mut self, code: &[Inst]) {
        let mut depth = 2usize;
        for inst in code {
            if inst.kind == (InstKind::End {}) {
                depth = depth.saturating_sub(1).max(2);
            }
            self.indent(depth.min(8));
            inst.print(&mut self.out);
            self.out.push('\n');
            if let InstKind::Loop { .. } = inst.kind {
                depth += 1;
            }
        }
    }

    fn port(&mut self, depth: usize, keyword: &str, port: &Port) {
        let Port { name, elem, shape, address: at } = port;
        let (name, shape, at) = (quoted(name), numbers(shape, ", "), address(*at));
        self.line(depth, format_args!("{keyword} {name} {elem} ({shape}) {at}"));
    }

    fn entry(&mut self, number: usize, entry: &EntryPoint, object: &Object) {
        let EntryPoint { name, ranks, inputs, outputs, launches, transfers, code } = entry;
        self.line(0, format_args!("entry e{number} {} {{", quoted(name)));
        if *ranks != 1 {
            self.line(1, format_args!("ranks {ranks}"));
        }
        for port in inputs {
            self.port(1, "input", port);
        }
        for port in outputs {
            self.port(1, "output", port);
        }
        for (i, launch) in launches.iter().enumerate() {
            let mut text = format!("launch #{i} k{} (", launch.kernel);
            let bases: Vec<String> = launch.bases.iter().map(|&a| address(a)).collect();
            let _ = write!(text, "{})", bases.join(", "));
            if !launch.params.is_empty() {
                let _ = write!(text, " with ({})", numbers(&launch.params, ", "));
            }
            if launch.macs > 0 {
                let _ = write!(text, " macs {}", launch.macs);
            }
            for origin in &launch.origins {
                let _ = write!(text, " o{origin}");
            }
            let kernel = object.kernels.get(launch.kernel as usize);
            let origins = launch.origins.iter().filter_map(|&o| object.origins.get(o as usize));
            if let Some(kernel) = kernel {
                let _ = write!(text, "  ; {}", quoted(&kernel.name));
            }
            for origin in origins.take(4) {
                let _ = write!(text, "  ; {} {}", quoted(&origin.op), quoted(&origin.node));
            }
            self.line(1, format_args!("{text}"));
        }
        for (i, transfer) in transfers.iter().enumerate() {
            let Transfer { src, dst, elem, elements, combine, peer } = transfer;
            let (src, dst) = (address(*src), address(*dst));
            let mut how = String::new();
            <Combine as Field>::print(*combine, &mut how);
            self.line(1, format_args!("transfer x{i} {src} {dst} {elem} x {elements} {how} peer {peer}"));
        }
        self.line(1, format_args!("code:"));
        self.code(code);
        self.line(0, format_args!("}}"));
    }

    fn weights(&mut self, bytes: &[u8]) {
        self.out.reserve(bytes.len() * 2 + bytes.len() / 16);
        self.line(0, format_args!("weights {} {{", bytes.len()));
        let mut rest = bytes;
        while !rest.is_empty() {
            let (line, _) = rest.split_at(rest.len().min(WEIGHT_LINE_BYTES));
            let n_equal = rest.chunks_exact(line.len()).take_while(|chunk| *chunk == line).count();
            self.out.push_str("  ");
            if line.iter().all(|b| *b == line[0]) {
                let _ = write!(self.out, "repeat {} ", n_equal * line.len());
                self.hex(&line[..1]);
            } else {
                if n_equal > 1 {
                    let _ = write!(self.out, "repeat {n_equal} ");
                }
                self.hex(line);
            }
            self.out.push('\n');
            rest = &rest[n_equal * line.len()..];
        }
        self.line(0, format_args!("}}"));
    }

    fn hex(&mut self, bytes: &[u8]) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        for byte in bytes {
            self.out.push(char::from(DIGITS[usize::from(byte >> 4)]));
            self.out.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
}

// The loops over levels and coordinates above rely on both having the same length.
const _: () = assert!(LOOP_LEVELS == PE_COORDS);

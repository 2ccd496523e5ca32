//! The statements of objects, kernels and entries.

use super::code;
use super::cursor::{Cursor, Parsed};
use super::lexer::Token;
use super::{Fault, MAX_WEIGHT_BYTES};
use crate::blob::Blob;
use crate::disasm::{access_name, kind_name, space_name};
use crate::field::Field;
use crate::format::{Format, ScalarType};
use crate::inst::Combine;
use crate::nearest::nearest;
use crate::object::{
    Access, Address, Buffer, BufferKind, EntryPoint, Kernel, Launch, MemSpace, Object, ObjectOrigin, Param,
    ParamTerm, Port, TensorDecl, Transfer, Trip,
};
use crate::part::{Item, Part};
use crate::view::{Advance, Dim, Pattern, Shift, Space, VIEW_DIMS, View};

const ACCESSES: [(&str, Access); 3] = [
    (access_name(Access::In), Access::In),
    (access_name(Access::Out), Access::Out),
    (access_name(Access::InOut), Access::InOut),
];
const KINDS: [(&str, BufferKind); 2] =
    [(kind_name(BufferKind::Local), BufferKind::Local), (kind_name(BufferKind::Bank), BufferKind::Bank)];
const SPACES: [MemSpace; 3] = [MemSpace::Weights, MemSpace::Hbm, MemSpace::Sram];

fn unknown<T>(c: &Cursor<'_>, what: &str, keywords: &[&str]) -> Parsed<T> {
    let hint = c.peek_word().and_then(|word| nearest(word, keywords.iter().copied()));
    let message = format!("expected {what}: {}", keywords.join(", "));
    Err(Fault { span: c.span(), message, hint })
}

/// The whole text. Faults are in the cursor; the object is of use only when there are none.
pub(super) fn object(c: &mut Cursor<'_>, weights: Option<Blob>) -> Object {
    let mut object = Object::default();
    let mut n_objects = 0;
    let mut n_weights = 0;
    while !c.at_end() {
        if c.eat(Token::Newline) {
            continue;
        }
        c.part = Part::default();
        let statement = match c.peek_word() {
            Some("object") => {
                n_objects += 1;
                c.starts.push((c.part, c.span().start));
                header(c, &mut object)
            }
            Some("figures") => figures(c, &mut object),
            Some("state") => {
                c.mark(Item::State, object.states.len());
                port(c).map(|state| object.states.push(state))
            }
            Some("origin") => origin(c, &mut object),
            Some("kernel") => kernel(c, object.kernels.len()).map(|k| object.kernels.push(k)),
            Some("entry") => entry(c, object.entries.len()).map(|e| object.entries.push(e)),
            Some("weights") => {
                n_weights += 1;
                self::weights(c, weights.as_ref()).map(|blob| object.weights = blob)
            }
            _ => {
                let keywords = ["object", "figures", "state", "origin", "kernel", "entry", "weights"];
                unknown(c, "a statement", &keywords)
            }
        };
        if let Err(fault) = statement.and_then(|()| c.end_line()) {
            c.recover(fault);
        }
    }
    for (n, what) in [(n_objects, "object"), (n_weights, "weights")] {
        if n != 1 {
            let message = format!("{n} `{what}` statements; there must be one");
            c.report(Fault { span: c.span(), message, hint: None });
        }
    }
    object
}

fn header(c: &mut Cursor<'_>, object: &mut Object) -> Parsed<()> {
    c.keyword("object")?;
    object.name = c.name()?;
    c.keyword("target")?;
    object.target = c.name()?;
    c.keyword("hbm")?;
    object.hbm_bytes = c.number()?;
    c.keyword("sram")?;
    object.sram_bytes = c.number()?;
    Ok(())
}

/// The target file, in one name or in one for each line.
fn figures(c: &mut Cursor<'_>, object: &mut Object) -> Parsed<()> {
    c.mark(Item::Figures, 0);
    c.keyword("figures")?;
    if !c.at(Token::Open) {
        object.target_file = c.name()?;
        return Ok(());
    }
    let mut lines = Vec::new();
    c.block(|c| {
        lines.push(c.name()?);
        Ok(())
    })?;
    object.target_file = lines.join("\n");
    Ok(())
}

fn origin(c: &mut Cursor<'_>, object: &mut Object) -> Parsed<()> {
    c.keyword("origin")?;
    c.entry_number(Item::Origin, object.origins.len())?;
    object.origins.push(ObjectOrigin { node: c.name()?, op: c.name()? });
    Ok(())
}

fn kernel(c: &mut Cursor<'_>, number: usize) -> Parsed<Kernel> {
    c.keyword("kernel")?;
    c.entry_number(Item::Kernel, number)?;
    c.part = c.part.within(Item::Kernel, number);
    let mut kernel = Kernel { name: c.name()?, ..Kernel::default() };
    c.keyword("grid")?;
    kernel.grid = c.parsed("a grid of four sizes, like 12x1x6x1", |word| {
        let mut sizes = word.split('x').map(|n| n.parse().ok());
        let grid = [sizes.next()??, sizes.next()??, sizes.next()??, sizes.next()??];
        sizes.next().is_none().then_some(grid)
    })?;
    let mut in_code = false;
    c.block(|c| {
        if in_code {
            c.mark(Item::Inst, kernel.code.len());
            kernel.code.push(code::inst(c)?);
            return Ok(());
        }
        match c.peek_word() {
            Some("param") => kernel.params.push(param(c, kernel.params.len())?),
            Some("tensor") => kernel.tensors.push(tensor(c, kernel.tensors.len())?),
            Some("buffer") => kernel.buffers.push(buffer(c, kernel.buffers.len())?),
            Some("view") => kernel.views.push(view(c, kernel.views.len())?),
            Some("trip") => kernel.trips.push(trip(c, kernel.trips.len())?),
            Some("constant") => kernel.constants.push(code::constant(c, kernel.constants.len())?),
            Some("program") => {
                c.keyword("program")?;
                kernel.programs.push(code::program(c, kernel.programs.len())?);
            }
            Some("code:") => {
                c.keyword("code:")?;
                in_code = true;
            }
            _ => {
                let keywords = ["param", "tensor", "buffer", "view", "trip", "constant", "program", "code:"];
                return unknown(c, "a part of a kernel", &keywords);
            }
        }
        Ok(())
    })?;
    Ok(kernel)
}

fn param(c: &mut Cursor<'_>, number: usize) -> Parsed<Param> {
    c.keyword("param")?;
    c.entry_number(Item::Param, number)?;
    let name = c.name()?;
    c.keyword("from")?;
    let lo = c.number()?;
    c.keyword("to")?;
    Ok(Param { name, lo, hi: c.number()? })
}

fn tensor(c: &mut Cursor<'_>, number: usize) -> Parsed<TensorDecl> {
    c.keyword("tensor")?;
    c.entry_number(Item::Tensor, number)?;
    let access = c.choice("an access", &ACCESSES)?;
    c.keyword("bytes")?;
    let bytes = c.number()?;
    c.keyword("planes")?;
    Ok(TensorDecl { access, bytes, planes: [c.number()?, c.number()?, c.number()?] })
}

fn buffer(c: &mut Cursor<'_>, number: usize) -> Parsed<Buffer> {
    c.keyword("buffer")?;
    c.entry_number(Item::Buffer, number)?;
    let name = c.name()?;
    let kind = c.choice("a kind of buffer", &KINDS)?;
    let slot_bytes = c.number()?;
    c.keyword("x")?;
    Ok(Buffer { name, kind, slot_bytes, slots: c.number()? })
}

/// The number of a loop level or PE coordinate in `l0:..` or `p0*..`, and what follows `separator`.
fn axis(word: &str, separator: char) -> Option<(bool, usize, &str)> {
    let (axis, rest) = word.split_once(separator)?;
    let (is_level, digit) = match axis.strip_prefix('l') {
        Some(digit) => (true, digit),
        None => (false, axis.strip_prefix('p')?),
    };
    let i: usize = crate::field::number(digit)?;
    (i < 4).then_some((is_level, i, rest))
}

fn trip(c: &mut Cursor<'_>, number: usize) -> Parsed<Trip> {
    c.keyword("trip")?;
    c.entry_number(Item::Trip, number)?;
    let base = c.number()?;
    c.keyword("max")?;
    let mut trip = Trip { base, max: c.number()?, ..Trip::default() };
    while c.in_line() {
        if let Some(term) = c.peek_word().and_then(param_term) {
            c.word()?;
            trip.param = Some(term);
            continue;
        }
        let (is_level, i, factor) = c.parsed("a factor like l0*2, p1*-3 or q0*1/8", |word| {
            let (is_level, i, factor) = axis(word, '*')?;
            Some((is_level, i, factor.parse().ok()?))
        })?;
        if is_level {
            trip.levels[i] = factor;
        } else {
            trip.coords[i] = factor;
        }
    }
    Ok(trip)
}

fn param_term(word: &str) -> Option<ParamTerm> {
    let (param, rest) = word.strip_prefix('q')?.split_once('*')?;
    let (factor, divisor) = rest.split_once('/')?;
    let param = crate::field::number(param)?;
    Some(ParamTerm { param, factor: factor.parse().ok()?, divisor: divisor.parse().ok()? })
}

fn shift(word: &str) -> Option<Shift> {
    let (param, rest) = word.strip_prefix('q')?.split_once(":d")?;
    let (rest, bound) = rest.split_once('<')?;
    let (dim, origin) = rest.split_at(rest.find(['+', '-'])?);
    let (param, dim) = (crate::field::number(param)?, crate::field::number(dim)?);
    Some(Shift { param, dim, origin: origin.parse().ok()?, bound: bound.parse().ok()? })
}

fn dim(word: &str) -> Option<Dim> {
    let (word, bound) = match word.split_once('<') {
        Some((word, bound)) => (word, bound.parse().ok()?),
        None => (word, u32::MAX),
    };
    let (word, origin) = match word.split_once('@') {
        Some((word, origin)) => (word, origin.parse().ok()?),
        None => (word, 0),
    };
    let (size, stride) = word.split_once(':')?;
    Some(Dim { size: size.parse().ok()?, stride: stride.parse().ok()?, origin, bound })
}

fn pattern(word: &str) -> Option<Pattern> {
    let (n, m) = word.split_once(':')?;
    Some(Pattern { n: n.parse().ok()?, m: m.parse().ok()? })
}

fn view(c: &mut Cursor<'_>, number: usize) -> Parsed<View> {
    c.keyword("view")?;
    c.entry_number(Item::View, number)?;
    let format = c.parsed("a format", Format::from_name)?;
    let pattern = match c.peek_word() {
        Some("local" | "global") | None => None,
        Some(_) => Some(c.parsed("`local`, `global` or a pattern like 2:4", pattern)?),
    };
    let space = match c.choice("`local` or `global`", &[("local", false), ("global", true)])? {
        true => Space::Global(c.indexed("r")?),
        false => Space::Local,
    };
    let k_dim = c.indexed("k")?;
    c.keyword("offset")?;
    let offset = c.number()?;
    let span = c.span();
    let dims = c.list(|c| c.parsed("a dimension like 32:64@0<99", dim))?;
    let Ok(dims) = <[Dim; VIEW_DIMS]>::try_from(dims) else {
        return c.fault_at(span, format!("a view has {VIEW_DIMS} dimensions"));
    };
    let (levels, coords) = ([None; 4], [None; 4]);
    let mut view = View { format, pattern, k_dim, space, offset, dims, levels, coords, shift: None };
    while c.in_line() {
        if let Some(shift) = c.peek_word().and_then(shift) {
            c.word()?;
            view.shift = Some(shift);
            continue;
        }
        let (is_level, i, advance) = c.parsed("an advance like l0:d4+32 or q0:d3+1<+0", |word| {
            let (is_level, i, advance) = axis(word, ':')?;
            let advance = advance.strip_prefix('d')?;
            let sign = advance.find(['+', '-'])?;
            let (dim, step) = advance.split_at(sign);
            Some((is_level, i, Advance { dim: crate::field::number(dim)?, step: step.parse().ok()? }))
        })?;
        if is_level {
            view.levels[i] = Some(advance);
        } else {
            view.coords[i] = Some(advance);
        }
    }
    Ok(view)
}

fn address(c: &mut Cursor<'_>) -> Parsed<Address> {
    c.parsed("an address like hbm:4096", |word| {
        let (space, offset) = word.split_once(':')?;
        let space = SPACES.into_iter().find(|&s| space_name(s) == space)?;
        Some(Address { space, offset: offset.parse().ok()? })
    })
}

fn port(c: &mut Cursor<'_>) -> Parsed<Port> {
    c.word()?;
    Ok(Port {
        name: c.name()?,
        elem: c.parsed("an element type", ScalarType::from_name)?,
        shape: c.list(Cursor::number)?,
        address: address(c)?,
    })
}

fn transfer(c: &mut Cursor<'_>, number: usize) -> Parsed<Transfer> {
    c.keyword("transfer")?;
    c.entry_number(Item::Transfer, number)?;
    let (src, dst) = (address(c)?, address(c)?);
    let elem = c.parsed("an element type", ScalarType::from_name)?;
    c.keyword("x")?;
    let elements = c.number()?;
    let combine = c.parsed("a combination: replace, add, mul, min, max", <Combine as Field>::parse)?;
    c.keyword("peer")?;
    Ok(Transfer { src, dst, elem, elements, combine, peer: c.number()? })
}

fn entry(c: &mut Cursor<'_>, number: usize) -> Parsed<EntryPoint> {
    c.keyword("entry")?;
    c.entry_number(Item::Entry, number)?;
    c.part = c.part.within(Item::Entry, number);
    let mut entry = EntryPoint { name: c.name()?, ..EntryPoint::default() };
    let mut in_code = false;
    c.block(|c| {
        if in_code {
            c.mark(Item::Inst, entry.code.len());
            entry.code.push(code::inst(c)?);
            return Ok(());
        }
        match c.peek_word() {
            Some("ranks") => {
                c.keyword("ranks")?;
                entry.ranks = c.number()?;
            }
            Some("transfer") => entry.transfers.push(transfer(c, entry.transfers.len())?),
            Some("input") => {
                c.mark(Item::Input, entry.inputs.len());
                entry.inputs.push(port(c)?);
            }
            Some("output") => {
                c.mark(Item::Output, entry.outputs.len());
                entry.outputs.push(port(c)?);
            }
            Some("launch") => {
                c.keyword("launch")?;
                c.entry_number(Item::Launch, entry.launches.len())?;
                let kernel = c.indexed("k")?;
                let bases = c.list(address)?;
                let mut params = Vec::new();
                if c.peek_word() == Some("with") {
                    c.keyword("with")?;
                    params = c.list(Cursor::number)?;
                }
                let mut macs = 0;
                if c.peek_word() == Some("macs") {
                    c.keyword("macs")?;
                    macs = c.number()?;
                }
                let mut origins = Vec::new();
                while c.in_line() {
                    origins.push(c.indexed("o")?);
                }
                entry.launches.push(Launch { kernel, bases, params, macs, origins });
            }
            Some("code:") => {
                c.keyword("code:")?;
                in_code = true;
            }
            _ => {
                let keywords = ["ranks", "input", "output", "launch", "transfer", "code:"];
                return unknown(c, "a part of an entry", &keywords);
            }
        }
        Ok(())
    })?;
    Ok(entry)
}

/// Appends the bytes of hexadecimal digits.
fn push_hex(word: &str, bytes: &mut Vec<u8>) -> Option<()> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let pairs = word.as_bytes().chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return None;
    }
    for pair in pairs {
        bytes.push(digit(pair[0])? << 4 | digit(pair[1])?);
    }
    Some(())
}

fn weights(c: &mut Cursor<'_>, given: Option<&Blob>) -> Parsed<Blob> {
    c.keyword("weights")?;
    let span = c.span();
    let n_bytes: usize = c.number()?;
    if c.peek_word() == Some("elided") {
        let Some(given) = given else {
            return c.fault("the weights are elided, and none are given");
        };
        c.keyword("elided")?;
        if given.bytes().len() != n_bytes {
            return c.fault_at(span, format!("{} bytes of weights are given", given.bytes().len()));
        }
        return Ok(given.clone());
    }
    let mut bytes = Vec::new();
    c.block(|c| {
        let mut n_times = 1usize;
        let span = c.span();
        if c.peek_word() == Some("repeat") {
            c.keyword("repeat")?;
            n_times = c.number()?;
        }
        let start = bytes.len();
        c.parsed("pairs of hexadecimal digits", |word| push_hex(word, &mut bytes))?;
        let len = bytes.len() - start;
        let total = len.checked_mul(n_times).and_then(|n| n.checked_add(start));
        match total {
            Some(total) if total <= MAX_WEIGHT_BYTES.min(n_bytes) => {
                if len == 1 {
                    bytes.resize(total, bytes[start]);
                } else {
                    for _ in 1..n_times {
                        bytes.extend_from_within(start..start + len);
                    }
                    bytes.truncate(total);
                }
                Ok(())
            }
            _ => {
                bytes.truncate(start);
                c.fault_at(span, format!("more than {} bytes of weights", MAX_WEIGHT_BYTES.min(n_bytes)))
            }
        }
    })?;
    if bytes.len() != n_bytes {
        return c.fault_at(span, format!("{} bytes of weights follow", bytes.len()));
    }
    Ok(Blob::new(bytes))
}

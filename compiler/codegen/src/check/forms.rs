//! What an instruction means on its own: actions, formats, shapes, lanes; and the balance of loop bodies.

use std::borrow::Cow;

use lacuna_isa::format::{Format, ScalarType};
use lacuna_isa::inst::{Action, Combine, InstKind, Multicast, Operand, Order, Share, Use};
use lacuna_isa::object::Kernel;
use lacuna_isa::program::{Lane, Program, SeOp, SeReduce};
use lacuna_isa::view::View;

use super::boxes::product_dims;
use super::{Fault, Reason, Rule, record, rows};

/// Checks every instruction of a valid kernel on its own, and the balance of its loops.
pub(super) fn check(kernel: &Kernel, faults: &mut Vec<Fault>) {
    for (pc, inst) in kernel.code.iter().enumerate() {
        if let Err(reason) = check_inst(kernel, &inst.kind) {
            record(faults, Fault::at(pc, None, reason));
        }
    }
    balance(kernel, faults);
}

fn form<T>(message: String) -> Result<T, Reason> {
    Err((Rule::Form, message))
}

fn shape<T>(message: String) -> Result<T, Reason> {
    Err((Rule::ShapeMismatch, message))
}

fn action(kernel: &Kernel, operand: &Operand, how: Use) -> Result<(), Reason> {
    let legal = match operand.action {
        Action::Read | Action::Pop => how == Use::Source,
        Action::Push => matches!(how, Use::Dest | Use::Fresh),
        Action::Update => matches!(how, Use::Dest | Use::Change),
    };
    if legal {
        return Ok(());
    }
    let name = &kernel.buffers[usize::from(operand.buffer)].name;
    form(format!("the operand on buffer {name} cannot {:?}", operand.action).to_lowercase())
}

fn check_inst(kernel: &Kernel, kind: &InstKind) -> Result<(), Reason> {
    let global = |v: u16| &kernel.views[usize::from(v)];
    let local = |operand: &Operand| &kernel.views[usize::from(operand.view)];
    for field in kind.operands() {
        action(kernel, &field.operand, field.how)?;
    }
    match kind {
        InstKind::Launch { .. }
        | InstKind::Chain { .. }
        | InstKind::Loop { .. }
        | InstKind::End {}
        | InstKind::Pop { .. }
        | InstKind::Halt {} => Ok(()),
        InstKind::Ld { dst, src, .. } => widening(global(*src), local(dst)),
        InstKind::Gather { dst, src, idx, dim, .. } => {
            let src = global(*src);
            indices(local(idx), src, *dim)?;
            not_along_groups(src, *dim, "a gather")?;
            widening(src, local(dst))
        }
        InstKind::Ldx { dst, src, .. } => {
            if global(*src).pattern.is_some() {
                return form("a compressed tensor with a pattern".to_owned());
            }
            widening(global(*src), local(dst))
        }
        InstKind::Ldmask { dst, src, mask, dim } => {
            let (mask, src) = (local(mask), global(*src));
            if (mask.format, mask.pattern) != (Format::Scalar(ScalarType::Bool), None) {
                return form(format!("flags are {}, not bool", mask.format));
            }
            one_for_each(mask, src, *dim)?;
            if *dim == src.k_dim && src.pattern.is_some() {
                return Err((Rule::PartialGroup, "flags along a pattern".to_owned()));
            }
            widening(src, local(dst))
        }
        InstKind::Scatter { src, dst, idx, dim, combine, .. } => {
            let (from, to) = (local(src), global(*dst));
            indices(local(idx), to, *dim)?;
            not_along_groups(to, *dim, "a scatter")?;
            if (from.format, from.pattern) != (to.format, to.pattern) {
                return form(format!("a scatter from {} to {}", from.format, to.format));
            }
            match combine {
                Combine::Replace => one_k(from, to)?,
                Combine::Add | Combine::Mul | Combine::Min | Combine::Max if grouped(to) => {
                    return form(format!("elements of {} do not combine", to.format));
                }
                Combine::Add | Combine::Mul | Combine::Min | Combine::Max => {}
            }
            same_box(from, to)
        }
        InstKind::Move { dst, src, .. } => moved(local(src), local(dst)),
        InstKind::Perm { dst, src, idx, dim, .. } => {
            indices(local(idx), local(src), *dim)?;
            not_along_groups(local(src), *dim, "a gather")?;
            moved(local(src), local(dst))
        }
        InstKind::Mask { dst, src } => {
            let (from, to) = (local(src), local(dst));
            if from.pattern.is_some() || (to.format, to.pattern) != (Format::Scalar(ScalarType::Bool), None) {
                return form(format!("flags of {} in {}", from.format, to.format));
            }
            if from.dims.iter().zip(&to.dims).any(|(a, b)| b.size != a.size && b.size != 1) {
                return shape(format!("flags of {:?} for a box of {:?}", to.sizes(), from.sizes()));
            }
            Ok(())
        }
        InstKind::Pack { dst, src } => packing(local(src), local(dst)),
        InstKind::St { src, dst } => {
            let (from, to) = (local(src), global(*dst));
            if (from.format, from.pattern) != (to.format, to.pattern) {
                return form(format!("a store from {} to {}", from.format, to.format));
            }
            same_box(from, to)
        }
        InstKind::Fill { .. } | InstKind::Zero { .. } => Ok(()),
        InstKind::Drain { dst, bank } => {
            let (to, from) = (local(dst), local(bank));
            if to.pattern.is_some() {
                return form("a bank does not drain into a pattern".to_owned());
            }
            same_box(from, to)
        }
        InstKind::Mm { bank, a, b, order } | InstKind::Mmnm { bank, a, b, order } => {
            product(local(bank), local(a), local(b), *order)
        }
        InstKind::Mmblk { bank, a, b, mask, order, packed } => {
            let (near, mask) = (local(b), local(mask));
            let Some(whole) = unpacked(near, mask, *order, *packed) else {
                return shape(format!("{:?} are not blocks for a mask of {:?}", near.sizes(), mask.sizes()));
            };
            product(local(bank), local(a), &whole, *order)?;
            if near.dims[usize::from(near.k_dim)].stride <= 0 && grouped(near) {
                return Err((Rule::PartialGroup, "groups of blocks do not lie along k".to_owned()));
            }
            rows::blocks(local(a), &whole, mask, *order)
        }
        InstKind::Mmact { bank, a, b, mask, order } => {
            product(local(bank), local(a), local(b), *order)?;
            rows::active(local(a), local(mask))
        }
        InstKind::Seed { bank, src } => {
            widening(local(src), local(bank))?;
            same_box(local(src), local(bank))
        }
        InstKind::Resc { bank, src } => {
            rows::one_of(local(src), &[ScalarType::F32, ScalarType::F16, ScalarType::Bf16])?;
            same_box(local(src), local(bank))
        }
        InstKind::Stat { dst, bank, .. } => rows::statistic(local(dst), local(bank)),
        InstKind::Sort { dst, src, k, .. } => rows::sort(local(dst), local(src), *k),
        InstKind::Merge { dst, a, b, k } => rows::merge(local(dst), [local(a), local(b)], *k),
        InstKind::Run { program } => {
            let program = &kernel.programs[usize::from(*program)];
            check_program(kernel, program)
        }
        // `Object::validate` has all that can be said of one of them alone.
        InstKind::Ldp { .. } => Ok(()),
        InstKind::Post { .. } => Ok(()),
        InstKind::Wait { .. } => Ok(()),
        InstKind::Bar { .. } => Ok(()),
        InstKind::Gate { .. } => Ok(()),
        InstKind::Xchg { dst, src, dim, cast } => {
            let (to, from) = (local(dst), local(src));
            if from.format != to.format {
                return form(format!("an exchange from {} to {}", from.format, to.format));
            }
            if grouped(from) || grouped(to) {
                return form("an exchange of grouped elements".to_owned());
            }
            parts(from, to, usize::from(*dim), group_size(kernel, *cast))
        }
        InstKind::Xred { dst, bank, dim, cast, share } => {
            let (to, from) = (local(dst), local(bank));
            if to.pattern.is_some() {
                return form("a bank does not drain into a pattern".to_owned());
            }
            let n_parts = match share {
                Share::All => 1,
                Share::Part => group_size(kernel, *cast),
            };
            parts(to, from, usize::from(*dim), n_parts)
        }
        InstKind::Allred { .. } => unknown(kind),
        InstKind::Allgath { .. } => unknown(kind),
        InstKind::Redscat { .. } => unknown(kind),
        InstKind::Alltoall { .. } => unknown(kind),
        InstKind::Send { .. } => unknown(kind),
        InstKind::Recv { .. } => unknown(kind),
    }
}

/// `pack`.
fn packing(from: &View, to: &View) -> Result<(), Reason> {
    let Some(pattern) = to.pattern else {
        return form("a slot without a pattern is packed into".to_owned());
    };
    if from.pattern.is_some() || from.format != to.format {
        return form(format!("{} does not pack into {}", from.format, to.format));
    }
    let group = to.format.group_size();
    if let Format::Grouped(format) = to.format
        && format.pair_shift
    {
        return form(format!("magnitudes of {} are not those of its codes", to.format));
    }
    if group > 1 && !group.is_multiple_of(u32::from(pattern.m)) {
        return form(format!("a pattern {pattern} cuts groups of {group}"));
    }
    if group > 1 {
        one_k(from, to)?;
    }
    same_box(from, to)
}

/// Number of PEs of a group.
fn group_size(kernel: &Kernel, cast: Multicast) -> u64 {
    let [r0, r1, c0, c1] = kernel.grid.map(u64::from);
    match cast {
        Multicast::None => 1,
        Multicast::Row => c0 * c1,
        Multicast::Col => r0 * r1,
        Multicast::All => r0 * r1 * c0 * c1,
    }
}

/// Whether `n` boxes of `part` along dimension `d` make one of `whole`.
fn parts(part: &View, whole: &View, d: usize, n: u64) -> Result<(), Reason> {
    let fits = (0..part.dims.len()).all(|i| {
        let times = if i == d { n } else { 1 };
        u64::from(part.dims[i].size) * times == u64::from(whole.dims[i].size)
    });
    if fits {
        return Ok(());
    }
    shape(format!("{n} boxes of {:?} do not make one of {:?}", part.sizes(), whole.sizes()))
}

fn unknown(kind: &InstKind) -> Result<(), Reason> {
    form(format!("`{}` is not examined", kind.mnemonic()))
}

/// A vector has one element for each index of dimension `dim` of a view.
fn one_for_each(vector: &View, view: &View, dim: u8) -> Result<(), Reason> {
    let d = usize::from(dim);
    let (n, of) = (vector.dims[d].size, view.dims[d].size);
    if n == of { Ok(()) } else { shape(format!("{n} indices for {of}")) }
}

fn indices(vector: &View, view: &View, dim: u8) -> Result<(), Reason> {
    if vector.pattern.is_some() {
        return form("indices have a pattern".to_owned());
    }
    match vector.format {
        Format::Scalar(ScalarType::I32 | ScalarType::I64) => one_for_each(vector, view, dim),
        Format::Scalar(_) | Format::Grouped(_) => {
            form(format!("indices are {}, not i32 or i64", vector.format))
        }
    }
}

fn not_along_groups(view: &View, dim: u8, what: &str) -> Result<(), Reason> {
    if dim == view.k_dim && grouped(view) {
        return Err((Rule::PartialGroup, format!("{what} along groups")));
    }
    Ok(())
}

/// Groups on both sides run along one dimension.
fn one_k(from: &View, to: &View) -> Result<(), Reason> {
    if from.k_dim == to.k_dim || !grouped(from) || !grouped(to) {
        return Ok(());
    }
    form(format!("groups along dimension {} move to dimension {}", from.k_dim, to.k_dim))
}

fn moved(from: &View, to: &View) -> Result<(), Reason> {
    widening(from, to)?;
    one_k(from, to)?;
    same_box(from, to)
}

fn same_box(from: &View, to: &View) -> Result<(), Reason> {
    if from.sizes() == to.sizes() {
        return Ok(());
    }
    shape(format!("a box of {:?} goes to one of {:?}", from.sizes(), to.sizes()))
}

/// The second operand of `mmblk` with all its blocks.
pub(super) fn unpacked<'v>(b: &'v View, mask: &View, order: Order, packed: bool) -> Option<Cow<'v, View>> {
    if packed { b.unpacked(mask, order).map(Cow::Owned) } else { Some(Cow::Borrowed(b)) }
}

/// Whether the elements of a view are stored in groups of any kind.
pub(super) fn grouped(view: &View) -> bool {
    view.pattern.is_some() || view.format.group_size() > 1
}

fn product(bank: &View, a: &View, b: &View, order: Order) -> Result<(), Reason> {
    let (n_dims, k_dims) = product_dims(order);
    let size = |view: &View, dims: &[usize]| -> u128 {
        dims.iter().map(|&d| u128::from(view.dims[d].size)).fold(1, u128::saturating_mul)
    };
    let (m, n, k) = (size(a, &[0, 1]), size(b, &n_dims), size(a, &[2, 3, 4]));
    if size(b, &k_dims) != k {
        return shape(format!("the operands sum over {k} and {}", size(b, &k_dims)));
    }
    if u128::from(bank.elements()) != m.saturating_mul(n) {
        return shape(format!("a product of {m} x {n} for a bank of {}", bank.elements()));
    }
    for (view, dims) in [(a, &[2, 3, 4]), (b, &k_dims)] {
        match view.format {
            Format::Grouped(group) if group.scale.bits() != 8 || (group.pair_shift && group.size > 16) => {
                return form(format!("the DPE does not multiply {}", view.format));
            }
            Format::Grouped(_) => {}
            Format::Scalar(ty) => {
                if !ty.is_float() || matches!(ty, ScalarType::F64 | ScalarType::E8M0) {
                    return form(format!("the DPE does not multiply {}", view.format));
                }
            }
        }
        let unit = view.planes().unit() as u32;
        let along = usize::from(view.k_dim);
        let innermost = dims.contains(&along) && dims.iter().all(|&d| d <= along || view.dims[d].size == 1);
        let dim = view.dims[along];
        if unit > 1 && !(innermost && dim.size.is_multiple_of(unit) && dim.stride > 0) {
            let message = format!("dimension {along} does not sum over whole groups of {unit}");
            return Err((Rule::PartialGroup, message));
        }
    }
    if let (Format::Grouped(x), Format::Grouped(y), Some(pattern)) = (a.format, b.format, b.pattern)
        && x.size.min(y.size) % pattern.m.max(1) != 0
    {
        let message = format!("groups of {} and {} straddle the pattern {pattern}", x.size, y.size);
        return Err((Rule::PartialGroup, message));
    }
    Ok(())
}

fn signed(ty: ScalarType) -> bool {
    matches!(
        ty,
        ScalarType::I2
            | ScalarType::I4
            | ScalarType::I8
            | ScalarType::I16
            | ScalarType::I32
            | ScalarType::I64
    )
}

/// Whether every value of `from`, signed zeros included, is a value of `to`.
fn is_wider(from: ScalarType, to: ScalarType) -> bool {
    let keeps = |code: u64| {
        let value = from.decode(code);
        let there = to.decode(to.encode(value));
        there.to_bits() == value.to_bits() || (there.is_nan() && value.is_nan())
    };
    match (from.is_float(), to.is_float()) {
        _ if from == to => true,
        _ if from.bits() <= 8 => (0..1u64 << from.bits()).all(keeps),
        (true, true) => to == ScalarType::F64 || (to == ScalarType::F32 && from.bits() == 16),
        (false, true) => {
            to == ScalarType::F64 && from.bits() <= 32 || to == ScalarType::F32 && from.bits() <= 16
        }
        (false, false) => to.bits() > from.bits() && (signed(to) || !signed(from)),
        (true, false) => false,
    }
}

fn widening(src: &View, dst: &View) -> Result<(), Reason> {
    if src.pattern != dst.pattern {
        return form("the slot's view and the tensor's have different patterns".to_owned());
    }
    let legal = match (src.format, dst.format) {
        (from, to) if from == to => true,
        (Format::Scalar(from), Format::Scalar(to)) => is_wider(from, to),
        (Format::Grouped(from), Format::Grouped(to)) => {
            (from.size, from.scale, from.pair_shift) == (to.size, to.scale, to.pair_shift)
                && from.element != ScalarType::I8
                && is_wider(from.element, to.element)
        }
        (Format::Grouped(_), Format::Scalar(to)) => {
            src.pattern.is_none() && matches!(to, ScalarType::F32 | ScalarType::F64 | ScalarType::Bf16)
        }
        (Format::Scalar(_), Format::Grouped(_)) => false,
    };
    if legal { Ok(()) } else { form(format!("{} does not widen to {}", src.format, dst.format)) }
}

fn is_float(lane: Lane) -> bool {
    match lane {
        Lane::F32 | Lane::F64 => true,
        Lane::I32 | Lane::I64 => false,
    }
}

fn check_program(kernel: &Kernel, program: &Program) -> Result<(), Reason> {
    let mut accumulators: Vec<(u8, SeReduce, Lane)> = Vec::new();
    let view = |stream: u8| {
        let operand = program.streams[usize::from(stream)].operand;
        &kernel.views[usize::from(operand.view)]
    };
    for op in program.init.iter().chain(&program.body).chain(&program.finish) {
        match *op {
            SeOp::Load { lane, stream, .. } => {
                let v = view(stream);
                if v.format.element().is_float() && !is_float(lane) || grouped(v) && !is_float(lane) {
                    return form(format!("stream {stream} of {} loads into {lane:?} lanes", v.format));
                }
            }
            SeOp::Store { stream, .. } => {
                if view(stream).pattern.is_some() {
                    return form(format!("stream {stream} has a pattern and is stored to"));
                }
            }
            SeOp::Accumulate { f, lane, acc, .. } | SeOp::Tree { f, lane, acc, .. } => {
                match accumulators.iter().find(|(a, ..)| *a == acc) {
                    None => accumulators.push((acc, f, lane)),
                    Some(&known) if known == (acc, f, lane) => {}
                    Some(_) => return form(format!("accumulator {acc} combines in two ways")),
                }
            }
            SeOp::Unary { .. }
            | SeOp::Const { .. }
            | SeOp::Coord { .. }
            | SeOp::Binary { .. }
            | SeOp::Fma { .. }
            | SeOp::Select { .. }
            | SeOp::Convert { .. }
            | SeOp::RoundTo { .. } => {}
        }
    }
    Ok(())
}

/// The operands of an instruction, in the order in which they name slots.
pub(super) fn operands(kernel: &Kernel, kind: &InstKind) -> Vec<Operand> {
    match *kind {
        InstKind::Run { program } => {
            kernel.programs[usize::from(program)].streams.iter().map(|s| s.operand).collect()
        }
        _ => kind.operands().map(|field| field.operand).collect(),
    }
}

/// Each loop body pushes to every buffer as often as it frees; inner loops balance on their own.
fn balance(kernel: &Kernel, faults: &mut Vec<Fault>) {
    let mut open: Vec<(usize, Vec<i64>)> = Vec::new();
    for (pc, inst) in kernel.code.iter().enumerate() {
        match inst.kind {
            InstKind::Loop { .. } => open.push((pc, vec![0; kernel.buffers.len()])),
            InstKind::End {} => {
                if let Some((start, net)) = open.pop()
                    && let Some(b) = net.iter().position(|&n| n != 0)
                {
                    let message = format!(
                        "an iteration leaves {:+} slots in buffer {}",
                        net[b], kernel.buffers[b].name
                    );
                    record(faults, Fault::at(start, None, (Rule::LoopBalance, message)));
                }
            }
            _ => {
                let Some((_, net)) = open.last_mut() else { continue };
                if let InstKind::Pop { n, buffer } = inst.kind {
                    net[usize::from(buffer)] -= i64::from(n);
                }
                for operand in operands(kernel, &inst.kind) {
                    net[usize::from(operand.buffer)] += match operand.action {
                        Action::Push => 1,
                        Action::Pop => -1,
                        Action::Read | Action::Update => 0,
                    };
                }
            }
        }
    }
}

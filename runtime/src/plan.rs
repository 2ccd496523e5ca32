//! What is resolved and checked once, when an object is loaded, so that running needs no look-ups that can fail.

mod movement;
mod operand;

use lacuna_isa::format::{Format, ScalarType};
use lacuna_isa::inst::{Engine, GlobalField, Inst, InstKind, Operand, OperandField, Place};
use lacuna_isa::object::{Access, BufferKind, Kernel};
use lacuna_isa::view::{LOOP_LEVELS, MAX_PARAMS, Position, Space, VIEW_DIMS, View};

use crate::codes::is_signed;
use crate::dma::LoadPlan;
use crate::illegal::Illegal;
use crate::matmul::shape::Products;
use crate::meeting::check_meeting;
use crate::se::ProgramPlan;
use crate::slots::Placement;
use crate::trap::LoadError;
pub(crate) use movement::is_compressed;
pub(crate) use operand::check_operand;

/// Greatest trip count: keeps coordinates within 62 bits.
const MAX_TRIP: u32 = 1 << 28;
/// Greatest number of elements of a view's box.
const MAX_ELEMENTS: u64 = 1 << 40;

/// A kernel with its control flow and programs resolved.
#[derive(Debug)]
pub(crate) struct KernelPlan<'o> {
    pub kernel: &'o Kernel,
    /// For every `loop`, the number of its `end`; for others, their own number.
    pub ends: Vec<usize>,
    pub programs: Vec<ProgramPlan>,
    pub products: Products,
    /// Of every instruction that loads a whole box.
    pub loads: Vec<Option<LoadPlan>>,
}

impl KernelPlan<'_> {
    /// PEs of the grid.
    pub fn n_pes(&self) -> usize {
        self.kernel.grid.iter().map(|&n| usize::from(n)).product()
    }

    /// Logical coordinates of PE `idx`, the last one fastest.
    pub fn coords(&self, idx: usize) -> [u32; 4] {
        let mut rest = idx;
        let mut coords = [0; 4];
        for d in (0..4).rev() {
            let size = usize::from(self.kernel.grid[d]).max(1);
            coords[d] = (rest % size) as u32;
            rest /= size;
        }
        coords
    }
}

/// Checks a kernel and resolves it.
pub(crate) fn plan_kernel(kernel: &Kernel) -> Result<KernelPlan<'_>, LoadError> {
    let fail =
        |pc: Option<usize>, reason: Illegal| LoadError::Kernel { kernel: kernel.name.clone(), pc, reason };
    if kernel.grid.contains(&0) || kernel.grid.iter().map(|&n| u64::from(n)).product::<u64>() > 1 << 20 {
        return Err(fail(None, Illegal::Limit(format!("grid {:?}", kernel.grid))));
    }
    for (idx, view) in kernel.views.iter().enumerate() {
        check_view(view).map_err(|reason| fail(None, reason.at(format_args!("view {idx}"))))?;
    }
    for (idx, trip) in kernel.trips.iter().enumerate() {
        if trip.max > MAX_TRIP || trip.base.abs() > 1 << 40 {
            return Err(fail(None, Illegal::Limit(format!("trip {idx} may count to {}", trip.max))));
        }
    }
    for buffer in &kernel.buffers {
        if buffer.slots == 0 {
            return Err(fail(None, Illegal::Missing(format!("buffer {} has no slots", buffer.name))));
        }
    }
    check_params(kernel).map_err(|(pc, reason)| fail(pc, reason))?;
    let n_pes = kernel.grid.iter().map(|&n| usize::from(n)).product();
    check_meeting(n_pes, &kernel.code).map_err(|reason| fail(None, reason))?;
    let ends = match_loops(kernel).map_err(|(pc, reason)| fail(Some(pc), reason))?;
    for (pc, inst) in kernel.code.iter().enumerate() {
        check_inst(kernel, &inst.kind).map_err(|reason| fail(Some(pc), reason))?;
    }
    let programs = kernel
        .programs
        .iter()
        .map(|program| {
            ProgramPlan::new(kernel, program)
                .map_err(|reason| fail(None, reason.at(format_args!("program {}", program.name))))
        })
        .collect::<Result<_, _>>()?;
    let products = Products::new(kernel.code.len());
    let loads = loads(kernel);
    Ok(KernelPlan { kernel, ends, programs, products, loads })
}

/// The plans of all loads of whole boxes, which refer to them in place if products alone read them and can read them there.
fn loads(kernel: &Kernel) -> Vec<Option<LoadPlan>> {
    let mut readable = vec![true; kernel.buffers.len()];
    let mut factors: Vec<Operand> = Vec::new();
    for inst in &kernel.code {
        match inst.kind {
            InstKind::Ld { .. } => {}
            InstKind::Mm { bank, a, b, .. } => {
                readable[usize::from(bank.buffer)] = false;
                factors.extend([a, b]);
            }
            other => {
                for field in other.operands() {
                    readable[usize::from(field.operand.buffer)] = false;
                }
            }
        }
    }
    for stream in kernel.programs.iter().flat_map(|program| &program.streams) {
        readable[usize::from(stream.operand.buffer)] = false;
    }
    let place = |inst: &Inst| {
        let InstKind::Ld { dst, src, .. } = inst.kind else { return None };
        let view = |number: u16| &kernel.views[usize::from(number)];
        let at = Placement::of(src, view(src)).filter(|at| {
            let mut readers = factors.iter().filter(|factor| factor.buffer == dst.buffer);
            readable[usize::from(dst.buffer)] && readers.all(|factor| at.compose(view(factor.view)).is_some())
        });
        Some(LoadPlan::new(view(src), view(dst.view).format, true, at))
    };
    kernel.code.iter().map(place).collect()
}

fn check_view(view: &View) -> Result<(), Illegal> {
    let elements = view
        .dims
        .iter()
        .try_fold(1u64, |n, d| n.checked_mul(u64::from(d.size)).filter(|&n| n <= MAX_ELEMENTS));
    if elements.is_none() {
        return Err(Illegal::Limit("its box is too large".into()));
    }
    if usize::from(view.k_dim) >= VIEW_DIMS {
        return Err(Illegal::Missing(format!("it has no dimension {}", view.k_dim)));
    }
    if view.offset.unsigned_abs() > 1 << 50 {
        return Err(Illegal::Limit(format!("offset {}", view.offset)));
    }
    let advances = view.levels.iter().chain(&view.coords).flatten();
    for advance in advances {
        if usize::from(advance.dim) >= VIEW_DIMS {
            return Err(Illegal::Missing(format!("it has no dimension {} to advance", advance.dim)));
        }
    }
    if let Some(pattern) = view.pattern
        && (pattern.n == 0 || pattern.n > pattern.m || pattern.m > 16)
    {
        return Err(Illegal::Format(format!("pattern {pattern}")));
    }
    if let Format::Grouped(group) = view.format
        && (group.size == 0 || group.scale.bits() != 8 || (group.pair_shift && group.size > 16))
    {
        return Err(Illegal::Format(format!("the machine has no arithmetic for {group}")));
    }
    Ok(())
}

fn match_loops(kernel: &Kernel) -> Result<Vec<usize>, (usize, Illegal)> {
    let mut ends: Vec<usize> = (0..kernel.code.len()).collect();
    let mut open: Vec<(usize, u8, u8)> = Vec::new();
    for (pc, inst) in kernel.code.iter().enumerate() {
        let ends_loop = matches!(inst.kind, InstKind::End {});
        let stages = open.last().map_or(1, |&(_, stages, _)| stages.max(1));
        if inst.stage >= stages && !ends_loop {
            return Err((pc, Illegal::Control(format!("stage {} of a loop with {stages}", inst.stage))));
        }
        match inst.kind {
            InstKind::Loop { trip, level, stages } => {
                if usize::from(trip) >= kernel.trips.len() {
                    return Err((pc, Illegal::Missing(format!("there is no trip {trip}"))));
                }
                if usize::from(level) >= LOOP_LEVELS {
                    return Err((pc, Illegal::Missing(format!("there is no loop level {level}"))));
                }
                if stages > 4 {
                    return Err((pc, Illegal::Control(format!("{stages} stages"))));
                }
                if open.iter().any(|&(.., outer)| outer == level) {
                    return Err((pc, Illegal::Control(format!("a loop around this one has level {level}"))));
                }
                open.push((pc, stages, level));
            }
            InstKind::End {} => match open.pop() {
                Some((start, ..)) => ends[start] = pc,
                None => return Err((pc, Illegal::Control("no loop is open".into()))),
            },
            InstKind::Halt {} if pc + 1 != kernel.code.len() || !open.is_empty() => {
                return Err((pc, Illegal::Control("halt before the end of the stream".into())));
            }
            InstKind::Launch { .. } | InstKind::Chain { .. } => {
                return Err((pc, Illegal::Control("launch in a kernel's stream".into())));
            }
            _ => {}
        }
    }
    match kernel.code.last().map(|inst| inst.kind) {
        Some(InstKind::Halt {}) => Ok(ends),
        Some(_) | None => Err((
            kernel.code.len().saturating_sub(1),
            Illegal::Control("the stream does not end in halt".into()),
        )),
    }
}

fn global(kernel: &Kernel, view: u16, writes: bool) -> Result<&View, Illegal> {
    let table = kernel
        .views
        .get(usize::from(view))
        .ok_or_else(|| Illegal::Missing(format!("there is no view {view}")))?;
    let Space::Global(register) = table.space else {
        return Err(Illegal::Operand(format!("view {view} is local, the instruction needs a global one")));
    };
    let tensor = kernel.tensors.get(usize::from(register)).ok_or_else(|| {
        Illegal::Missing(format!("view {view} names base register {register}, which does not exist"))
    })?;
    let legal = match tensor.access {
        Access::In => !writes,
        Access::Out => writes,
        Access::InOut => true,
    };
    if !legal {
        return Err(Illegal::Operand(format!("base register {register} is {:?}", tensor.access)));
    }
    Ok(table)
}

/// Checks that what an instruction names exists and is of the kind that it needs.
fn check_operands(kernel: &Kernel, inst: &InstKind) -> Result<(), Illegal> {
    for OperandField { operand, how, place, .. } in inst.operands() {
        check_operand(kernel, &operand, how)?;
        let buffer = &kernel.buffers[usize::from(operand.buffer)];
        match (place, buffer.kind) {
            (Place::Bank, BufferKind::Local) => {
                return Err(Illegal::Operand(format!("buffer {} is not a bank", buffer.name)));
            }
            (Place::Local, BufferKind::Bank) => {
                return Err(Illegal::Operand(format!("buffer {} is a bank", buffer.name)));
            }
            (Place::Bank, BufferKind::Bank) | (Place::Local, BufferKind::Local) | (Place::Any, _) => {}
        }
    }
    if let Some(GlobalField { view, writes, .. }) = inst.global() {
        global(kernel, view, writes)?;
    }
    Ok(())
}

fn check_inst(kernel: &Kernel, inst: &InstKind) -> Result<(), Illegal> {
    check_operands(kernel, inst)?;
    let view = |operand: &Operand| &kernel.views[usize::from(operand.view)];
    let global = |number: u16| &kernel.views[usize::from(number)];
    let unknown =
        || Err(Illegal::Unimplemented(format!("the interpreter does not execute `{}`", inst.mnemonic())));
    match inst {
        InstKind::Launch { .. }
        | InstKind::Chain { .. }
        | InstKind::Loop { .. }
        | InstKind::End {}
        | InstKind::Halt {} => Ok(()),
        InstKind::Pop { buffer, .. } => (usize::from(*buffer) < kernel.buffers.len())
            .then_some(())
            .ok_or_else(|| Illegal::Missing(format!("there is no buffer {buffer}"))),
        InstKind::Ld { dst, src, .. } => widening(global(*src), view(dst)),
        InstKind::Gather { dst, src, idx, dim, .. } => {
            movement::vector(view(idx), *dim, &movement::INDICES)?;
            widening(global(*src), view(dst))
        }
        InstKind::Ldx { dst, src, .. } => movement::ldx(kernel, view(dst), global(*src)),
        InstKind::Ldmask { dst, src, mask, dim } => {
            movement::ldmask(view(dst), global(*src), view(mask), *dim)
        }
        InstKind::Scatter { src, dst, idx, dim, combine, .. } => {
            movement::scatter(kernel, view(src), global(*dst), (view(idx), *dim), *combine)
        }
        InstKind::Move { dst, src, .. } => movement::moving(view(src), view(dst)),
        InstKind::Perm { dst, src, idx, dim, .. } => movement::perm(view(dst), view(src), view(idx), *dim),
        InstKind::Mask { dst, src } => movement::mask(view(dst), view(src)),
        InstKind::Pack { dst, src } => movement::pack(view(dst), view(src)),
        InstKind::St { src, dst } => {
            let (from, to) = (view(src), global(*dst));
            if from.format != to.format || from.pattern != to.pattern {
                return Err(Illegal::Format(format!("a store from {} to {}", from.format, to.format)));
            }
            Ok(())
        }
        InstKind::Fill { value, .. } => (usize::from(*value) < kernel.constants.len())
            .then_some(())
            .ok_or_else(|| Illegal::Missing(format!("there is no constant {value}"))),
        InstKind::Mm { a, b, .. } => product(view(a), view(b), false),
        InstKind::Mmnm { a, b, .. } => product(view(a), view(b), true),
        InstKind::Mmblk { a, b, mask, .. } | InstKind::Mmact { a, b, mask, .. } => {
            product(view(a), view(b), false).and_then(|()| holds(view(mask), &[ScalarType::Bool]))
        }
        InstKind::Seed { bank, src } => widening(view(src), view(bank)),
        InstKind::Resc { src, .. } => holds(view(src), &[ScalarType::F32, ScalarType::F16, ScalarType::Bf16]),
        InstKind::Stat { dst, .. } => holds(view(dst), &[ScalarType::F32]),
        InstKind::Sort { dst, src, .. } => {
            let src = view(src);
            if src.pattern.is_some() || src.format.group_size() > 1 || src.format.element().bits() > 32 {
                return Err(Illegal::Format(format!("{} has no sort keys", src.format)));
            }
            holds(view(dst), &[ScalarType::I64])
        }
        InstKind::Merge { dst, a, b, .. } => {
            [dst, a, b].into_iter().try_for_each(|operand| holds(view(operand), &[ScalarType::I64]))
        }
        InstKind::Zero { .. } | InstKind::Drain { .. } => Ok(()),
        InstKind::Run { program } => (usize::from(*program) < kernel.programs.len())
            .then_some(())
            .ok_or_else(|| Illegal::Missing(format!("there is no program {program}"))),
        InstKind::Ldp { param, src } => parameter(kernel, *param, global(*src)),
        InstKind::Post { queue, .. } | InstKind::Wait { queue, .. } => accesses(*queue),
        InstKind::Bar { .. } => Ok(()),
        InstKind::Gate { engine, .. } => (*engine != Engine::Cp)
            .then_some(())
            .ok_or_else(|| Illegal::Operand("the command processor cannot be without power".into())),
        InstKind::Xchg { dst, src, dim, .. } => exchanged(view(src), view(dst), *dim),
        InstKind::Xred { dst, dim, .. } => summed(view(dst), *dim),
        InstKind::Allred { .. } => unknown(),
        InstKind::Allgath { .. } => unknown(),
        InstKind::Redscat { .. } => unknown(),
        InstKind::Alltoall { .. } => unknown(),
        InstKind::Send { .. } => unknown(),
        InstKind::Recv { .. } => unknown(),
    }
}

/// Whether every PE gets the same value from an `ldp`.
fn parameter(kernel: &Kernel, param: u8, src: &View) -> Result<(), Illegal> {
    if usize::from(param) >= kernel.params.len() {
        return Err(Illegal::Missing(format!("there is no parameter {param}")));
    }
    if let Space::Global(register) = src.space
        && kernel.tensors[usize::from(register)].access != Access::In
    {
        return Err(Illegal::Operand(format!("base register {register} is not an `in` tensor")));
    }
    if !matches!(src.format, Format::Scalar(ScalarType::I32 | ScalarType::I64)) || src.pattern.is_some() {
        return Err(Illegal::Format(format!("a parameter is i32 or i64, not {}", src.format)));
    }
    let fixed = src.levels.iter().chain(&src.coords).all(Option::is_none) && src.shift.is_none();
    if !fixed || src.clip(&Position::default()) != [(0, 1); VIEW_DIMS] {
        return Err(Illegal::Operand("the view is not one element in one place".into()));
    }
    Ok(())
}

/// Checks the parameters of a kernel: what depends on one comes after its last `ldp`.
fn check_params(kernel: &Kernel) -> Result<(), (Option<usize>, Illegal)> {
    if kernel.params.len() > MAX_PARAMS || kernel.params.iter().any(|param| param.lo > param.hi) {
        return Err((None, Illegal::Limit("too many parameters, or one without a range".into())));
    }
    let known = |param: u8| usize::from(param) < kernel.params.len();
    let terms = kernel.trips.iter().filter_map(|trip| trip.param);
    let shifts = kernel.views.iter().filter_map(|view| view.shift);
    // Keeps coordinates and counts within 62 bits.
    let small = |param: u8, factor: i32| {
        let ends = kernel.params.get(usize::from(param)).map_or([0, 0], |param| [param.lo, param.hi]);
        ends.iter().all(|&value| (i64::from(value) * i64::from(factor)).abs() < 1 << 60)
    };
    if !terms.into_iter().all(|t| known(t.param) && t.divisor > 0 && small(t.param, t.factor))
        || !shifts.into_iter().all(|s| {
            let inside = known(s.param) && usize::from(s.dim) < VIEW_DIMS;
            inside && small(s.param, s.origin) && small(s.param, s.bound)
        })
    {
        return Err((None, Illegal::Limit("a trip or view follows a parameter that does not exist".into())));
    }
    let mut depth = 0;
    let mut touched = [false; MAX_PARAMS];
    for (pc, inst) in kernel.code.iter().enumerate() {
        let mut views: Vec<u16> = inst.kind.operands().map(|field| field.operand.view).collect();
        views.extend(inst.kind.global().map(|field| field.view));
        match inst.kind {
            InstKind::Loop { trip, .. } => {
                depth += 1;
                if let Some(term) = kernel.trips.get(usize::from(trip)).and_then(|trip| trip.param) {
                    touched[usize::from(term.param)] = true;
                }
            }
            InstKind::End {} => depth -= 1,
            InstKind::Ldp { param, .. } => {
                if depth > 0 {
                    return Err((Some(pc), Illegal::Control("a parameter is loaded in a loop".into())));
                }
                if touched.get(usize::from(param)) == Some(&true) {
                    return Err((
                        Some(pc),
                        Illegal::Control(format!("parameter {param} is loaded after its use")),
                    ));
                }
            }
            InstKind::Run { program } => {
                if let Some(program) = kernel.programs.get(usize::from(program)) {
                    views.push(program.domain);
                    views.extend(program.streams.iter().map(|stream| stream.operand.view));
                }
            }
            _ => {}
        }
        let used = views.into_iter().filter_map(|view| kernel.views.get(usize::from(view))?.shift);
        used.for_each(|shift| touched[usize::from(shift.param)] = true);
    }
    Ok(())
}

/// Whether `post` and `wait` may name a queue: one that accesses tensors.
fn accesses(queue: Engine) -> Result<(), Illegal> {
    match queue {
        Engine::FiLoad | Engine::FiStore => Ok(()),
        Engine::Cp | Engine::Mlu | Engine::Dpe | Engine::Re | Engine::Se | Engine::Me => {
            Err(Illegal::Operand(format!("{} accesses no tensors", queue.name())))
        }
    }
}

fn exchanged(src: &View, dst: &View, dim: u8) -> Result<(), Illegal> {
    if usize::from(dim) >= VIEW_DIMS {
        return Err(Illegal::Missing(format!("there is no dimension {dim}")));
    }
    if src.format != dst.format {
        return Err(Illegal::Format(format!("an exchange from {} to {}", src.format, dst.format)));
    }
    if src.pattern.is_some() || dst.pattern.is_some() || src.format.group_size() > 1 {
        return Err(Illegal::Format("an exchange of grouped elements".into()));
    }
    Ok(())
}

fn summed(dst: &View, dim: u8) -> Result<(), Illegal> {
    if usize::from(dim) >= VIEW_DIMS {
        return Err(Illegal::Missing(format!("there is no dimension {dim}")));
    }
    if dst.pattern.is_some() {
        return Err(Illegal::Format("a bank does not drain into a pattern".into()));
    }
    Ok(())
}

fn product(a: &View, b: &View, wants_pattern: bool) -> Result<(), Illegal> {
    if b.pattern.is_some() != wants_pattern {
        return Err(Illegal::Format("only `mmnm` has a second operand with a pattern".into()));
    }
    if a.pattern.is_some() {
        return Err(Illegal::Format("the first operand has a pattern".into()));
    }
    for format in [a.format, b.format] {
        if !multiplies(format) {
            return Err(Illegal::Format(format!("the DPE does not multiply {format}")));
        }
    }
    Ok(())
}

/// Checks that a view is of one of some scalar types, without a pattern.
fn holds(view: &View, types: &[ScalarType]) -> Result<(), Illegal> {
    match view.format {
        Format::Scalar(ty) if types.contains(&ty) && view.pattern.is_none() => Ok(()),
        Format::Scalar(_) | Format::Grouped(_) => {
            let names: Vec<&str> = types.iter().map(|ty| ty.name()).collect();
            Err(Illegal::Format(format!("an operand is {}, not {}", view.format, names.join(" or "))))
        }
    }
}

fn multiplies(format: Format) -> bool {
    match format {
        Format::Grouped(_) => true,
        Format::Scalar(ty) => ty.is_float() && !matches!(ty, ScalarType::F64 | ScalarType::E8M0),
    }
}

/// Whether every value of `from` is a value of `to`, signs of zeros included.
pub(crate) fn widens(from: ScalarType, to: ScalarType) -> bool {
    if from == to {
        return true;
    }
    if from.bits() <= 8 {
        return (0..1u64 << from.bits()).all(|code| {
            let value = from.decode(code);
            let back = to.decode(to.encode(value));
            if value.is_nan() { back.is_nan() } else { value.to_bits() == back.to_bits() }
        });
    }
    let wider_int =
        (from.is_int() && to.is_int() && to.bits() > from.bits()) && (is_signed(to) || !is_signed(from));
    let float = match to {
        ScalarType::F32 => from.bits() == 16,
        ScalarType::F64 => from.bits() <= 32,
        _ => false,
    };
    wider_int || float
}

fn widening(src: &View, dst: &View) -> Result<(), Illegal> {
    let legal = match (src.format, dst.format) {
        (from, to) if from == to => true,
        (Format::Scalar(from), Format::Scalar(to)) => widens(from, to),
        (Format::Grouped(from), Format::Grouped(to)) => {
            from.size == to.size
                && (from.scale, from.pair_shift) == (to.scale, to.pair_shift)
                && from.element != ScalarType::I8
                && widens(from.element, to.element)
        }
        (Format::Grouped(_), Format::Scalar(to)) => {
            src.pattern.is_none() && matches!(to, ScalarType::F32 | ScalarType::F64 | ScalarType::Bf16)
        }
        (Format::Scalar(_), Format::Grouped(_)) => false,
    };
    if src.pattern != dst.pattern {
        return Err(Illegal::Format("the slot's view and the tensor's have different patterns".into()));
    }
    legal
        .then_some(())
        .ok_or_else(|| Illegal::Format(format!("{} does not widen to {}", src.format, dst.format)))
}

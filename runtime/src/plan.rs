//! What is resolved and checked once, when an object is loaded, so that running needs no look-ups that can fail.

use lacuna_isa::format::{Format, ScalarType};
use lacuna_isa::inst::{Action, GlobalField, InstKind, Operand, OperandField, Place, Use};
use lacuna_isa::object::{Access, BufferKind, EntryPoint, Kernel, MemSpace, Object};
use lacuna_isa::view::{LOOP_LEVELS, Space, VIEW_DIMS, View};

use crate::se::ProgramPlan;
use crate::trap::LoadError;

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
        |pc: Option<usize>, reason: String| LoadError::Kernel { kernel: kernel.name.clone(), pc, reason };
    if kernel.grid.contains(&0) || kernel.grid.iter().map(|&n| u64::from(n)).product::<u64>() > 1 << 20 {
        return Err(fail(None, format!("grid {:?}", kernel.grid)));
    }
    for (idx, view) in kernel.views.iter().enumerate() {
        check_view(view).map_err(|reason| fail(None, format!("view {idx}: {reason}")))?;
    }
    for (idx, trip) in kernel.trips.iter().enumerate() {
        if trip.max > MAX_TRIP || trip.base.abs() > 1 << 40 {
            return Err(fail(None, format!("trip {idx} may count to {}", trip.max)));
        }
    }
    for buffer in &kernel.buffers {
        if buffer.slots == 0 {
            return Err(fail(None, format!("buffer {} has no slots", buffer.name)));
        }
    }
    let ends = match_loops(kernel).map_err(|(pc, reason)| fail(Some(pc), reason))?;
    for (pc, inst) in kernel.code.iter().enumerate() {
        check_inst(kernel, &inst.kind).map_err(|reason| fail(Some(pc), reason))?;
    }
    let programs = kernel
        .programs
        .iter()
        .map(|program| {
            ProgramPlan::new(kernel, program)
                .map_err(|reason| fail(None, format!("program {}: {reason}", program.name)))
        })
        .collect::<Result<_, _>>()?;
    Ok(KernelPlan { kernel, ends, programs })
}

fn check_view(view: &View) -> Result<(), String> {
    let elements = view
        .dims
        .iter()
        .try_fold(1u64, |n, d| n.checked_mul(u64::from(d.size)).filter(|&n| n <= MAX_ELEMENTS));
    if elements.is_none() {
        return Err("its box is too large".into());
    }
    if usize::from(view.k_dim) >= VIEW_DIMS {
        return Err(format!("it has no dimension {}", view.k_dim));
    }
    if view.offset.unsigned_abs() > 1 << 50 {
        return Err(format!("offset {}", view.offset));
    }
    let advances = view.levels.iter().chain(&view.coords).flatten();
    for advance in advances {
        if usize::from(advance.dim) >= VIEW_DIMS {
            return Err(format!("it has no dimension {} to advance", advance.dim));
        }
    }
    if let Some(pattern) = view.pattern
        && (pattern.n == 0 || pattern.n > pattern.m || pattern.m > 16)
    {
        return Err(format!("pattern {pattern}"));
    }
    if let Format::Grouped(group) = view.format
        && (group.size == 0 || group.pair_shift || group.scale.bits() != 8)
    {
        return Err(format!("the machine has no arithmetic for {group}"));
    }
    Ok(())
}

fn match_loops(kernel: &Kernel) -> Result<Vec<usize>, (usize, String)> {
    let mut ends: Vec<usize> = (0..kernel.code.len()).collect();
    let mut open: Vec<(usize, u8)> = Vec::new();
    for (pc, inst) in kernel.code.iter().enumerate() {
        let ends_loop = matches!(inst.kind, InstKind::End {});
        let stages = open.last().map_or(1, |&(_, stages)| stages.max(1));
        if inst.stage >= stages && !ends_loop {
            return Err((pc, format!("stage {} of a loop with {stages}", inst.stage)));
        }
        match inst.kind {
            InstKind::Loop { trip, level, stages } => {
                if usize::from(trip) >= kernel.trips.len() {
                    return Err((pc, format!("there is no trip {trip}")));
                }
                if usize::from(level) >= LOOP_LEVELS {
                    return Err((pc, format!("there is no loop level {level}")));
                }
                if stages > 4 {
                    return Err((pc, format!("{stages} stages")));
                }
                open.push((pc, stages));
            }
            InstKind::End {} => match open.pop() {
                Some((start, _)) => ends[start] = pc,
                None => return Err((pc, "no loop is open".into())),
            },
            InstKind::Halt {} => {
                if pc + 1 != kernel.code.len() || !open.is_empty() {
                    return Err((pc, "halt before the end of the stream".into()));
                }
            }
            InstKind::Launch { .. } => return Err((pc, "launch in a kernel's stream".into())),
            _ => {}
        }
    }
    match kernel.code.last().map(|inst| inst.kind) {
        Some(InstKind::Halt {}) => Ok(ends),
        Some(_) | None => {
            Err((kernel.code.len().saturating_sub(1), "the stream does not end in halt".into()))
        }
    }
}

/// Checks that an operand's buffer and local view exist and that its action fits its use.
pub(crate) fn check_operand(kernel: &Kernel, operand: &Operand, how: Use) -> Result<(), String> {
    let buffer = kernel
        .buffers
        .get(usize::from(operand.buffer))
        .ok_or_else(|| format!("there is no buffer {}", operand.buffer))?;
    let view = kernel
        .views
        .get(usize::from(operand.view))
        .ok_or_else(|| format!("there is no view {}", operand.view))?;
    if view.space != Space::Local {
        return Err(format!(
            "view {} is global, the operand on {} needs a local one",
            operand.view, buffer.name
        ));
    }
    if buffer.kind == BufferKind::Bank && (view.format != Format::F32 || view.pattern.is_some()) {
        return Err(format!("bank {} holds f32, view {} has {}", buffer.name, operand.view, view.format));
    }
    let fits = match operand.action {
        Action::Read => how == Use::Source,
        Action::Pop => how == Use::Source && operand.delta == 0,
        Action::Push => matches!(how, Use::Dest | Use::Fresh) && operand.delta == 0,
        Action::Update => matches!(how, Use::Dest | Use::Change),
    };
    if !fits {
        let Operand { action, delta, .. } = operand;
        return Err(format!("action {action:?} with delta {delta} on buffer {} does not fit", buffer.name));
    }
    Ok(())
}

fn global(kernel: &Kernel, view: u16, writes: bool) -> Result<&View, String> {
    let table = kernel.views.get(usize::from(view)).ok_or_else(|| format!("there is no view {view}"))?;
    let Space::Global(register) = table.space else {
        return Err(format!("view {view} is local, the instruction needs a global one"));
    };
    let tensor = kernel
        .tensors
        .get(usize::from(register))
        .ok_or_else(|| format!("view {view} names base register {register}, which does not exist"))?;
    let legal = match tensor.access {
        Access::In => !writes,
        Access::Out => writes,
        Access::InOut => true,
    };
    if !legal {
        return Err(format!("base register {register} is {:?}", tensor.access));
    }
    Ok(table)
}

fn check_inst(kernel: &Kernel, inst: &InstKind) -> Result<(), String> {
    for OperandField { operand, how, place, .. } in inst.operands() {
        check_operand(kernel, &operand, how)?;
        let buffer = &kernel.buffers[usize::from(operand.buffer)];
        match (place, buffer.kind) {
            (Place::Bank, BufferKind::Local) => return Err(format!("buffer {} is not a bank", buffer.name)),
            (Place::Local, BufferKind::Bank) => return Err(format!("buffer {} is a bank", buffer.name)),
            (Place::Bank, BufferKind::Bank) | (Place::Local, BufferKind::Local) | (Place::Any, _) => {}
        }
    }
    if let Some(GlobalField { view, writes, .. }) = inst.global() {
        global(kernel, view, writes)?;
    }
    let view = |operand: &Operand| &kernel.views[usize::from(operand.view)];
    let global = |number: u16| &kernel.views[usize::from(number)];
    let unknown = || Err(format!("the interpreter does not execute `{}`", inst.mnemonic()));
    match inst {
        InstKind::Launch { .. } | InstKind::Loop { .. } | InstKind::End {} | InstKind::Halt {} => Ok(()),
        InstKind::Pop { buffer, .. } => (usize::from(*buffer) < kernel.buffers.len())
            .then_some(())
            .ok_or_else(|| format!("there is no buffer {buffer}")),
        InstKind::Ld { dst, src, .. } => widening(global(*src), view(dst)),
        InstKind::Gather { dst, src, idx, dim, .. } => {
            if usize::from(*dim) >= VIEW_DIMS {
                return Err(format!("there is no dimension {dim}"));
            }
            match view(idx).format {
                Format::Scalar(ScalarType::I32 | ScalarType::I64) => {}
                other => return Err(format!("indices are {other}, not i32 or i64")),
            }
            widening(global(*src), view(dst))
        }
        InstKind::St { src, dst } => {
            let (from, to) = (view(src), global(*dst));
            if from.format != to.format || from.pattern != to.pattern {
                return Err(format!("a store from {} to {}", from.format, to.format));
            }
            Ok(())
        }
        InstKind::Fill { value, .. } => (usize::from(*value) < kernel.constants.len())
            .then_some(())
            .ok_or_else(|| format!("there is no constant {value}")),
        InstKind::Mm { a, b, .. } => product(view(a), view(b), false),
        InstKind::Mmnm { a, b, .. } => product(view(a), view(b), true),
        InstKind::Zero { .. } | InstKind::Drain { .. } => Ok(()),
        InstKind::Run { program } => (usize::from(*program) < kernel.programs.len())
            .then_some(())
            .ok_or_else(|| format!("there is no program {program}")),
        InstKind::Ldp { .. } => unknown(),
        InstKind::Post { .. } => unknown(),
        InstKind::Wait { .. } => unknown(),
        InstKind::Bar { .. } => unknown(),
        InstKind::Gate { .. } => unknown(),
        InstKind::Ldx { .. } => unknown(),
        InstKind::Ldmask { .. } => unknown(),
        InstKind::Scatter { .. } => unknown(),
        InstKind::Xchg { .. } => unknown(),
        InstKind::Move { .. } => unknown(),
        InstKind::Perm { .. } => unknown(),
        InstKind::Mask { .. } => unknown(),
        InstKind::Pack { .. } => unknown(),
        InstKind::Mmblk { .. } => unknown(),
        InstKind::Mmact { .. } => unknown(),
        InstKind::Seed { .. } => unknown(),
        InstKind::Resc { .. } => unknown(),
        InstKind::Stat { .. } => unknown(),
        InstKind::Xred { .. } => unknown(),
        InstKind::Sort { .. } => unknown(),
        InstKind::Merge { .. } => unknown(),
        InstKind::Allred { .. } => unknown(),
        InstKind::Allgath { .. } => unknown(),
        InstKind::Redscat { .. } => unknown(),
        InstKind::Alltoall { .. } => unknown(),
        InstKind::Send { .. } => unknown(),
        InstKind::Recv { .. } => unknown(),
    }
}

fn product(a: &View, b: &View, wants_pattern: bool) -> Result<(), String> {
    if b.pattern.is_some() != wants_pattern {
        return Err("only `mmnm` has a second operand with a pattern".into());
    }
    if a.pattern.is_some() {
        return Err("the first operand has a pattern".into());
    }
    for format in [a.format, b.format] {
        if !multiplies(format) {
            return Err(format!("the DPE does not multiply {format}"));
        }
    }
    Ok(())
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

/// True for two's complement types.
pub(crate) fn is_signed(ty: ScalarType) -> bool {
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

fn widening(src: &View, dst: &View) -> Result<(), String> {
    let legal = match (src.format, dst.format) {
        (from, to) if from == to => true,
        (Format::Scalar(from), Format::Scalar(to)) => widens(from, to),
        (Format::Grouped(from), Format::Grouped(to)) => {
            from.size == to.size
                && from.scale == to.scale
                && from.element != ScalarType::I8
                && widens(from.element, to.element)
        }
        (Format::Grouped(_), Format::Scalar(to)) => {
            src.pattern.is_none() && matches!(to, ScalarType::F32 | ScalarType::F64 | ScalarType::Bf16)
        }
        (Format::Scalar(_), Format::Grouped(_)) => false,
    };
    if src.pattern != dst.pattern {
        return Err("the slot's view and the tensor's have different patterns".into());
    }
    legal.then_some(()).ok_or_else(|| format!("{} does not widen to {}", src.format, dst.format))
}

/// Checks an entry: its launches and ports stay within memory. Returns the launch numbers in stream order.
pub(crate) fn plan_entry(object: &Object, entry: &EntryPoint) -> Result<Vec<usize>, LoadError> {
    let fail = |reason: String| LoadError::Entry { entry: entry.name.clone(), reason };
    let size_of = |space: MemSpace| match space {
        MemSpace::Weights => object.weights.bytes().len() as u64,
        MemSpace::Hbm => object.hbm_bytes,
        MemSpace::Sram => object.sram_bytes,
    };
    for port in entry.inputs.iter().chain(&entry.outputs) {
        let end = port_bytes(port).and_then(|bytes| port.address.offset.checked_add(bytes));
        if port.address.space == MemSpace::Weights || end.is_none_or(|end| end > size_of(port.address.space))
        {
            return Err(fail(format!("port {} lies outside memory", port.name)));
        }
    }
    for (idx, launch) in entry.launches.iter().enumerate() {
        let Some(kernel) = object.kernels.get(launch.kernel as usize) else {
            return Err(fail(format!("launch {idx} names kernel {}, which does not exist", launch.kernel)));
        };
        if launch.bases.len() != kernel.tensors.len() {
            let (found, wanted) = (launch.bases.len(), kernel.tensors.len());
            return Err(fail(format!(
                "launch {idx} sets {found} of {wanted} base registers of {}",
                kernel.name
            )));
        }
        for (base, tensor) in launch.bases.iter().zip(&kernel.tensors) {
            let end = base.offset.checked_add(tensor.bytes);
            if end.is_none_or(|end| end > size_of(base.space)) {
                return Err(fail(format!("launch {idx} of {}: {base:?} lies outside memory", kernel.name)));
            }
            if base.space == MemSpace::Weights && tensor.access != Access::In {
                return Err(fail(format!("launch {idx} of {} writes weights", kernel.name)));
            }
        }
    }
    let mut order = Vec::new();
    for (pc, inst) in entry.code.iter().enumerate() {
        match inst.kind {
            InstKind::Launch { launch } if usize::from(launch) < entry.launches.len() => {
                order.push(usize::from(launch));
            }
            InstKind::Halt {} if pc + 1 == entry.code.len() => return Ok(order),
            other => return Err(fail(format!("instruction {pc} is {other:?}"))),
        }
    }
    Err(fail("the stream does not end in halt".into()))
}

/// Bytes of a port's elements.
pub(crate) fn port_bytes(port: &lacuna_isa::object::Port) -> Option<u64> {
    let elements = port.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d))?;
    elements.checked_mul(u64::from(port.elem.bits())).map(|bits| bits.div_ceil(8))
}

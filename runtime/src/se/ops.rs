//! Registers, and the operations between them. Everything here is inlined into functions compiled for the host's vector
//! units (see [`crate::simd`]).
//!
//! Functions that are not exact in themselves (exponentials, trigonometry and so on) are those of [`lacuna_isa::math`],
//! on 64-bit float lanes those of [`lacuna_isa::math::double`].

use lacuna_isa::format::ScalarType;
use lacuna_isa::math;
use lacuna_isa::program::{ACCUMULATORS, Lane, PARTIALS, REGISTERS, Reg, SeOp, SeReduce};

use super::strips::STRIP;

/// Registers and accumulators of one PE.
#[derive(Debug)]
#[expect(clippy::vec_box, reason = "an operation ends by exchanging its result with a register, by pointer")]
pub(crate) struct Lanes {
    r32: Vec<Box<[u32; STRIP]>>,
    r64: Vec<Box<[u64; STRIP]>>,
    t32: Box<[u32; STRIP]>,
    t64: Box<[u64; STRIP]>,
    /// Partials of every accumulator, empty until one is used.
    a32: Vec<Box<[u32; STRIP]>>,
    a64: Vec<Box<[u64; STRIP]>>,
}

impl Default for Lanes {
    fn default() -> Lanes {
        Lanes {
            r32: vec![Box::new([0; STRIP]); REGISTERS],
            r64: vec![Box::new([0; STRIP]); REGISTERS],
            t32: Box::new([0; STRIP]),
            t64: Box::new([0; STRIP]),
            a32: Vec::new(),
            a64: Vec::new(),
        }
    }
}

const fn wide(lane: Lane) -> bool {
    matches!(lane, Lane::F64 | Lane::I64)
}

/// The bits that leave any operand of `f` as it is.
fn identity(f: SeReduce, lane: Lane) -> u64 {
    let float = |x: f32| match lane {
        Lane::F64 => f64::from(x).to_bits(),
        Lane::F32 | Lane::I32 | Lane::I64 => u64::from(x.to_bits()),
    };
    match (f, lane) {
        (SeReduce::Sum, _) => 0,
        (SeReduce::Prod, Lane::F32 | Lane::F64) => float(1.0),
        (SeReduce::Prod, Lane::I32 | Lane::I64) => 1,
        (SeReduce::Max, Lane::F32 | Lane::F64) => float(f32::NEG_INFINITY),
        (SeReduce::Min, Lane::F32 | Lane::F64) => float(f32::INFINITY),
        (SeReduce::Max, Lane::I32) => i32::MIN as u32 as u64,
        (SeReduce::Min, Lane::I32) => i32::MAX as u64,
        (SeReduce::Max, Lane::I64) => i64::MIN as u64,
        (SeReduce::Min, Lane::I64) => i64::MAX as u64,
    }
}

impl Lanes {
    /// The 32-bit lanes of a register.
    pub fn reg32(&self, reg: Reg) -> &[u32; STRIP] {
        &self.r32[usize::from(reg.0)]
    }

    /// The 64-bit lanes of a register.
    pub fn reg64(&self, reg: Reg) -> &[u64; STRIP] {
        &self.r64[usize::from(reg.0)]
    }

    /// The 32-bit lanes of a register.
    pub fn reg32_mut(&mut self, reg: Reg) -> &mut [u32; STRIP] {
        &mut self.r32[usize::from(reg.0)]
    }

    /// The 64-bit lanes of a register.
    pub fn reg64_mut(&mut self, reg: Reg) -> &mut [u64; STRIP] {
        &mut self.r64[usize::from(reg.0)]
    }

    /// Makes room for the accumulators of a program, and clears the registers.
    pub fn prepare(&mut self, accumulators: &[(u8, SeReduce, Lane)]) {
        if accumulators.iter().any(|entry| !wide(entry.2)) && self.a32.is_empty() {
            self.a32 = vec![Box::new([0; STRIP]); ACCUMULATORS * PARTIALS];
        }
        if accumulators.iter().any(|entry| wide(entry.2)) && self.a64.is_empty() {
            self.a64 = vec![Box::new([0; STRIP]); ACCUMULATORS * PARTIALS];
        }
    }

    /// Sets the first `n` lanes of all partials to their identities.
    pub fn reset_accumulators(&mut self, accumulators: &[(u8, SeReduce, Lane)], n: usize) {
        for &(acc, f, lane) in accumulators {
            let bits = identity(f, lane);
            let first = usize::from(acc) * PARTIALS;
            for partial in first..first + PARTIALS {
                if wide(lane) {
                    self.a64[partial][..n].fill(bits);
                } else {
                    self.a32[partial][..n].fill(bits as u32);
                }
            }
        }
    }

    /// Copies lane `from` of registers into their first `n` lanes.
    pub fn broadcast(&mut self, regs: &[Reg], from: usize, n: usize) {
        for reg in regs {
            let lanes = self.reg32_mut(*reg);
            let bits = lanes[from];
            lanes[..n].fill(bits);
            let lanes = self.reg64_mut(*reg);
            let bits = lanes[from];
            lanes[..n].fill(bits);
        }
    }
}

/// Where an operation runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    /// Lanes in use.
    pub n: usize,
    /// Index of the sequence, of lane 0 where lanes lie along it.
    pub index: u64,
    /// Whether lanes lie along the sequence.
    pub along_sequence: bool,
}

macro_rules! apply {
    ($lanes:ident, $n:expr, $dst:expr, $out:ident / $tmp:ident, ($($reg:expr => $in:ident),*), |$($x:ident),*| $body:expr) => {{
        let n = $n;
        {
            let out = &mut $lanes.$tmp[..n];
            apply!(@loop $lanes, n, out, ($($reg => $in),*), ($($x),*), $body);
        }
        std::mem::swap(&mut $lanes.$out[usize::from($dst.0)], &mut $lanes.$tmp);
    }};
    (@loop $lanes:ident, $n:ident, $o:ident, ($ra:expr => $ia:ident), ($a:ident), $body:expr) => {
        let xa = &$lanes.$ia[usize::from($ra.0)][..$n];
        for i in 0..$n { let $a = xa[i]; $o[i] = $body; }
    };
    (@loop $lanes:ident, $n:ident, $o:ident, ($ra:expr => $ia:ident, $rb:expr => $ib:ident), ($a:ident, $b:ident), $body:expr) => {
        let xa = &$lanes.$ia[usize::from($ra.0)][..$n];
        let xb = &$lanes.$ib[usize::from($rb.0)][..$n];
        for i in 0..$n { let $a = xa[i]; let $b = xb[i]; $o[i] = $body; }
    };
    (@loop $lanes:ident, $n:ident, $o:ident, ($ra:expr => $ia:ident, $rb:expr => $ib:ident, $rc:expr => $ic:ident), ($a:ident, $b:ident, $c:ident), $body:expr) => {
        let xa = &$lanes.$ia[usize::from($ra.0)][..$n];
        let xb = &$lanes.$ib[usize::from($rb.0)][..$n];
        let xc = &$lanes.$ic[usize::from($rc.0)][..$n];
        for i in 0..$n { let $a = xa[i]; let $b = xb[i]; let $c = xc[i]; $o[i] = $body; }
    };
}

macro_rules! f32_map {
    ($lanes:ident, $n:expr, $dst:expr, $a:expr, |$x:ident| $body:expr) => {
        apply!($lanes, $n, $dst, r32 / t32, ($a => r32), |bits| {
            let $x = f32::from_bits(bits);
            f32::to_bits($body)
        })
    };
}

macro_rules! f64_map {
    ($lanes:ident, $n:expr, $dst:expr, $a:expr, |$x:ident| $body:expr) => {
        apply!($lanes, $n, $dst, r64 / t64, ($a => r64), |bits| {
            let $x = f64::from_bits(bits);
            f64::to_bits($body)
        })
    };
}

mod functions;

use functions::{
    binary_f32, binary_f64, binary_i32, binary_i64, convert, max64, min64, unary_f32, unary_f64, unary_i32,
    unary_i64,
};

macro_rules! reduce_with {
    ($f:expr, $lane:expr, $do:ident, $r32:ident, $a32:ident, $r64:ident, $a64:ident) => {
        match ($lane, $f) {
            (Lane::F32, SeReduce::Sum) => $do!($r32, $a32, f32::from_bits, |a: f32, b: f32| a + b),
            (Lane::F32, SeReduce::Prod) => $do!($r32, $a32, f32::from_bits, |a: f32, b: f32| a * b),
            (Lane::F32, SeReduce::Max) => $do!($r32, $a32, f32::from_bits, math::fmax),
            (Lane::F32, SeReduce::Min) => $do!($r32, $a32, f32::from_bits, math::fmin),
            (Lane::F64, SeReduce::Sum) => $do!($r64, $a64, f64::from_bits, |a: f64, b: f64| a + b),
            (Lane::F64, SeReduce::Prod) => $do!($r64, $a64, f64::from_bits, |a: f64, b: f64| a * b),
            (Lane::F64, SeReduce::Max) => $do!($r64, $a64, f64::from_bits, max64),
            (Lane::F64, SeReduce::Min) => $do!($r64, $a64, f64::from_bits, min64),
            (Lane::I32, SeReduce::Sum) => $do!($r32, $a32, u32::cast_signed, i32::wrapping_add),
            (Lane::I32, SeReduce::Prod) => $do!($r32, $a32, u32::cast_signed, i32::wrapping_mul),
            (Lane::I32, SeReduce::Max) => $do!($r32, $a32, u32::cast_signed, Ord::max),
            (Lane::I32, SeReduce::Min) => $do!($r32, $a32, u32::cast_signed, Ord::min),
            (Lane::I64, SeReduce::Sum) => $do!($r64, $a64, u64::cast_signed, i64::wrapping_add),
            (Lane::I64, SeReduce::Prod) => $do!($r64, $a64, u64::cast_signed, i64::wrapping_mul),
            (Lane::I64, SeReduce::Max) => $do!($r64, $a64, u64::cast_signed, Ord::max),
            (Lane::I64, SeReduce::Min) => $do!($r64, $a64, u64::cast_signed, Ord::min),
        }
    };
}

/// Runs an operation other than a load, a store or a coordinate.
#[inline(always)]
pub(crate) fn run(op: &SeOp, constants: &[u64], lanes: &mut Lanes, step: Step) {
    let n = step.n.min(STRIP);
    match *op {
        SeOp::Load { .. } | SeOp::Store { .. } | SeOp::Coord { .. } => {}
        SeOp::Const { dst, lane, index } => {
            let bits = constants[usize::from(index)];
            if wide(lane) {
                lanes.reg64_mut(dst)[..n].fill(bits);
            } else {
                lanes.reg32_mut(dst)[..n].fill(bits as u32);
            }
        }
        SeOp::Unary { f, lane, dst, a } => match lane {
            Lane::F32 => unary_f32(f, lanes, n, dst, a),
            Lane::F64 => unary_f64(f, lanes, n, dst, a),
            Lane::I32 => unary_i32(f, lanes, n, dst, a),
            Lane::I64 => unary_i64(f, lanes, n, dst, a),
        },
        SeOp::Binary { f, lane, dst, a, b } => match lane {
            Lane::F32 => binary_f32(f, lanes, n, dst, a, b),
            Lane::F64 => binary_f64(f, lanes, n, dst, a, b),
            Lane::I32 => binary_i32(f, lanes, n, dst, a, b),
            Lane::I64 => binary_i64(f, lanes, n, dst, a, b),
        },
        SeOp::Fma { lane, dst, a, b, c } => {
            if wide(lane) {
                apply!(lanes, n, dst, r64 / t64, (a => r64, b => r64, c => r64), |x, y, z| {
                    f64::from_bits(x).mul_add(f64::from_bits(y), f64::from_bits(z)).to_bits()
                });
            } else {
                apply!(lanes, n, dst, r32 / t32, (a => r32, b => r32, c => r32), |x, y, z| {
                    f32::from_bits(x).mul_add(f32::from_bits(y), f32::from_bits(z)).to_bits()
                });
            }
        }
        SeOp::Select { lane, dst, c, a, b } => {
            if wide(lane) {
                apply!(lanes, n, dst, r64 / t64, (c => r32, a => r64, b => r64), |m, x, y| if m != 0 { x } else { y });
            } else {
                apply!(lanes, n, dst, r32 / t32, (c => r32, a => r32, b => r32), |m, x, y| if m != 0 { x } else { y });
            }
        }
        SeOp::Convert { from, to, dst, a } => convert(from, to, lanes, n, dst, a),
        SeOp::RoundTo { format, saturate, lane, dst, a } => {
            let Some(ty) = ScalarType::from_code(format) else { return };
            let bound = largest(ty);
            if wide(lane) {
                f64_map!(lanes, n, dst, a, |x| {
                    let rounded = ty.decode(ty.encode(x));
                    if saturate && rounded.is_infinite() { bound.copysign(rounded) } else { rounded }
                });
            } else if ty.bits() <= 32 {
                f32_map!(lanes, n, dst, a, |x| {
                    let rounded = ty.decode_f32(ty.encode_f32(x));
                    if saturate && rounded.is_infinite() { (bound as f32).copysign(rounded) } else { rounded }
                });
            } else {
                f32_map!(lanes, n, dst, a, |x| ty.decode(ty.encode(f64::from(x))) as f32);
            }
        }
        SeOp::Accumulate { f, lane, acc, a } => accumulate(f, lane, acc, a, lanes, step),
        SeOp::Tree { f, lane, dst, acc } => tree(f, lane, dst, acc, lanes, n),
    }
}

/// Adds a register to the partials of an accumulator.
#[inline(always)]
fn accumulate(f: SeReduce, lane: Lane, acc: u8, a: Reg, lanes: &mut Lanes, step: Step) {
    let n = step.n.min(STRIP);
    let first = usize::from(acc) * PARTIALS;
    let reg = usize::from(a.0);
    macro_rules! accumulate {
        ($regs:ident, $accs:ident, $from:expr, $combine:expr) => {
            if step.along_sequence {
                let mut partials = [Default::default(); PARTIALS];
                for (p, partial) in partials.iter_mut().enumerate() {
                    *partial = $from(lanes.$accs[first + p][0]);
                }
                let values = &lanes.$regs[reg][..n];
                let start = (step.index % PARTIALS as u64) as usize;
                let head = ((PARTIALS - start) % PARTIALS).min(n);
                for (i, &value) in values[..head].iter().enumerate() {
                    let p = start + i;
                    partials[p] = $combine(partials[p], $from(value));
                }
                let (chunks, tail) = values[head..].as_chunks::<PARTIALS>();
                for chunk in chunks {
                    for p in 0..PARTIALS {
                        partials[p] = $combine(partials[p], $from(chunk[p]));
                    }
                }
                for (p, &value) in tail.iter().enumerate() {
                    partials[p] = $combine(partials[p], $from(value));
                }
                for (p, partial) in partials.into_iter().enumerate() {
                    lanes.$accs[first + p][0] = partial.to_bits_of();
                }
            } else {
                let p = (step.index % PARTIALS as u64) as usize;
                let values = &lanes.$regs[reg][..n];
                let out = &mut lanes.$accs[first + p][..n];
                for i in 0..n {
                    out[i] = $combine($from(out[i]), $from(values[i])).to_bits_of();
                }
            }
        };
    }
    reduce_with!(f, lane, accumulate, r32, a32, r64, a64);
}

/// Combines the partials of an accumulator, halves with halves.
#[inline(always)]
fn tree(f: SeReduce, lane: Lane, dst: Reg, acc: u8, lanes: &mut Lanes, n: usize) {
    let first = usize::from(acc) * PARTIALS;
    macro_rules! tree {
        ($regs:ident, $accs:ident, $from:expr, $combine:expr) => {
            for i in 0..n {
                let mut partials = [Default::default(); PARTIALS];
                for (p, partial) in partials.iter_mut().enumerate() {
                    *partial = $from(lanes.$accs[first + p][i]);
                }
                let mut half = PARTIALS / 2;
                while half > 0 {
                    for p in 0..half {
                        partials[p] = $combine(partials[p], partials[p + half]);
                    }
                    half /= 2;
                }
                lanes.$regs[usize::from(dst.0)][i] = partials[0].to_bits_of();
            }
        };
    }
    reduce_with!(f, lane, tree, r32, a32, r64, a64);
}

/// Largest finite value of a float type.
fn largest(ty: ScalarType) -> f64 {
    match ty {
        ScalarType::F16 => 65504.0,
        ScalarType::E5M2 => 57344.0,
        ScalarType::Bf16 => f64::from(f32::from_bits(0x7F7F_0000)),
        ScalarType::F32 => f64::from(f32::MAX),
        _ => f64::MAX,
    }
}

/// The bits of a lane's value.
trait LaneBits {
    type Bits;
    fn to_bits_of(self) -> Self::Bits;
}

macro_rules! lane_bits {
    ($($ty:ty => $bits:ty, |$x:ident| $body:expr;)*) => {$(
        impl LaneBits for $ty {
            type Bits = $bits;
            #[inline(always)]
            fn to_bits_of(self) -> $bits {
                let $x = self;
                $body
            }
        }
    )*};
}
lane_bits! {
    f32 => u32, |x| x.to_bits();
    f64 => u64, |x| x.to_bits();
    i32 => u32, |x| x as u32;
    i64 => u64, |x| x as u64;
}

#[cfg(test)]
mod tests;

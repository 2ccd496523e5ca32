//! Loads and stores of SE programs: elements of any format to lanes and back.

use lacuna_isa::format::group::GroupScale;
use lacuna_isa::format::{Format, GroupFormat, ScalarType, pack};
use lacuna_isa::program::{Lane, Reg};

use super::ops::Lanes;
use super::strips::{STRIP, Strip};
use crate::codes::{fixed_point, int_value};
use crate::slots::Layout;

/// The bytes behind a stream.
pub(crate) enum Data<'a> {
    /// Planes that are only read.
    Read([&'a [u8]; 3]),
    /// Scalars that may be written.
    Write(&'a mut [u8]),
    /// Dense values of a grouped slot, quantised when the program ends.
    Groups { values: Vec<f32>, touched: Vec<bool>, bytes: &'a mut [u8] },
}

impl<'a> Data<'a> {
    /// A slot that may be written; a `fresh` one is all zeros.
    pub fn write(bytes: &'a mut [u8], layout: &Layout, fresh: bool) -> Data<'a> {
        match layout.map.format {
            Format::Scalar(_) => Data::Write(bytes),
            // Code 0 under any scale but NaN is 0, and scale code 0 is none.
            Format::Grouped(_) if fresh => {
                let n = layout.elements as usize;
                Data::Groups { values: vec![0.0; n], touched: vec![false; n], bytes }
            }
            Format::Grouped(format) => {
                let sizes = layout.map.plane_bytes(layout.elements);
                let (codes, rest) = bytes.split_at(sizes[0] as usize);
                let values = (0..layout.elements as usize)
                    .map(|e| {
                        if layout.map.pattern.is_some() {
                            0.0
                        } else {
                            group_value(format, codes, rest, layout, e) as f32
                        }
                    })
                    .collect();
                Data::Groups { values, touched: vec![false; layout.elements as usize], bytes }
            }
        }
    }
}

/// A stream of a running program.
pub(crate) struct StreamState<'a> {
    pub layout: Layout,
    /// Whether it is a bank, whose -0 loads as +0.
    pub bank: bool,
    pub data: Data<'a>,
}

fn group_value(format: GroupFormat, codes: &[u8], scales: &[u8], layout: &Layout, e: usize) -> f64 {
    let unit = if fixed_point(layout.map.format) { 64.0 } else { 1.0 };
    let value = format.element.decode(pack::get(codes, format.element, e)) / unit;
    let (number, place) = layout.map.group_place(e as u64);
    let scale = GroupScale::read(format, scales, number as usize);
    value * f64::from(scale.shift(place as usize)) * scale.value(format)
}

/// Loads a strip into a register.
pub(crate) fn load(
    stream: &StreamState<'_>,
    lane: Lane,
    strip: &Strip,
    number: usize,
    lanes: &mut Lanes,
    dst: Reg,
) {
    let n = strip.n;
    match (&stream.data, stream.layout.map.format) {
        (Data::Groups { values, .. }, _) => match lane {
            Lane::F32 => {
                each(lanes.reg32_mut(dst), n, |i| values[strip.address(number, i) as usize].to_bits())
            }
            Lane::F64 => each(lanes.reg64_mut(dst), n, |i| {
                f64::from(values[strip.address(number, i) as usize]).to_bits()
            }),
            Lane::I32 | Lane::I64 => {}
        },
        (Data::Read([codes, scales, _]), Format::Grouped(format)) => {
            let layout = &stream.layout;
            let value =
                |i: usize| group_value(format, codes, scales, layout, strip.address(number, i) as usize);
            match lane {
                Lane::F32 => each(lanes.reg32_mut(dst), n, |i| (value(i) as f32).to_bits()),
                Lane::F64 => each(lanes.reg64_mut(dst), n, |i| value(i).to_bits()),
                Lane::I32 | Lane::I64 => {}
            }
        }
        (Data::Read([bytes, ..]), Format::Scalar(ty)) => {
            load_scalar(bytes, ty, stream.bank, lane, strip, number, lanes, dst)
        }
        (Data::Write(bytes), format) => {
            load_scalar(bytes, format.element(), stream.bank, lane, strip, number, lanes, dst);
        }
    }
}

fn each<T>(out: &mut [T; STRIP], n: usize, f: impl Fn(usize) -> T) {
    for (i, lane) in out[..n].iter_mut().enumerate() {
        *lane = f(i);
    }
}

#[expect(clippy::too_many_arguments, reason = "the parts of a stream, a strip and a register")]
fn load_scalar(
    bytes: &[u8],
    ty: ScalarType,
    bank: bool,
    lane: Lane,
    strip: &Strip,
    number: usize,
    lanes: &mut Lanes,
    dst: Reg,
) {
    let n = strip.n;
    let code = |i: usize| pack::get(bytes, ty, strip.address(number, i) as usize);
    match lane {
        Lane::F32 => {
            let out = lanes.reg32_mut(dst);
            let at = strip.base[number] as usize;
            match (strip.progression(number), ty) {
                (Some(0), _) => {
                    let mut one = [0f32];
                    pack::decode_slice(ty, bytes, at, &mut one);
                    out[..n].fill(one[0].to_bits());
                }
                (Some(1), _) => {
                    let floats: &mut [f32; STRIP] = bytemuck::cast_mut(out);
                    pack::decode_slice(ty, bytes, at, &mut floats[..n]);
                }
                (_, ScalarType::F32) => each(out, n, |i| {
                    let at = strip.address(number, i) as usize * 4;
                    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
                }),
                (
                    _,
                    ScalarType::I32 | ScalarType::U32 | ScalarType::I64 | ScalarType::U64 | ScalarType::F64,
                ) => {
                    each(out, n, |i| {
                        let mut one = [0f32];
                        pack::decode_slice(ty, bytes, strip.address(number, i) as usize, &mut one);
                        one[0].to_bits()
                    });
                }
                _ => each(out, n, |i| ty.decode_f32(code(i) as u32).to_bits()),
            }
            if bank {
                for lane in &mut out[..n] {
                    *lane = (f32::from_bits(*lane) + 0.0).to_bits();
                }
            }
        }
        Lane::F64 => {
            each(lanes.reg64_mut(dst), n, |i| (ty.decode(code(i)) + if bank { 0.0 } else { -0.0 }).to_bits())
        }
        Lane::I32 => each(lanes.reg32_mut(dst), n, |i| int_value(ty, code(i)) as u32),
        Lane::I64 => each(lanes.reg64_mut(dst), n, |i| int_value(ty, code(i)) as u64),
    }
}

/// Stores a register's strip. Integer lanes wrap into integer formats; float lanes round to nearest even and saturate
/// there; bool takes whether the lane is not zero.
pub(crate) fn store(
    stream: &mut StreamState<'_>,
    lane: Lane,
    strip: &Strip,
    number: usize,
    lanes: &Lanes,
    src: Reg,
) {
    let n = strip.n;
    match &mut stream.data {
        Data::Read(_) => {}
        Data::Groups { values, touched, .. } => {
            if lane == Lane::F32 && strip.progression(number) == Some(1) {
                let at = strip.base[number] as usize;
                let floats: &[f32; STRIP] = bytemuck::cast_ref(lanes.reg32(src));
                values[at..at + n].copy_from_slice(&floats[..n]);
                touched[at..at + n].fill(true);
                return;
            }
            for i in 0..n {
                let at = strip.address(number, i) as usize;
                values[at] = match lane {
                    Lane::F32 => f32::from_bits(lanes.reg32(src)[i]),
                    Lane::F64 => f64::from_bits(lanes.reg64(src)[i]) as f32,
                    Lane::I32 => lanes.reg32(src)[i] as i32 as f32,
                    Lane::I64 => lanes.reg64(src)[i] as i64 as f32,
                };
                touched[at] = true;
            }
        }
        Data::Write(bytes) => {
            let ty = stream.layout.map.format.element();
            match lane {
                Lane::F32 => {
                    let floats: &[f32; STRIP] = bytemuck::cast_ref(lanes.reg32(src));
                    if strip.progression(number) == Some(1) {
                        pack::encode_slice(ty, &floats[..n], bytes, strip.base[number] as usize);
                    } else {
                        for (i, &value) in floats[..n].iter().enumerate() {
                            let at = strip.address(number, i) as usize;
                            if ty.bits() <= 32 {
                                pack::set(bytes, ty, at, u64::from(ty.encode_f32(value)));
                            } else {
                                pack::set(bytes, ty, at, ty.encode(f64::from(value)));
                            }
                        }
                    }
                }
                Lane::F64 => {
                    for (i, &bits) in lanes.reg64(src)[..n].iter().enumerate() {
                        pack::set(
                            bytes,
                            ty,
                            strip.address(number, i) as usize,
                            ty.encode(f64::from_bits(bits)),
                        );
                    }
                }
                Lane::I32 => {
                    for (i, &bits) in lanes.reg32(src)[..n].iter().enumerate() {
                        let code = from_int(ty, i64::from(bits as i32));
                        pack::set(bytes, ty, strip.address(number, i) as usize, code);
                    }
                }
                Lane::I64 => {
                    for (i, &bits) in lanes.reg64(src)[..n].iter().enumerate() {
                        pack::set(bytes, ty, strip.address(number, i) as usize, from_int(ty, bits as i64));
                    }
                }
            }
        }
    }
}

fn from_int(ty: ScalarType, value: i64) -> u64 {
    if ty == ScalarType::Bool {
        u64::from(value != 0)
    } else if ty.is_int() {
        value as u64
    } else if ty == ScalarType::F64 {
        (value as f64).to_bits()
    } else if ty == ScalarType::F32 {
        u64::from((value as f32).to_bits())
    } else {
        // Narrow floats overflow long before binary64 is inexact.
        ty.encode(value as f64)
    }
}

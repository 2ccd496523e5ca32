//! Codes in planes: filling, copying and converting them.

use lacuna_isa::format::group::GroupScale;
use lacuna_isa::format::{Format, GroupFormat, ScalarType, pack};
use lacuna_isa::inst::Fill;
use lacuna_isa::view::View;

use super::planes::PlaneWalks;
use crate::boxes::Walk;
use crate::codes::{copy_codes, fixed_point};
use crate::slots::Layout;
use crate::trap::{Fault, TrapKind};

/// The fill of a slot: code of an element, and of a scale.
pub(crate) fn fill_code(format: Format, fill: Fill) -> u64 {
    let ty = format.element();
    match (fill, ty) {
        (Fill::Zero, ScalarType::E8M0) | (Fill::Zero, _) => 0,
        (Fill::Least, ScalarType::Bool | ScalarType::E8M0) => 0,
        (Fill::Greatest, ScalarType::Bool) => 1,
        (Fill::Least, ScalarType::I64) => i64::MIN as u64,
        (Fill::Greatest, ScalarType::I64) => i64::MAX as u64,
        (Fill::Greatest, ScalarType::U64) => u64::MAX,
        (Fill::Least, _) => ty.encode(f64::NEG_INFINITY),
        (Fill::Greatest, _) => ty.encode(f64::INFINITY),
        (Fill::One, ScalarType::I8) if fixed_point(format) => 64,
        (Fill::One, _) => ty.encode(1.0),
    }
}

/// Fills `n` elements with one code.
pub(crate) fn fill_elements(bytes: &mut [u8], ty: ScalarType, n: usize, code: u64) {
    let bits = ty.bits() as usize;
    // Eight elements are a whole number of bytes for every width.
    let mut unit = [0; 64];
    for i in 0..8 {
        pack::set(&mut unit, ty, i, code);
    }
    let whole = n / 8;
    if unit[..bits].iter().all(|&byte| byte == unit[0]) {
        bytes[..whole * bits].fill(unit[0]);
        for i in whole * 8..n {
            pack::set(bytes, ty, i, code);
        }
        return;
    }
    for chunk in bytes[..whole * bits].chunks_exact_mut(bits) {
        chunk.copy_from_slice(&unit[..bits]);
    }
    for i in whole * 8..n {
        pack::set(bytes, ty, i, code);
    }
}

/// Fills all planes of a slot: codes with `code`, scales with one, indices ascending.
pub(crate) fn fill_planes(bytes: &mut [u8], layout: &Layout, code: u64) {
    let sizes = layout.map.plane_bytes(layout.elements);
    let (codes, rest) = bytes.split_at_mut(sizes[0] as usize);
    let (scales, indices) = rest.split_at_mut(sizes[1] as usize);
    let ty = layout.map.format.element();
    fill_elements(codes, ty, codes.len() * 8 / ty.bits() as usize, code);
    if let Format::Grouped(format) = layout.map.format {
        for number in 0..scales.len() / format.scale_bytes(1) as usize {
            GroupScale::one(format).write(format, scales, number);
        }
    }
    if let Some(pattern) = layout.map.pattern {
        let ty = pattern.index_type();
        let s = layout.map.k_stride.max(1) as usize;
        for i in 0..indices.len() * 8 / ty.bits() as usize {
            pack::set(indices, ty, i, (i / s % usize::from(pattern.n)) as u64);
        }
    }
}

/// Type of the entries of a scale plane, as which they are copied.
pub(crate) fn scale_type(format: Format) -> ScalarType {
    match format {
        Format::Scalar(_) => ScalarType::E8M0,
        Format::Grouped(format) => format.scale_entry(),
    }
}

/// Faults when a side of a walk leaves a plane of a slot.
pub(crate) fn within(walk: &Walk, side: usize, plane: &[u8], ty: ScalarType) -> Result<(), Fault> {
    let (low, high) = walk.extent(side);
    if low < 0 || high >= 1 << 56 || ty.bytes_for(high as u64 + 1) > plane.len() as u64 {
        return Err(Fault::new(TrapKind::OutOfBounds, format!("elements {low} to {high} of a slot")));
    }
    Ok(())
}

/// Something whose planes can be copied from: a tensor, or a slot.
pub(crate) trait PlaneSource {
    /// Copies one plane of a box into `dst`, converting where the types differ.
    fn copy(
        &mut self,
        walk: &Walk,
        plane: usize,
        from: ScalarType,
        dst: (&mut [u8], ScalarType),
    ) -> Result<(), Fault>;
}

impl PlaneSource for [&[u8]; 3] {
    fn copy(
        &mut self,
        walk: &Walk,
        plane: usize,
        from: ScalarType,
        dst: (&mut [u8], ScalarType),
    ) -> Result<(), Fault> {
        within(walk, 0, self[plane], from)?;
        within(walk, 1, dst.0, dst.1)?;
        copy_codes(walk, (self[plane], 0, from), dst);
        Ok(())
    }
}

/// Copies all planes of a box that `view` describes into a slot of `layout`, whose element type may be wider.
pub(crate) fn copy_planes(
    source: &mut dyn PlaneSource,
    view: &View,
    walks: &PlaneWalks,
    layout: &Layout,
    bytes: &mut [u8],
) -> Result<(), Fault> {
    let sizes = layout.map.plane_bytes(layout.elements);
    let (codes, rest) = bytes.split_at_mut(sizes[0] as usize);
    let (scales, indices) = rest.split_at_mut(sizes[1] as usize);
    source.copy(&walks.codes, 0, view.format.element(), (codes, layout.map.format.element()))?;
    if let Some(walk) = &walks.scales {
        let ty = scale_type(view.format);
        source.copy(walk, 1, ty, (scales, ty))?;
    }
    if let (Some(walk), Some(pattern)) = (&walks.indices, view.pattern) {
        source.copy(walk, 2, pattern.index_type(), (indices, pattern.index_type()))?;
    }
    Ok(())
}

/// Fills a box of a slot: codes with `code`, scales with one, indices ascending.
pub(crate) fn fill_box(
    walks: &PlaneWalks,
    layout: &Layout,
    code: u64,
    bytes: &mut [u8],
) -> Result<(), Fault> {
    let sizes = layout.map.plane_bytes(layout.elements);
    let (codes, rest) = bytes.split_at_mut(sizes[0] as usize);
    let (scales, indices) = rest.split_at_mut(sizes[1] as usize);
    let each = |walk: &Walk, ty: ScalarType, plane: &mut [u8], code: &dyn Fn(i64) -> u64| {
        within(walk, 1, plane, ty)?;
        let (n, [_, ts]) = walk.inner();
        walk.rows(|_, t| {
            (0..n as i64).map(|i| t + i * ts).for_each(|t| pack::set(plane, ty, t as usize, code(t)));
        });
        Ok(())
    };
    each(&walks.codes, layout.map.format.element(), codes, &|_| code)?;
    if let (Some(walk), Format::Grouped(format)) = (&walks.scales, layout.map.format) {
        let mut entry = [0; 2];
        GroupScale::one(format).write(format, &mut entry, 0);
        let one = u64::from(u16::from_le_bytes(entry));
        each(walk, scale_type(layout.map.format), scales, &|_| one)?;
    }
    if let (Some(walk), Some(pattern)) = (&walks.indices, layout.map.pattern) {
        let s = layout.map.k_stride.max(1) as i64;
        each(walk, pattern.index_type(), indices, &|t| (t / s % i64::from(pattern.n)) as u64)?;
    }
    Ok(())
}

/// Multiplies the groups of a tile by their scales and encodes the tile's elements of this box.
pub(crate) fn apply_scales(
    tile: &mut [f32],
    scales: &[u8],
    format: GroupFormat,
    walks: &PlaneWalks,
    k_stride: i64,
    ty: ScalarType,
    out: &mut [u8],
) {
    let s = k_stride.max(1) as usize;
    let size = usize::from(format.size);
    let unit = if fixed_point(Format::Grouped(format)) { 64.0 } else { 1.0 };
    if let Some(walk) = &walks.scales {
        let (n, [_, ts]) = walk.inner();
        walk.rows(|_, t| {
            for i in 0..n as i64 {
                let number = (t + i * ts) as usize;
                let scale = GroupScale::read(format, scales, number);
                let factor = scale.value(format) as f32 / unit;
                let first = number / s * s * size + number % s;
                for j in 0..size {
                    tile[first + j * s] *= scale.shift(j) * factor;
                }
            }
        });
    }
    let (n, [_, ts]) = walks.codes.inner();
    walks.codes.rows(|_, t| {
        if ts == 1 {
            pack::encode_slice(ty, &tile[t as usize..t as usize + n], out, t as usize);
        } else {
            for i in 0..n as i64 {
                let at = (t + i * ts) as usize;
                pack::set(out, ty, at, ty.encode(f64::from(tile[at])));
            }
        }
    });
}

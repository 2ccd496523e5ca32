//! Laying out constants in the object's weights.

use lacuna_ir::{Constant, ConstantData, ElemType};
use lacuna_isa::format::group::GroupScale;
use lacuna_isa::format::{Format, ScalarType, pack};
use lacuna_isa::view::Pattern;

use crate::place::{Packing, Storage};

/// Columns of a panel.
const PANEL: u64 = crate::kernels::problem::PANEL;

/// The bytes of a constant in a packing, all planes.
///
/// # Errors
/// When a pattern group has more non-zeros than the pattern stores.
pub fn packed(constant: &Constant, packing: &Packing, storage: &Storage) -> Result<Vec<u8>, String> {
    match packing {
        Packing::Plain => Ok(match &constant.data {
            ConstantData::Dense(blob) => blob.bytes().to_vec(),
            ConstantData::Splat(code) => {
                let elem = constant.ty.elem.format().element();
                let mut bytes = vec![0; elem.bytes_for(storage.elements) as usize];
                for i in 0..storage.elements as usize {
                    pack::set(&mut bytes, elem, i, *code);
                }
                bytes
            }
        }),
        Packing::Panels { columns, summed, k_inner, pattern } => {
            panels(constant, columns, summed, *k_inner, *pattern, storage)
        }
    }
}

/// Reads codes of a constant by logical element number.
struct Codes<'a> {
    data: &'a ConstantData,
    elem: ScalarType,
}

impl Codes<'_> {
    fn get(&self, element: u64) -> u64 {
        match self.data {
            ConstantData::Dense(blob) => pack::get(blob.bytes(), self.elem, element as usize),
            ConstantData::Splat(code) => *code,
        }
    }
}

fn panels(
    constant: &Constant,
    columns: &[u8],
    summed: &[u8],
    k_inner: u64,
    pattern: Option<Pattern>,
    storage: &Storage,
) -> Result<Vec<u8>, String> {
    let shape = &constant.ty.shape;
    let strides = shape.strides();
    let elem = constant.ty.elem.format().element();
    let codes = Codes { data: &constant.data, elem };
    // Element number of each column and of each position along K; `None` is padding.
    let column_at = positions(columns, shape, &strides, None);
    let k_at = positions(summed, shape, &strides, Some(k_inner));
    let (k, n) = (k_at.len() as u64, column_at.len() as u64);
    let n_panels = n.div_ceil(PANEL);
    let code_at = |p: u64, at: Option<u64>, lane: u64| -> u64 {
        match (column_at.get((p * PANEL + lane) as usize).copied().flatten(), at) {
            (Some(column), Some(row)) => codes.get(column + row),
            _ => 0,
        }
    };
    let mut bytes = vec![0u8; storage.bytes() as usize];
    let [_, scale_plane, index_plane] = storage.planes();
    let mut next = 0usize;
    match pattern {
        None if elem == ScalarType::F32 => {
            // The common case, without a call per bit width.
            if let ConstantData::Dense(blob) = &constant.data {
                let source = blob.bytes();
                for p in 0..n_panels {
                    for at in &k_at {
                        for lane in 0..PANEL {
                            let column = column_at.get((p * PANEL + lane) as usize).copied().flatten();
                            if let (Some(column), Some(row)) = (column, at) {
                                let from = ((column + row) * 4) as usize;
                                bytes[next * 4..next * 4 + 4].copy_from_slice(&source[from..from + 4]);
                            }
                            next += 1;
                        }
                    }
                }
                return Ok(bytes);
            }
            fill_codes(&mut bytes, elem, n_panels, &k_at, &code_at);
        }
        None => fill_codes(&mut bytes, elem, n_panels, &k_at, &code_at),
        Some(Pattern { n: kept, m }) => {
            let index_type = Pattern { n: kept, m }.index_type();
            let (code_bytes, rest) = bytes.split_at_mut(index_plane as usize);
            for p in 0..n_panels {
                for group in k_at.chunks(usize::from(m)) {
                    for lane in 0..PANEL {
                        let mut stored: Vec<(u64, u64)> = group
                            .iter()
                            .enumerate()
                            .map(|(j, &at)| (j as u64, code_at(p, at, lane)))
                            .filter(|&(_, code)| !is_zero(elem, code))
                            .collect();
                        if stored.len() > usize::from(kept) {
                            return Err(format!("weights said to be {kept}:{m} sparse are not"));
                        }
                        // Unused places hold zeros at positions not taken, in ascending order.
                        for j in 0..u64::from(m) {
                            if stored.len() < usize::from(kept) && !stored.iter().any(|&(i, _)| i == j) {
                                stored.push((j, 0));
                            }
                        }
                        stored.sort_unstable();
                        for (slot, &(j, code)) in stored.iter().enumerate() {
                            let at = next + slot * PANEL as usize + lane as usize;
                            pack::set(code_bytes, elem, at, code);
                            pack::set(rest, index_type, at, j);
                        }
                    }
                    next += usize::from(kept) * PANEL as usize;
                }
            }
        }
    }
    if let (ElemType::Grouped { format, axis }, Format::Grouped(_)) = (constant.ty.elem, storage.format) {
        let g = u64::from(format.size);
        let mut scale_shape = shape.clone();
        scale_shape.0[axis as usize] = shape[axis as usize].div_ceil(g);
        let scale_strides = scale_shape.strides();
        let first = elem.bytes_for(shape.elements());
        let column_at = positions(columns, &scale_shape, &scale_strides, None);
        let k_at = positions(summed, &scale_shape, &scale_strides, Some(k_inner / g));
        let scales = &mut bytes[scale_plane as usize..];
        let mut next = 0;
        for p in 0..n_panels {
            for at in &k_at {
                for lane in 0..PANEL {
                    let column = column_at.get((p * PANEL + lane) as usize).copied().flatten();
                    let scale = match (column, at, &constant.data) {
                        (Some(column), Some(row), ConstantData::Dense(blob)) => {
                            let plane = &blob.bytes()[first as usize..];
                            GroupScale::read(format, plane, (column + row) as usize)
                        }
                        // The group holds only padding.
                        _ => GroupScale::one(format),
                    };
                    scale.write(format, scales, next);
                    next += 1;
                }
            }
        }
    }
    debug_assert_eq!(storage.elements, n_panels * PANEL * k);
    Ok(bytes)
}

fn fill_codes(
    bytes: &mut [u8],
    elem: ScalarType,
    n_panels: u64,
    k_at: &[Option<u64>],
    code_at: &dyn Fn(u64, Option<u64>, u64) -> u64,
) {
    let mut next = 0;
    for p in 0..n_panels {
        for &at in k_at {
            for lane in 0..PANEL {
                let code = code_at(p, at, lane);
                if code != 0 {
                    pack::set(bytes, elem, next, code);
                }
                next += 1;
            }
        }
    }
}

/// Element numbers along the given dimensions in row-major order, the innermost padded to `inner` positions.
fn positions(dims: &[u8], shape: &[u64], strides: &[u64], inner: Option<u64>) -> Vec<Option<u64>> {
    let mut all = vec![Some(0u64)];
    for (i, &d) in dims.iter().enumerate() {
        let size = shape[d as usize];
        let padded = if i + 1 == dims.len() { inner.unwrap_or(size) } else { size };
        let mut next = Vec::with_capacity(all.len() * padded as usize);
        for base in &all {
            for j in 0..padded {
                next.push(base.filter(|_| j < size).map(|b| b + j * strides[d as usize]));
            }
        }
        all = next;
    }
    all
}

/// Whether a code is a zero of either sign.
fn is_zero(elem: ScalarType, code: u64) -> bool {
    elem.decode(code) == 0.0
}

#[cfg(test)]
mod tests {
    use lacuna_ir::TensorType;
    use lacuna_isa::format::GroupFormat;
    use lacuna_isa::view::PlaneMap;

    use super::*;
    use crate::place::StorageKind;

    fn storage(packing: &Packing, format: Format, pattern: Option<Pattern>, elements: u64) -> Storage {
        let kind = StorageKind::Const(cranelift_entity::EntityRef::new(0), packing.clone());
        Storage { kind, format, pattern, k_stride: PANEL, elements }
    }

    /// A constant `[k, n]` of f32 with value `100 * k + n` where `keep` holds, else 0.
    fn matrix(k: u64, n: u64, keep: impl Fn(u64, u64) -> bool) -> Constant {
        let value = |i: u64| if keep(i / n, i % n) { (100 * (i / n) + i % n) as f32 } else { 0.0 };
        let bytes = (0..k * n).flat_map(|i| value(i).to_le_bytes()).collect();
        Constant::dense(TensorType::new(ScalarType::F32, vec![k, n]), bytes, "")
    }

    fn f32_at(bytes: &[u8], i: u64) -> f32 {
        ScalarType::F32.decode_f32(pack::get(bytes, ScalarType::F32, i as usize) as u32)
    }

    #[test]
    fn panels_of_columns() {
        let (k, n) = (5, 40);
        let packing = Packing::Panels { columns: vec![1], summed: vec![0], k_inner: k, pattern: None };
        let storage = storage(&packing, Format::F32, None, 2 * PANEL * k);
        let bytes = packed(&matrix(k, n, |_, _| true), &packing, &storage).expect("dense weights pack");
        for row in 0..k {
            for lane in 0..2 * PANEL {
                let at = (lane / PANEL) * k * PANEL + row * PANEL + lane % PANEL;
                let expect = if lane < n { (100 * row + lane) as f32 } else { 0.0 };
                assert_eq!(f32_at(&bytes, at), expect, "row {row}, column {lane}");
            }
        }
    }

    #[test]
    fn two_of_four_keeps_values_and_positions() {
        let (k, n) = (8, 32);
        // Column c keeps rows c % 4 and 3 of each group of four; where both are one, a single value.
        let keep = |row: u64, col: u64| row % 4 == col % 4 || row % 4 == 3;
        let pattern = Some(Pattern::P2_4);
        let packing = Packing::Panels { columns: vec![1], summed: vec![0], k_inner: k, pattern };
        let storage = storage(&packing, Format::F32, pattern, PANEL * k);
        let bytes = packed(&matrix(k, n, keep), &packing, &storage).expect("2:4 weights pack");
        let map = PlaneMap { format: Format::F32, pattern, k_stride: PANEL };
        let [_, _, indices] = map.plane_offsets(PANEL * k);
        for row in 0..k {
            for col in 0..n {
                let first = map.stored_idx((row / 4 * 4) * PANEL + col);
                let stored = (0..2).find_map(|j| {
                    let at = first + j * PANEL;
                    let index = pack::get(&bytes[indices as usize..], ScalarType::U2, at as usize);
                    (index == row % 4).then(|| f32_at(&bytes, at))
                });
                let expect = if keep(row, col) { (100 * row + col) as f32 } else { 0.0 };
                assert_eq!(stored.unwrap_or(0.0), expect, "row {row}, column {col}");
            }
        }
        let refused = packed(&matrix(k, n, |_, _| true), &packing, &storage);
        assert!(refused.is_err(), "dense weights are not 2:4");
    }

    #[test]
    fn short_groups_are_padded_with_unit_scales() {
        // 40 summed elements in groups of 32: the second group has 8 codes and 24 zeros.
        let format = GroupFormat::MXFP8;
        let ty = TensorType::grouped(format, 0, vec![40, 3]);
        let codes: Vec<u8> = (0..40 * 3).map(|i| i as u8 + 1).collect();
        let scales: Vec<u8> = (0..2 * 3).map(|i| 100 + i as u8).collect();
        let constant = Constant::dense(ty, [codes, scales].concat(), "");
        let packing = Packing::Panels { columns: vec![1], summed: vec![0], k_inner: 64, pattern: None };
        let storage = storage(&packing, Format::Grouped(format), None, PANEL * 64);
        let bytes = packed(&constant, &packing, &storage).expect("grouped weights pack");
        let scale_plane = storage.planes()[1] as usize;
        for row in 0..64usize {
            for col in 0..PANEL as usize {
                let expect = if row < 40 && col < 3 { (row * 3 + col) as u8 + 1 } else { 0 };
                assert_eq!(bytes[row * PANEL as usize + col], expect, "row {row}, column {col}");
                let scale = if col < 3 { 100 + (row / 32 * 3 + col) as u8 } else { 0x7F };
                assert_eq!(
                    bytes[scale_plane + row / 32 * PANEL as usize + col],
                    scale,
                    "row {row}, column {col}"
                );
            }
        }
    }
}

//! Laying out constants in the object's weights.

use lacuna_ir::{Constant, ConstantData, ElemType};
use lacuna_isa::format::{Format, ScalarType, pack};
use lacuna_isa::view::Pattern;

use crate::place::{Packing, Storage};

/// Columns of a panel.
const PANEL: u64 = crate::kernels::problem::PANEL;
/// E8M0 code of the scale 1, for groups that hold only padding.
const UNIT_SCALE: u8 = 0x7F;

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
        let mut next = scale_plane as usize;
        for p in 0..n_panels {
            for at in &k_at {
                for lane in 0..PANEL {
                    let column = column_at.get((p * PANEL + lane) as usize).copied().flatten();
                    bytes[next] = match (column, at, &constant.data) {
                        (Some(column), Some(row), ConstantData::Dense(blob)) => {
                            blob.bytes()[(first + column + row) as usize]
                        }
                        _ => UNIT_SCALE,
                    };
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

//! Laying out constants in the object's weights.

use lacuna_ir::{Constant, ConstantData, ElemType, STORED_TYPES};
use lacuna_isa::Blob;
use lacuna_isa::format::group::GroupScale;
use lacuna_isa::format::{ScalarType, pack};
use lacuna_isa::inst::MaskCode;
use lacuna_isa::sparse::{self, SparseError};

use crate::grid::{Grid, positions, zero_codes};
use crate::place::{BlockTiles, PANEL, Packing, Panels, Records, Storage};
use crate::refusal::Refusal;

/// Columns of a panel.
/// Codes that are looked at together.
const RUN: usize = 1024;
/// Alignment of the planes of a compressed tensor.
const PLANE_ALIGN: usize = 64;

/// Bytes of a constant in a packing, all planes.
pub fn packed_bytes(constant: &Constant, packing: &Packing, storage: &Storage) -> usize {
    if let Some(records) = &storage.records {
        return records.bytes.len();
    }
    match (packing, &constant.data) {
        (Packing::Plain, ConstantData::Dense(blob)) => blob.len(),
        (Packing::Plain, ConstantData::Splat(_)) => {
            constant.ty.elem.format().element().bytes_for(storage.elements) as usize
        }
        (Packing::Panels(_) | Packing::Blocks { .. }, _) => storage.bytes() as usize,
        (Packing::Flags { .. }, _) => storage.elements as usize,
    }
}

/// Writes the bytes of a constant in a packing, all planes, to `out`: [`packed_bytes`] zeros.
///
/// # Errors
/// When a pattern group has more non-zeros than the pattern stores.
pub fn pack_into(
    constant: &Constant,
    packing: &Packing,
    storage: &Storage,
    out: &mut [u8],
) -> Result<(), Refusal> {
    if let Some(records) = &storage.records {
        out.copy_from_slice(records.bytes.bytes());
        return Ok(());
    }
    match packing {
        Packing::Plain => match &constant.data {
            ConstantData::Dense(blob) => out.copy_from_slice(blob.bytes()),
            ConstantData::Splat(code) => {
                let elem = constant.ty.elem.format().element();
                for i in 0..storage.elements as usize {
                    pack::set(out, elem, i, *code);
                }
            }
        },
        Packing::Panels(panels) => {
            let [_, scale_plane, index_plane] = storage.planes();
            let grid = Grid::new(constant, panels);
            let grid = if panels.pattern.is_none() { grid.with_signs() } else { grid };
            match panels.pattern {
                None => grid.codes(out),
                Some(pattern) => {
                    let (codes, indices) = out.split_at_mut(index_plane as usize);
                    grid.compressed(pattern, codes, indices)?;
                }
            }
            write_scales(constant, panels, &mut out[scale_plane as usize..]);
            debug_assert_eq!(storage.elements, grid.elements());
        }
        Packing::Blocks { .. } => return Err(Refusal::Form("blocks are stored as records".into())),
        Packing::Flags { panels, k } => {
            let codes = panel_codes(constant, panels);
            let n = storage.elements as usize * (*k * PANEL) as usize;
            out.copy_from_slice(&flags(&codes, panels.stored(constant), n, *k));
        }
    }
    Ok(())
}

/// The dense codes of a constant in panels.
pub fn panel_codes(constant: &Constant, panels: &Panels) -> Vec<u8> {
    let grid = Grid::new(constant, panels);
    let mut bytes = vec![0; panels.stored(constant).bytes_for(grid.elements()) as usize];
    grid.codes(&mut bytes);
    bytes
}

/// For each `k` rows of a panel in turn whether any of their codes means something else than zero.
pub fn flags(codes: &[u8], elem: ScalarType, n: usize, k: u64) -> Vec<u8> {
    let block = (k * PANEL) as usize;
    let zeros = zero_codes(elem);
    let set = |first: usize| {
        (first..n.min(first + block)).any(|i| !zeros.is_some_and(|z| z.contains(&pack::get(codes, elem, i))))
    };
    (0..n).step_by(block).map(|first| u8::from(set(first))).collect()
}

/// The panels of a constant without its zeros, as `ldx` reads them. `codes` are those of [`panel_codes`].
///
/// # Errors
/// When the records take more than 2^32 bytes.
pub fn compress(
    constant: &Constant,
    panels: &Panels,
    codes: &[u8],
    code: MaskCode,
) -> Result<Records, SparseError> {
    let elements = Grid::new(constant, panels).elements();
    let scales = scale_entries(constant, elements, |scales| write_scales(constant, panels, scales));
    compressed(codes, scales, panels.stored(constant), elements, code)
}

/// The scale plane of `elements` elements of a grouped constant.
fn scale_entries(constant: &Constant, elements: u64, write: impl FnOnce(&mut [u8])) -> Option<Vec<u8>> {
    let ElemType::Grouped { format, .. } = constant.ty.elem else { return None };
    let mut scales = vec![0; format.scale_bytes(elements.div_ceil(u64::from(format.size))) as usize];
    write(&mut scales);
    Some(scales)
}

/// Records, scales and offsets of the first `elements` codes of a dense tensor.
fn compressed(
    codes: &[u8],
    scales: Option<Vec<u8>>,
    elem: ScalarType,
    elements: u64,
    code: MaskCode,
) -> Result<Records, SparseError> {
    let compressed = sparse::compress(codes, elem, elements as usize, code)?;
    let mut bytes = compressed.records.clone();
    bytes.resize(bytes.len().next_multiple_of(PLANE_ALIGN), 0);
    let scale_plane = bytes.len();
    if let Some(scales) = scales {
        bytes.extend(scales);
        bytes.resize(bytes.len().next_multiple_of(PLANE_ALIGN), 0);
    }
    let offset_plane = bytes.len();
    bytes.extend(compressed.offset_bytes());
    let planes = [0, scale_plane as u64, offset_plane as u64];
    Ok(Records { code, bytes: Blob::new(bytes), planes })
}

/// The set blocks of a constant in panels, laid out for tiles.
pub struct Blocks {
    /// Codes, dense.
    pub codes: Vec<u8>,
    /// Scales, where the constant has them.
    scales: Option<Vec<u8>>,
}

impl Blocks {
    /// The same without zeros.
    ///
    /// # Errors
    /// When the records take more than 2^32 bytes.
    pub fn compress(self, elem: ScalarType, elements: u64, code: MaskCode) -> Result<Records, SparseError> {
        compressed(&self.codes, self.scales, elem, elements, code)
    }
}

/// Lays out the blocks whose flag in `set` is not 0 of a constant whose codes in panels are `codes`.
pub fn block_tiles(
    constant: &Constant,
    panels: &Panels,
    codes: &[u8],
    set: &[u8],
    tiles: &BlockTiles,
) -> Blocks {
    let elem = panels.stored(constant);
    let elements = tiles.elements(set.len() as u64);
    let moves = tiles.moves(set);
    let block = elem.bytes_for(tiles.block()) as usize;
    let mut packed = vec![0; elem.bytes_for(elements) as usize];
    for &(from, to) in &moves {
        let (from, to) = (elem.bytes_for(from) as usize, elem.bytes_for(to) as usize);
        packed[to..to + block].copy_from_slice(&codes[from..from + block]);
    }
    let dense = scale_entries(constant, set.len() as u64 * tiles.block(), |scales| {
        write_scales(constant, panels, scales);
    });
    let scales = scale_entries(constant, elements, |scales| {
        let (ElemType::Grouped { format, .. }, Some(dense)) = (constant.ty.elem, &dense) else { return };
        let g = u64::from(format.size);
        for i in 0..elements.div_ceil(g) {
            GroupScale::one(format).write(format, scales, i as usize);
        }
        for (from, to) in moves {
            for i in 0..tiles.block() / g {
                let [from, to] = [from / g + i, to / g + i].map(|at| at as usize);
                GroupScale::read(format, dense, from).write(format, scales, to);
            }
        }
    });
    Blocks { codes: packed, scales }
}

/// The narrowest scalar type that has every value of a constant of scalars exactly, if it is narrower than the constant's.
/// Zeros of either sign are one value: a product never tells them apart.
pub fn narrowest(constant: &Constant) -> Option<ScalarType> {
    let elem = constant.ty.elem.scalar()?;
    let ConstantData::Dense(blob) = &constant.data else { return None };
    let (bytes, n) = (blob.bytes(), constant.ty.shape.elements() as usize);
    let exact = |ty: &&ScalarType| {
        ty.bits() < elem.bits()
            && match elem {
                ScalarType::F64 => (0..n).all(|i| {
                    let value = elem.decode(pack::get(bytes, elem, i));
                    ty.decode(ty.encode(value)) == value
                }),
                _ => exact_runs(bytes, elem, n, **ty),
            }
    };
    if !elem.is_float() { None } else { STORED_TYPES.iter().find(exact).copied() }
}

/// Whether a type has every one of `n` values exactly; f32 has them.
fn exact_runs(bytes: &[u8], elem: ScalarType, n: usize, ty: ScalarType) -> bool {
    let (mut values, mut again, mut codes) = ([0.0; RUN], [0.0; RUN], [0; 4 * RUN]);
    (0..n).step_by(RUN).all(|first| {
        let count = RUN.min(n - first);
        pack::decode_slice(elem, bytes, first, &mut values[..count]);
        pack::encode_slice(ty, &values[..count], &mut codes, 0);
        pack::decode_slice(ty, &codes, 0, &mut again[..count]);
        // A NaN is no value that a product may find elsewhere.
        values[..count] == again[..count]
    })
}

/// Whether more than one in `of` codes of a constant is zero.
pub fn has_zeros(constant: &Constant, of: usize) -> bool {
    let ConstantData::Dense(blob) = &constant.data else { return false };
    let elem = constant.ty.elem.format().element();
    let Some(zeros) = zero_codes(elem) else { return false };
    let (bytes, n) = (blob.bytes(), constant.ty.shape.elements() as usize);
    let mut unpacked = [0; RUN];
    let (mut first, mut n_zero) = (0, 0);
    while first < n && n_zero * of <= n {
        let count = RUN.min(n - first);
        let run = |width: usize| &bytes[first * width..(first + count) * width];
        n_zero += match elem.bits() {
            8 => n_equal(run(1), |[code]: [u8; 1]| code, zeros.map(|z| z as u8)),
            16 => n_equal(run(2), u16::from_le_bytes, zeros.map(|z| z as u16)),
            32 => n_equal(run(4), u32::from_le_bytes, zeros.map(|z| z as u32)),
            64 => n_equal(run(8), u64::from_le_bytes, zeros),
            _ => {
                pack::get_slice(bytes, elem, first, &mut unpacked[..count]);
                n_equal(&unpacked[..count], |[code]: [u8; 1]| code, zeros.map(|z| z as u8))
            }
        };
        first += count;
    }
    n_zero * of > n
}

/// How many codes are one of two.
fn n_equal<const N: usize, T: PartialEq + Copy>(
    bytes: &[u8],
    code: impl Fn([u8; N]) -> T,
    of: [T; 2],
) -> usize {
    let (codes, _) = bytes.as_chunks::<N>();
    // A run has fewer than 2^16 of them.
    let n: u16 = codes.iter().map(|&c| u16::from((code(c) == of[0]) | (code(c) == of[1]))).sum();
    usize::from(n)
}

/// Writes the scales of a grouped constant in the order of its panels; other constants have none.
fn write_scales(constant: &Constant, panels: &Panels, scales: &mut [u8]) {
    let ElemType::Grouped { format, axis } = constant.ty.elem else { return };
    let shape = &constant.ty.shape;
    let g = u64::from(format.size);
    let mut scale_shape = shape.clone();
    scale_shape.0[axis as usize] = shape[axis as usize].div_ceil(g);
    let scale_strides = scale_shape.strides();
    let first = format.element.bytes_for(shape.elements());
    let column_at = positions(&panels.columns, &scale_shape, &scale_strides, None);
    let k_at = positions(&panels.summed, &scale_shape, &scale_strides, Some(panels.k_inner / g));
    let mut next = 0;
    for p in 0..(column_at.len() as u64).div_ceil(PANEL) {
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

#[cfg(test)]
mod tests {
    use lacuna_ir::TensorType;
    use lacuna_isa::format::{Format, GroupFormat};
    use lacuna_isa::view::{Pattern, PlaneMap};

    use super::*;
    use crate::place::StorageKind;

    fn storage(packing: &Packing, format: Format, pattern: Option<Pattern>, elements: u64) -> Storage {
        let kind = StorageKind::Const(cranelift_entity::EntityRef::new(0), packing.clone());
        Storage { pattern, k_stride: PANEL, ..Storage::dense(kind, format, elements) }
    }

    fn packed(constant: &Constant, packing: &Packing, storage: &Storage) -> Result<Vec<u8>, Refusal> {
        let mut bytes = vec![0; packed_bytes(constant, packing, storage)];
        pack_into(constant, packing, storage, &mut bytes).map(|()| bytes)
    }

    /// The panels of a constant `[k, n]`.
    fn panels_of(k_inner: u64, pattern: Option<Pattern>) -> Packing {
        let panels = Panels { columns: vec![1], summed: vec![0], k_inner, pattern, narrow: None, code: None };
        Packing::Panels(panels)
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
        let packing = panels_of(k, None);
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
        let packing = panels_of(k, pattern);
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
        let packing = panels_of(64, None);
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

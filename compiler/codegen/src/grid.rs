//! Constants in panels: where each code of a panel is in the constant, and moving codes there.

use lacuna_ir::{Constant, ConstantData};
use lacuna_isa::format::{ScalarType, pack};
use lacuna_isa::view::Pattern;

use crate::place::Panels;
use crate::refusal::Refusal;

/// Columns of a panel.
const PANEL: usize = crate::place::PANEL as usize;
/// Positions along K that are moved together: what is read and what is written stays in the first cache.
const BLOCK: usize = 64;

/// The places of a constant's elements in panels.
pub struct Grid<'a> {
    data: &'a ConstantData,
    elem: ScalarType,
    /// Type that codes are stored in.
    stored: ScalarType,
    /// Codes of zero; the same twice if there is one.
    zeros: Option<[u64; 2]>,
    /// Element number of each column, in whole panels, and of each position along K; `None` is padding.
    columns: Vec<Option<u64>>,
    rows: Vec<Option<u64>>,
}

impl<'a> Grid<'a> {
    /// Of a constant that is a second operand.
    pub fn new(constant: &'a Constant, panels: &Panels) -> Grid<'a> {
        let shape = &constant.ty.shape;
        let strides = shape.strides();
        let elem = constant.ty.elem.format().element();
        let mut columns = positions(&panels.columns, shape, &strides, None);
        columns.resize(columns.len().next_multiple_of(PANEL), None);
        Grid {
            data: &constant.data,
            elem,
            stored: panels.stored(constant),
            zeros: zero_codes(elem),
            columns,
            rows: positions(&panels.summed, shape, &strides, Some(panels.k_inner)),
        }
    }

    /// Elements of all panels, padding among them.
    pub fn elements(&self) -> u64 {
        (self.columns.len() * self.rows.len()) as u64
    }

    /// The same where zeros keep their signs: for codes that nobody looks for zeros in.
    pub fn with_signs(self) -> Grid<'a> {
        Grid { zeros: None, ..self }
    }

    /// Writes the stored codes. Those of zeros of either sign are 0: sums of products start at +0 and cannot tell, and pruning by
    /// multiplication with a mask leaves as many of one sign as of the other.
    pub fn codes(&self, out: &mut [u8]) {
        let Some(source) = self.unit_bytes() else { return self.each_code(out) };
        let minus = self.zeros.map_or(0, |z| z[1]);
        let cleared = |code: u64| if code == minus { 0 } else { code };
        match self.elem.bits() {
            16 => self.moved(&source, |c| (cleared(u16::from_le_bytes(c).into()) as u16).to_le_bytes(), out),
            32 => self.moved(&source, |c| (cleared(u32::from_le_bytes(c).into()) as u32).to_le_bytes(), out),
            64 => self.moved(&source, |c| cleared(u64::from_le_bytes(c)).to_le_bytes(), out),
            _ => self.moved(&source, |[c]: [u8; 1]| [cleared(c.into()) as u8], out),
        }
    }

    /// The codes in whole bytes, if they are moved that way.
    fn unit_bytes(&self) -> Option<std::borrow::Cow<'a, [u8]>> {
        let ConstantData::Dense(blob) = self.data else { return None };
        let (bytes, narrow) = (blob.bytes(), self.stored != self.elem);
        match self.elem.bits() {
            // Narrowing takes values as f32.
            64 if narrow => None,
            8 | 16 | 32 | 64 => Some(bytes.into()),
            _ if narrow => None,
            bits => {
                let mut codes = vec![0; bytes.len() * 8 / bits as usize];
                pack::get_slice(bytes, self.elem, 0, &mut codes);
                Some(codes.into())
            }
        }
    }

    fn moved<const W: usize>(&self, source: &[u8], cleared: impl Fn([u8; W]) -> [u8; W], out: &mut [u8]) {
        let (source, _) = source.as_chunks::<W>();
        let mut staged = [[0; W]; BLOCK * PANEL];
        let mut wide = vec![0.0; if self.stored == self.elem { 0 } else { BLOCK * PANEL }];
        let mut step = |panel: usize, first: usize| {
            let rows = &self.rows[first..self.rows.len().min(first + BLOCK)];
            let staged = &mut staged[..rows.len() * PANEL];
            gather(source, &self.columns[panel * PANEL..][..PANEL], rows, staged);
            staged.iter_mut().for_each(|code| *code = cleared(*code));
            let (codes, at) = (staged.as_flattened(), (panel * self.rows.len() + first) * PANEL);
            if self.stored != self.elem {
                let wide = &mut wide[..rows.len() * PANEL];
                pack::decode_slice(self.elem, codes, 0, wide);
                pack::encode_slice(self.stored, wide, out, at);
            } else if self.elem.bits() < 8 {
                pack::set_slice(out, self.elem, at, codes);
            } else {
                out[at * W..at * W + codes.len()].copy_from_slice(codes);
            }
        };
        let (n_panels, n_rows) = (self.columns.len() / PANEL, self.rows.len());
        // What lies together is read together.
        if run_of(&self.columns).is_some() {
            for first in (0..n_rows).step_by(BLOCK) {
                (0..n_panels).for_each(|panel| step(panel, first));
            }
        } else {
            for panel in 0..n_panels {
                (0..n_rows).step_by(BLOCK).for_each(|first| step(panel, first));
            }
        }
    }

    /// The same code by code.
    fn each_code(&self, out: &mut [u8]) {
        let mut next = 0;
        for panel in 0..self.columns.len() / PANEL {
            for &row in &self.rows {
                for lane in 0..PANEL {
                    pack::set(out, self.stored, next, self.code(panel, row, lane));
                    next += 1;
                }
            }
        }
    }

    /// The stored code of a column of a panel at a position along K, 0 for zeros of either sign.
    fn code(&self, panel: usize, row: Option<u64>, lane: usize) -> u64 {
        let (Some(column), Some(row)) = (self.columns[panel * PANEL + lane], row) else { return 0 };
        let code = match self.data {
            ConstantData::Dense(blob) => pack::get(blob.bytes(), self.elem, (column + row) as usize),
            ConstantData::Splat(code) => *code,
        };
        match (self.zeros.is_some_and(|z| z.contains(&code)), self.stored == self.elem) {
            (true, _) => 0,
            (false, true) => code,
            (false, false) => self.stored.encode(self.elem.decode(code)),
        }
    }

    /// The codes that an N:M pattern stores, and their positions within the pattern's groups.
    ///
    /// # Errors
    /// When a group has more non-zeros than the pattern stores.
    pub fn compressed(&self, pattern: Pattern, codes: &mut [u8], indices: &mut [u8]) -> Result<(), Refusal> {
        let Pattern { n: kept, m } = pattern;
        let index_type = pattern.index_type();
        let mut next = 0usize;
        let mut stored: Vec<(u64, u64)> = Vec::new();
        for p in 0..self.columns.len() / PANEL {
            for group in self.rows.chunks(usize::from(m)) {
                for lane in 0..PANEL {
                    stored.clear();
                    let all = group.iter().enumerate().map(|(j, &row)| (j as u64, self.code(p, row, lane)));
                    stored.extend(all.filter(|&(_, code)| code != 0));
                    if stored.len() > usize::from(kept) {
                        return Err(Refusal::Form(format!("weights said to be {kept}:{m} sparse are not")));
                    }
                    // Unused places hold zeros at positions not taken, in ascending order.
                    for j in 0..u64::from(m) {
                        if stored.len() < usize::from(kept) && !stored.iter().any(|&(i, _)| i == j) {
                            stored.push((j, 0));
                        }
                    }
                    stored.sort_unstable();
                    for (slot, &(j, code)) in stored.iter().enumerate() {
                        let at = next + slot * PANEL + lane;
                        pack::set(codes, self.stored, at, code);
                        pack::set(indices, index_type, at, j);
                    }
                }
                next += usize::from(kept) * PANEL;
            }
        }
        Ok(())
    }
}

/// Fills rows of a panel with the codes at the sums of `columns` and `rows`.
fn gather<const W: usize>(
    source: &[[u8; W]],
    columns: &[Option<u64>],
    rows: &[Option<u64>],
    out: &mut [[u8; W]],
) {
    out.fill([0; W]);
    let (out, _) = out.as_chunks_mut::<PANEL>();
    if let Some((first, n)) = run_of(columns) {
        for (out, row) in out.iter_mut().zip(rows) {
            if let Some(row) = row {
                let at = first + *row as usize;
                out[..n].copy_from_slice(&source[at..at + n]);
            }
        }
    } else if let Some((first, n)) = run_of(rows) {
        for (lane, column) in columns.iter().enumerate() {
            if let Some(column) = column {
                let at = first + *column as usize;
                out.iter_mut().zip(&source[at..at + n]).for_each(|(out, &code)| out[lane] = code);
            }
        }
    } else {
        for (out, row) in out.iter_mut().zip(rows) {
            for (code, column) in out.iter_mut().zip(columns) {
                if let (Some(column), Some(row)) = (column, row) {
                    *code = source[(column + row) as usize];
                }
            }
        }
    }
}

/// The first and the number of consecutive positions before padding, if there is nothing else.
fn run_of(positions: &[Option<u64>]) -> Option<(usize, usize)> {
    let first = positions.first().copied().flatten()?;
    let n = positions.iter().zip(first..).take_while(|&(p, expect)| *p == Some(expect)).count();
    positions[n..].iter().all(Option::is_none).then_some((first as usize, n))
}

/// Element numbers along the given dimensions in row-major order, the innermost padded to `inner` positions.
pub fn positions(dims: &[u8], shape: &[u64], strides: &[u64], inner: Option<u64>) -> Vec<Option<u64>> {
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

/// The codes of zero of a type, the negative one last or the only one twice; `None` where it has none.
pub fn zero_codes(elem: ScalarType) -> Option<[u64; 2]> {
    let is_zero = |code: u64| elem.decode(code) == 0.0;
    let sign = 1 << (elem.bits() - 1);
    is_zero(0).then_some([0, if is_zero(sign) { sign } else { 0 }])
}

#[cfg(test)]
mod tests {
    use lacuna_ir::TensorType;

    use super::*;

    #[test]
    fn zeros_have_no_other_codes() {
        for elem in ScalarType::ALL.iter().filter(|e| e.bits() <= 16) {
            let zeros = zero_codes(*elem);
            for code in 0..1u64 << elem.bits() {
                let found = zeros.is_some_and(|z| z.contains(&code));
                assert_eq!(found, elem.decode(code) == 0.0, "{elem} {code:#x}");
            }
        }
    }

    /// Moves codes of every width along rows, along columns and along neither, with padding of both.
    #[test]
    fn blocks_are_moved_as_codes_are() {
        let shapes: [(&[u64], &[u8], &[u8]); 5] = [
            (&[150, 70], &[1], &[0]),
            (&[70, 150], &[0], &[1]),
            (&[5, 3, 14, 10], &[0, 2], &[1, 3]),
            (&[3, 50, 2], &[1, 0], &[2]),
            (&[40, 9, 3], &[0], &[1, 2]),
        ];
        for &elem in ScalarType::ALL {
            for (shape, columns, summed) in shapes {
                let ty = TensorType::new(elem, shape);
                let mut state = 1u64;
                let mut bytes = vec![0; ty.bytes() as usize];
                for i in 0..ty.shape.elements() as usize {
                    state =
                        state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    // Zeros of both signs, and values that bf16 has.
                    let value = if state >> 62 == 0 { -0.0 } else { f64::from((state >> 56) as i8) };
                    pack::set(&mut bytes, elem, i, elem.encode(value));
                }
                let constant = Constant::dense(ty, bytes, "");
                for (narrow, inner) in [(None, 0), (None, 6), (Some(ScalarType::Bf16), 6)] {
                    let k_inner = shape[usize::from(summed[summed.len() - 1])] + inner;
                    let (columns, summed) = (columns.to_vec(), summed.to_vec());
                    let narrow = narrow.filter(|n| n.bits() < elem.bits());
                    let grid = Grid::new(
                        &constant,
                        &Panels { columns, summed, k_inner, pattern: None, narrow, code: None },
                    );
                    let n_bytes = grid.stored.bytes_for(grid.elements()) as usize;
                    let (mut moved, mut each) = (vec![0; n_bytes], vec![0; n_bytes]);
                    grid.codes(&mut moved);
                    grid.each_code(&mut each);
                    assert_eq!(moved, each, "{elem} as {narrow:?} of {shape:?}");
                    assert!(each.iter().any(|&b| b != 0), "{elem} of {shape:?}");
                }
            }
        }
    }
}

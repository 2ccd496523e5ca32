//! Second operands in the form that the kernels read: decoded once, then used by all rows, instructions and PEs that meet
//! the same bytes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use lacuna_isa::format::{Format, GroupFormat, ScalarType};

use super::product::{Origin, Product, Side};
use super::schedule::Schedule;
use super::{decode, scalar};
use crate::simd::COLUMNS;
use crate::slots::Constant;

/// What one stands for in elements that are small integers times a power of two, and what makes all of them positive.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Whole {
    pub per_one: f32,
    pub bias: i32,
}

impl Whole {
    /// The greatest element made positive.
    pub fn greatest(self) -> i32 {
        (2 * self.bias).min(i32::from(u8::MAX))
    }

    /// How the elements of a format are whole numbers of a byte, if they are.
    pub fn of(format: Format) -> Option<Whole> {
        match format {
            Format::Grouped(GroupFormat { pair_shift: true, .. }) | Format::Scalar(_) => None,
            Format::Grouped(group) => match group.element {
                ScalarType::E2M1 => Some(Whole { per_one: 2.0, bias: 12 }),
                ScalarType::E2M3 => Some(Whole { per_one: 8.0, bias: 60 }),
                ScalarType::I8 if crate::codes::fixed_point(format) => {
                    Some(Whole { per_one: 64.0, bias: 128 })
                }
                _ => None,
            },
        }
    }
}

/// All blocks of a second operand, decoded.
#[derive(Debug)]
pub(crate) struct Panels {
    /// Values of each block, k by k in rows of 32 columns; without those that the kernels read in place, and empty where there
    /// are integers.
    values: Vec<Vec<f32>>,
    /// Integers of each block: for each group and each four k, 32 columns of four.
    integers: Vec<Vec<i8>>,
    /// What their sums start from.
    starts: Vec<Vec<i32>>,
    /// Scales of each block, group by group.
    scales: Vec<Vec<f32>>,
    /// Least and greatest magnitude of the scales that are neither 0 nor NaN.
    pub range: (f32, f32),
    bytes: usize,
}

/// Magnitudes that scales reach: least and greatest of those that are neither 0 nor NaN.
pub(crate) fn magnitudes(scales: impl Iterator<Item = f32>) -> (f32, f32) {
    scales
        .map(f32::abs)
        .filter(|s| !s.is_nan() && *s != 0.0)
        .fold((f32::INFINITY, 0.0), |(low, high), s| (low.min(s), high.max(s)))
}

impl Panels {
    /// Decodes the second operand of a product; as integers with this bias where it is given.
    pub fn new(product: &Product<'_>, schedule: &Schedule, integers: Option<i32>) -> Panels {
        let mut panels = Panels {
            values: Vec::new(),
            integers: Vec::new(),
            starts: Vec::new(),
            scales: Vec::new(),
            range: (f32::INFINITY, 0.0),
            bytes: 0,
        };
        for block in &schedule.blocks {
            if decode::direct(&product.b, schedule, block).is_some() {
                panels.values.push(Vec::new());
                continue;
            }
            let values = decode::decode_panel(product, schedule, block);
            match integers.zip(Whole::of(product.b.map.format)) {
                Some((bias, whole)) => {
                    let n_groups = schedule.groups.as_ref().map_or(0, |groups| groups.firsts.len());
                    let (codes, starts) = whole_numbers(&values, whole, bias, n_groups);
                    panels.bytes += codes.len() + 4 * starts.len();
                    panels.integers.push(codes);
                    panels.starts.push(starts);
                }
                None => {
                    panels.bytes += 4 * values.len();
                    panels.values.push(values);
                }
            }
            if let Some(groups) = &schedule.groups {
                let scales = scales(&product.b, &product.cols[block.cols.clone()], &groups.firsts);
                let (low, high) = magnitudes(scales.iter().copied());
                panels.range = (panels.range.0.min(low), panels.range.1.max(high));
                panels.bytes += 4 * scales.len();
                panels.scales.push(scales);
            }
        }
        panels
    }

    /// The values of block `number`.
    pub fn values(&self, number: usize) -> &[f32] {
        self.values.get(number).map_or(&[], Vec::as_slice)
    }

    /// The integers of block `number`, and what their sums start from.
    pub fn integers(&self, number: usize) -> (&[i8], &[i32]) {
        (&self.integers[number], &self.starts[number])
    }

    /// The scales of every block.
    pub fn scales(&self) -> Vec<&[f32]> {
        self.scales.iter().map(Vec::as_slice).collect()
    }
}

fn scales(b: &Side<'_>, cols: &[(usize, i64)], firsts: &[usize]) -> Vec<f32> {
    let mut out = vec![1f32; firsts.len() * COLUMNS];
    for (line, &first) in out.chunks_exact_mut(COLUMNS).zip(firsts) {
        for (scale, col) in line.iter_mut().zip(cols) {
            *scale = scalar::scale(b, (col.1 + b.k_offsets[first]) as usize) as f32;
        }
    }
    out
}

/// The elements of a panel as integers in words of four k, and for each group and column minus `bias` times their sum.
fn whole_numbers(values: &[f32], whole: Whole, bias: i32, n_groups: usize) -> (Vec<i8>, Vec<i32>) {
    let mut codes = vec![0i8; values.len()];
    let mut starts = vec![0i32; n_groups * COLUMNS];
    let group = values.len() / n_groups.max(1);
    for (number, (row, line)) in
        codes.chunks_exact_mut(4 * COLUMNS).zip(values.chunks_exact(4 * COLUMNS)).enumerate()
    {
        let start = &mut starts[number * 4 * COLUMNS / group * COLUMNS..][..COLUMNS];
        for k in 0..4 {
            for column in 0..COLUMNS {
                let code = (line[k * COLUMNS + column] * whole.per_one) as i8;
                row[4 * column + k] = code;
                start[column] -= bias * i32::from(code);
            }
        }
    }
    (codes, starts)
}

/// What determines panels: the schedule, the bytes, and the form.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct PanelKey {
    schedule: u64,
    source: Source,
    integers: Option<i32>,
}

/// Where the bytes of a second operand are from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Source {
    /// Planes at these addresses, in this version.
    Slot([usize; 3], u64),
    Constant(Constant),
}

impl PanelKey {
    /// The key of a product's second operand.
    pub fn new(product: &Product<'_>, schedule: &Schedule, integers: Option<i32>) -> PanelKey {
        PanelKey {
            schedule: schedule.id,
            source: match product.b_origin {
                Origin::Constant(constant) => Source::Constant(constant),
                Origin::Slot(version) => {
                    Source::Slot(product.b.planes.map(|plane| plane.as_ptr() as usize), version)
                }
            },
            integers,
        }
    }
}

/// Panels of constants, shared by all PEs and runs of a machine.
#[derive(Default, Debug)]
pub(crate) struct SharedPanels(Mutex<HashMap<PanelKey, Arc<Panels>>>);

/// Decoded bytes of constants in use.
static SHARED_BYTES: AtomicUsize = AtomicUsize::new(0);
/// Most of them: what does not fit is decoded by every PE.
const MAX_SHARED_BYTES: usize = 1 << 30;

impl SharedPanels {
    fn get(&self, key: &PanelKey) -> Option<Arc<Panels>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    fn put(&self, key: PanelKey, panels: &Arc<Panels>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if SHARED_BYTES.load(Ordering::Relaxed) + panels.bytes <= MAX_SHARED_BYTES
            && known.insert(key, Arc::clone(panels)).is_none()
        {
            SHARED_BYTES.fetch_add(panels.bytes, Ordering::Relaxed);
        }
    }
}

impl Drop for SharedPanels {
    fn drop(&mut self) {
        let known = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        SHARED_BYTES.fetch_sub(known.values().map(|panels| panels.bytes).sum(), Ordering::Relaxed);
    }
}

/// Panels that a PE has met: the last of each schedule, and of weights that stay in local memory over many products.
#[derive(Default)]
pub(crate) struct PanelCache {
    panels: HashMap<PanelKey, Arc<Panels>>,
    last: Vec<(PanelKey, Arc<Panels>)>,
    bytes: usize,
}

/// Decoded bytes that one PE keeps at most: several times what its local memory holds of the narrowest codes.
const CACHE_BYTES: usize = 16 << 20;
/// Panels that are found without hashing.
const LAST: usize = 4;

impl PanelCache {
    /// The panels of a product, decoded where neither the PE nor, for constants, the machine has them.
    pub fn get_or_decode(
        &mut self,
        product: &Product<'_>,
        schedule: &Schedule,
        integers: Option<i32>,
        shared: Option<&SharedPanels>,
    ) -> Arc<Panels> {
        let key = PanelKey::new(product, schedule, integers);
        if let Some((_, panels)) = self.last.iter().find(|(known, _)| *known == key) {
            return Arc::clone(panels);
        }
        if self.bytes > CACHE_BYTES {
            (self.bytes, self.panels) = (0, HashMap::new());
        }
        let panels = match self.panels.get(&key) {
            Some(panels) => Arc::clone(panels),
            None => {
                let panels = shared.and_then(|shared| shared.get(&key)).unwrap_or_else(|| {
                    let panels = Arc::new(Panels::new(product, schedule, integers));
                    if let Some(shared) = shared {
                        shared.put(key, &panels);
                    }
                    panels
                });
                self.bytes += panels.bytes;
                self.panels.insert(key, Arc::clone(&panels));
                panels
            }
        };
        if self.last.len() == LAST {
            self.last.remove(0);
        }
        self.last.push((key, Arc::clone(&panels)));
        panels
    }
}

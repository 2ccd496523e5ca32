//! The SIMD engine's sorter: rows to sorted keys with indices, and merges of such rows.

use lacuna_isa::format::{ScalarType, pack};
use lacuna_isa::inst::Operand;
use lacuna_isa::view::{VIEW_DIMS, View};

use crate::codes::is_signed;
use crate::local::local_walk;
use crate::pe::Pe;
use crate::slots::{Layout, Slot};
use crate::trap::{Fault, TrapKind};

/// The dimension that rows run along.
const ROW: usize = VIEW_DIMS - 1;
/// What stands where a row has no more elements.
const MISSING: i64 = i64::MAX;

/// The order-preserving image of an element of up to 32 bits.
pub(crate) fn key(ty: ScalarType, code: u64) -> i32 {
    if ty.is_float() {
        let value = ty.decode_f32(code as u32);
        let bits = if value.is_nan() { 0x7FC0_0000 } else { (value + 0.0).to_bits() as i32 };
        return if bits < 0 { bits ^ i32::MAX } else { bits };
    }
    // Exact: no value has more than 32 bits.
    let value = ty.decode(code) as i64;
    if ty.bits() == 32 && !is_signed(ty) { (value - (1 << 31)) as i32 } else { value as i32 }
}

/// The indices of the rows of a box, dimension [`ROW`] left at 0.
fn rows(view: &View) -> impl Iterator<Item = [u32; VIEW_DIMS]> {
    let sizes = view.sizes();
    let n: u64 = sizes[..ROW].iter().map(|&s| u64::from(s)).product();
    (0..n).map(move |row| {
        let (mut rest, mut idx) = (row, [0; VIEW_DIMS]);
        for d in (0..ROW).rev() {
            idx[d] = (rest % u64::from(sizes[d])) as u32;
            rest /= u64::from(sizes[d]);
        }
        idx
    })
}

fn inside(idx: &[u32; VIEW_DIMS], ranges: &[(u32, u32); VIEW_DIMS]) -> bool {
    (0..ROW).all(|d| (ranges[d].0..ranges[d].0 + ranges[d].1).contains(&idx[d]))
}

/// Element number of the first index of a row.
fn start(view: &View, idx: &[u32; VIEW_DIMS]) -> i64 {
    view.offset + (0..ROW).map(|d| i64::from(view.dims[d].stride) * i64::from(idx[d])).sum::<i64>()
}

/// A source whose rows are read where they take part.
struct Rows<'a> {
    view: &'a View,
    ranges: [(u32, u32); VIEW_DIMS],
    codes: &'a [u8],
    /// Logical coordinate of index 0 of a row.
    first: i64,
}

impl Rows<'_> {
    /// Logical coordinate and code of every element of a row that takes part.
    fn of(&self, idx: &[u32; VIEW_DIMS]) -> impl Iterator<Item = (i64, u64)> {
        let (first, n) = if inside(idx, &self.ranges) { self.ranges[ROW] } else { (0, 0) };
        let start = start(self.view, idx);
        (first..first + n).map(move |i| {
            let at = start + i64::from(self.view.dims[ROW].stride) * i64::from(i);
            (self.first + i64::from(i), pack::get(self.codes, self.view.format.element(), at as usize))
        })
    }
}

/// Keeps the `k` least, in ascending order.
fn least(values: &mut Vec<i64>, k: usize) {
    if k < values.len() {
        if k > 0 {
            values.select_nth_unstable(k - 1);
        }
        values.truncate(k);
    }
    values.sort_unstable();
}

/// The first `k` of the merge of two rows.
fn merged(a: &[i64], b: &[i64], k: usize) -> Vec<i64> {
    let (mut i, mut j) = (0, 0);
    let mut out = Vec::with_capacity(k.min(a.len() + b.len()));
    while out.len() < k {
        match (a.get(i), b.get(j)) {
            (Some(&x), Some(&y)) if x > y => {
                out.push(y);
                j += 1;
            }
            (Some(&x), _) => {
                out.push(x);
                i += 1;
            }
            (None, Some(&y)) => {
                out.push(y);
                j += 1;
            }
            (None, None) => break,
        }
    }
    out
}

impl Pe<'_> {
    /// Writes `make`'s result for each row of `dst`: at most `k` values, filled up.
    fn sorted_rows<'s>(
        &mut self,
        dst: Operand,
        k: u16,
        sources: &'s [(Slot<'_>, &'s View)],
        make: impl Fn(&[Rows<'s>], &[u32; VIEW_DIMS], usize) -> Vec<i64>,
        target: &mut crate::pe::Target,
    ) -> Result<(), Fault> {
        let to = &self.plan.kernel.views[usize::from(dst.view)];
        let mut inputs = Vec::with_capacity(sources.len());
        for (slot, view) in sources {
            let ranges = view.clip(&self.at);
            local_walk([view, view], [slot.layout.elements; 2], ranges)?;
            let first = view.base_coords(&self.at)[ROW];
            inputs.push(Rows { view, ranges, codes: slot.planes()[0], first });
        }
        let ranges = to.clip(&self.at);
        local_walk([to, to], [target.layout.elements; 2], ranges)?;
        let bytes = target.bytes.get_mut();
        for idx in rows(to).filter(|idx| inside(idx, &ranges)) {
            let mut values = make(&inputs, &idx, usize::from(k));
            values.resize(usize::from(k), MISSING);
            let (first, n) = ranges[ROW];
            for i in first..first + n {
                let at = start(to, &idx) + i64::from(to.dims[ROW].stride) * i64::from(i);
                pack::set(bytes, ScalarType::I64, at as usize, values[i as usize] as u64);
            }
        }
        Ok(())
    }

    fn row_shapes(&self, dst: Operand, k: u16, sources: &[Operand]) -> Result<(), Fault> {
        let view = |operand: &Operand| &self.plan.kernel.views[usize::from(operand.view)];
        let to = view(&dst).sizes();
        let fits = |from: &Operand| view(from).sizes()[..ROW] == to[..ROW];
        if to[ROW] == u32::from(k) && sources.iter().all(fits) {
            return Ok(());
        }
        let from: Vec<_> = sources.iter().map(|source| view(source).sizes()).collect();
        let message = format!("rows of {from:?} give {k} results each in a box of {to:?}");
        Err(Fault::new(TrapKind::ShapeMismatch, message))
    }

    /// `sort`.
    pub fn sort(&mut self, dst: Operand, src: Operand, k: u16, descending: bool) -> Result<(), Fault> {
        self.row_shapes(dst, k, &[src])?;
        let kernel = self.plan.kernel;
        let view = &kernel.views[usize::from(src.view)];
        let mut target = self.target(dst, Layout::of(&kernel.views[usize::from(dst.view)]))?;
        let sources = [(self.source(src)?, view)];
        let ty = view.format.element();
        let make = |inputs: &[Rows<'_>], idx: &[u32; VIEW_DIMS], k: usize| {
            let entry = |(index, code): (i64, u64)| {
                let key = key(ty, code);
                i64::from(if descending { !key } else { key }) << 32 | index
            };
            let mut values: Vec<i64> = inputs[0].of(idx).map(entry).collect();
            least(&mut values, k);
            values
        };
        self.sorted_rows(dst, k, &sources, make, &mut target)?;
        self.publish(dst, target);
        sources.into_iter().for_each(|(slot, _)| self.space.pool.recycle(slot));
        Ok(())
    }

    /// `merge`.
    pub fn merge(&mut self, dst: Operand, a: Operand, b: Operand, k: u16) -> Result<(), Fault> {
        self.row_shapes(dst, k, &[a, b])?;
        let views = &self.plan.kernel.views;
        let mut target = self.target(dst, Layout::of(&views[usize::from(dst.view)]))?;
        let sources =
            [(self.source(a)?, &views[usize::from(a.view)]), (self.source(b)?, &views[usize::from(b.view)])];
        let make = |inputs: &[Rows<'_>], idx: &[u32; VIEW_DIMS], k: usize| {
            let row = |input: &Rows<'_>| -> Vec<i64> { input.of(idx).map(|(_, code)| code as i64).collect() };
            merged(&row(&inputs[0]), &row(&inputs[1]), k)
        };
        self.sorted_rows(dst, k, &sources, make, &mut target)?;
        self.publish(dst, target);
        sources.into_iter().for_each(|(slot, _)| self.space.pool.recycle(slot));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_order_as_elements_do() {
        let ascending = |ty: ScalarType, codes: &[u64]| {
            let keys: Vec<i32> = codes.iter().map(|&code| key(ty, code)).collect();
            assert!(keys.is_sorted_by(|a, b| a < b), "{ty:?} {codes:?}: {keys:?}");
        };
        let f = |x: f32| u64::from(x.to_bits());
        let floats =
            [f32::NEG_INFINITY, -2.0, -1.0, -f32::MIN_POSITIVE, -1e-45, 0.0, 1e-45, 1.0, f32::INFINITY];
        ascending(ScalarType::F32, &[floats.map(f).as_slice(), &[f(f32::NAN)]].concat());
        ascending(ScalarType::U32, &[0, 1, 1 << 31, u64::from(u32::MAX)]);
        ascending(ScalarType::I32, &[1 << 31, u64::from(u32::MAX), 0, 1]);
        ascending(ScalarType::I8, &[0x80, 0xFF, 0, 0x7F]);
        ascending(ScalarType::U8, &[0, 1, 0xFF]);
        ascending(ScalarType::Bool, &[0, 1]);
        ascending(ScalarType::E5M2, &[0xFC, 0x80, 0x01, 0x7C, 0x7D]);
        assert_eq!(key(ScalarType::F32, f(-0.0)), key(ScalarType::F32, f(0.0)));
        assert_eq!(key(ScalarType::F32, f(-f32::NAN)), key(ScalarType::F32, 0x7F80_0001));
    }

    proptest! {
        /// Keys of f32 compare as the numbers do.
        #[test]
        fn f32_keys(a: f32, b: f32) {
            let [x, y] = [a, b].map(|v| key(ScalarType::F32, u64::from(v.to_bits())));
            match a.partial_cmp(&b) {
                Some(order) => prop_assert_eq!(x.cmp(&y), order),
                None => prop_assert!(x.max(y) == 0x7FC0_0000),
            }
        }

        /// The least of two sorted halves are those of the whole.
        #[test]
        fn merging_is_sorting(mut a: Vec<i64>, mut b: Vec<i64>, k in 0..40usize) {
            let mut all = [a.clone(), b.clone()].concat();
            least(&mut all, k);
            let (na, nb) = (a.len(), b.len());
            least(&mut a, na);
            least(&mut b, nb);
            prop_assert_eq!(merged(&a, &b, k), all);
        }
    }
}

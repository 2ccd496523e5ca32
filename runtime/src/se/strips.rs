//! Cutting a domain into strips of lanes with known addresses.

use lacuna_isa::program::MAX_STREAMS;
use lacuna_isa::view::VIEW_DIMS;

/// A dimension of a domain: number of indices, and what one step adds to each address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Axis {
    pub count: u32,
    pub strides: [i64; ADDRESSES],
}

/// Merges neighbouring axes that every address walks as one, and drops those of one index.
pub(crate) fn collapse(axes: Vec<Axis>) -> Vec<Axis> {
    let mut out: Vec<Axis> = Vec::new();
    for axis in axes.into_iter().filter(|axis| axis.count != 1) {
        if let Some(last) = out.last_mut() {
            let spans = axis.strides.map(|s| s * i64::from(axis.count));
            if let Some(count) = last.count.checked_mul(axis.count)
                && last.strides == spans
            {
                *last = Axis { count, strides: axis.strides };
                continue;
            }
        }
        out.push(axis);
    }
    out
}

/// Lanes and their addresses: `base + i * stride`, or `base + table[i]` for addresses that are no progression.
#[derive(Clone, Debug)]
pub(crate) struct Strip {
    pub n: usize,
    pub base: [i64; ADDRESSES],
    pub stride: [i64; ADDRESSES],
    /// One row per address; empty rows are progressions.
    pub table: Vec<Vec<i64>>,
}

impl Strip {
    /// One lane.
    pub fn single(base: [i64; ADDRESSES]) -> Strip {
        Strip { n: 1, base, stride: [0; ADDRESSES], table: Vec::new() }
    }

    /// The address of lane `i`.
    #[inline]
    pub fn address(&self, number: usize, i: usize) -> i64 {
        match self.table.get(number).filter(|row| !row.is_empty()) {
            Some(row) => self.base[number] + row[i],
            None => self.base[number] + self.stride[number] * i as i64,
        }
    }

    /// The distance of neighbouring lanes, if there is one.
    pub fn progression(&self, number: usize) -> Option<i64> {
        match self.table.get(number) {
            Some(row) if !row.is_empty() => None,
            Some(_) | None => Some(self.stride[number]),
        }
    }
}

/// Inner axes of at least this many indices are cut without tables.
const LONG: u32 = 32;

/// Calls `f` with strips of at most `width` lanes in row-major order, and the row-major index of the first lane.
pub(crate) fn for_strips(
    axes: &[Axis],
    base: &[i64; ADDRESSES],
    width: usize,
    f: &mut dyn FnMut(&Strip, u64),
) {
    let Some((inner, outer)) = axes.split_last() else {
        f(&Strip::single(*base), 0);
        return;
    };
    if width > 1 && inner.count < LONG && !outer.is_empty() {
        tabled(axes, base, width, f);
        return;
    }
    let mut strip = Strip { n: 0, base: *base, stride: inner.strides, table: Vec::new() };
    let mut start = 0;
    odometer(outer, base, &mut |row| {
        let mut done = 0u32;
        while done < inner.count {
            let n = (inner.count - done).min(width.min(STRIP) as u32);
            for (here, (&row, &stride)) in strip.base.iter_mut().zip(row.iter().zip(&inner.strides)) {
                *here = row + stride * i64::from(done);
            }
            strip.n = n as usize;
            f(&strip, start);
            start += u64::from(n);
            done += n;
        }
    });
}

fn odometer(axes: &[Axis], base: &[i64; ADDRESSES], f: &mut dyn FnMut(&[i64; ADDRESSES])) {
    let mut idx = vec![0u32; axes.len()];
    let mut at = *base;
    loop {
        f(&at);
        let mut d = axes.len();
        loop {
            if d == 0 {
                return;
            }
            d -= 1;
            idx[d] += 1;
            let wrapped = idx[d] == axes[d].count;
            let steps = if wrapped { 1 - i64::from(axes[d].count) } else { 1 };
            for (here, &stride) in at.iter_mut().zip(&axes[d].strides) {
                *here += steps * stride;
            }
            if !wrapped {
                break;
            }
            idx[d] = 0;
        }
    }
}

fn tabled(axes: &[Axis], base: &[i64; ADDRESSES], width: usize, f: &mut dyn FnMut(&Strip, u64)) {
    let width = width.min(STRIP);
    let total: u64 = axes.iter().map(|axis| u64::from(axis.count)).product();
    let mut rows: Vec<[i64; ADDRESSES]> = Vec::with_capacity(width);
    let mut start = 0;
    odometer(axes, base, &mut |at| {
        rows.push(*at);
        if rows.len() == width || start + rows.len() as u64 == total {
            f(&from_rows(&rows), start);
            start += rows.len() as u64;
            rows.clear();
        }
    });
}

fn from_rows(rows: &[[i64; ADDRESSES]]) -> Strip {
    let mut strip = Strip::single(rows[0]);
    strip.n = rows.len();
    for number in 0..ADDRESSES {
        let step = rows.get(1).map_or(0, |row| row[number] - rows[0][number]);
        strip.stride[number] = step;
        let regular = rows.windows(2).all(|pair| pair[1][number] - pair[0][number] == step);
        strip.table.push(if regular {
            Vec::new()
        } else {
            rows.iter().map(|row| row[number] - rows[0][number]).collect()
        });
    }
    strip
}

/// Lanes that one operation processes at a time.
pub(crate) const STRIP: usize = 256;

/// Address sequences of a program: its streams and the coordinates of its domain.
pub(crate) const ADDRESSES: usize = MAX_STREAMS + VIEW_DIMS;

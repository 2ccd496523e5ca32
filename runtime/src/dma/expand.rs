//! Compressed tensors: which records a box touches, and their codes.

use lacuna_isa::format::ScalarType;
use lacuna_isa::inst::MaskCode;
use lacuna_isa::sparse::{BLOCK, expand_record, find_record};

use crate::boxes::Walk;
use crate::codes::copy_codes;
use crate::trap::{Fault, TrapKind};

const LEN: i64 = BLOCK as i64;

/// The blocks that the source side of a walk touches, ascending. The walk has no negative elements there.
pub(crate) fn touched_blocks(walk: &Walk) -> Vec<u64> {
    let mut blocks = Vec::new();
    let (n, [stride, _]) = walk.inner();
    walk.rows(|first, _| {
        let mut push = |block: i64| {
            if blocks.last() != Some(&(block as u64)) {
                blocks.push(block as u64);
            }
        };
        if stride.abs() <= LEN {
            let last = first + (n as i64 - 1) * stride;
            (first.min(last) / LEN..=first.max(last) / LEN).for_each(&mut push);
        } else {
            (0..n as i64).for_each(|i| push((first + i * stride) / LEN));
        }
    });
    blocks.sort_unstable();
    blocks.dedup();
    blocks
}

/// The planes of a compressed tensor.
#[derive(Clone, Copy)]
pub(crate) struct Records<'m> {
    bytes: &'m [u8],
    planes: [u64; 3],
}

impl<'m> Records<'m> {
    /// Records and offsets in the bytes of a tensor.
    pub fn new(bytes: &'m [u8], planes: [u64; 3]) -> Records<'m> {
        Records { bytes, planes }
    }

    /// The bytes of a record.
    pub fn record(&self, block: u64) -> Result<&'m [u8], Fault> {
        let from = |plane: u64| self.bytes.get(usize::try_from(plane).unwrap_or(usize::MAX)..).unwrap_or(&[]);
        let [records, _, offsets] = self.planes;
        match find_record(from(records), from(offsets), usize::try_from(block).unwrap_or(usize::MAX)) {
            None => {
                let message = format!("block {block} of a tensor of {} bytes", self.bytes.len());
                Err(Fault::new(TrapKind::OutOfBounds, message))
            }
            Some(found) => found.map_err(|e| Fault::new(TrapKind::BadRecord, format!("block {block}: {e}"))),
        }
    }

    /// Bytes that cross the port for these blocks: their records, and the offsets of each run of neighbours.
    pub fn port_bytes(&self, blocks: &[u64]) -> u64 {
        let records: u64 = blocks.iter().map(|&b| self.record(b).map_or(0, |r| r.len() as u64)).sum();
        let runs = blocks.chunk_by(|a, b| a + 1 == *b).count() as u64;
        records + 4 * (blocks.len() as u64 + runs)
    }

    /// Copies the codes of a box into `dst` and returns the bytes that crossed the port.
    pub fn copy(
        &self,
        walk: &Walk,
        code: MaskCode,
        from: ScalarType,
        dst: (&mut [u8], ScalarType),
    ) -> Result<u64, Fault> {
        let (low, high) = walk.extent(0);
        if low < 0 || high >= 1 << 56 {
            let message = format!("elements {low} to {high} of a compressed tensor");
            return Err(Fault::new(TrapKind::OutOfBounds, message));
        }
        let blocks = touched_blocks(walk);
        let mut codes = vec![0; from.bytes_for((blocks.len() * BLOCK) as u64) as usize];
        for (i, &block) in blocks.iter().enumerate() {
            expand_record(self.record(block)?, from, code, &mut codes, i * BLOCK)
                .map_err(|e| Fault::new(TrapKind::BadRecord, format!("block {block}: {e}")))?;
        }
        // Where element e is among the expanded blocks; every block that a row passes through is there.
        let place = |e: i64| {
            let at = blocks.partition_point(|&b| (b as i64) < e / LEN);
            at as i64 * LEN + e % LEN
        };
        let (bytes, to) = dst;
        let (n, [ss, ts]) = walk.inner();
        let (pieces, len) = if ss.abs() <= LEN { (1, n) } else { (n, 1) };
        walk.rows(|s, t| {
            for i in 0..pieces as i64 {
                let base = [place(s + i * ss), t + i * ts];
                if let Some(row) = Walk::new(&[len as u32], &[ss], &[ts], base) {
                    copy_codes(&row, (&codes, 0, from), (&mut *bytes, to));
                }
            }
        });
        Ok(self.port_bytes(&blocks))
    }
}

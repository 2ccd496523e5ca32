//! Collectives between ranks: what message engines do to the memories of all ranks at one instruction of the entry stream.

use std::collections::{HashMap, VecDeque};

use lacuna_isa::format::{ScalarType, pack};
use lacuna_isa::inst::{Combine, InstKind};
use lacuna_isa::object::{Address, Transfer};

use crate::codes::int_value;
use crate::memory::Memory;
use crate::trap::{Fault, TrapKind};

/// Messages on their way, oldest first, by sender and receiver.
#[derive(Default, Debug)]
pub(crate) struct Mail(HashMap<(usize, usize), VecDeque<Vec<u8>>>);

impl Mail {
    /// Checks that nothing is left.
    ///
    /// # Errors
    /// The receiver of a message that was never received.
    pub fn finish(&self) -> Result<(), (usize, Fault)> {
        let left = self.0.iter().filter(|(_, queue)| !queue.is_empty()).map(|(&ends, _)| ends).min();
        match left {
            None => Ok(()),
            Some((from, to)) => {
                let message = format!("rank {to} never receives a message of rank {from}");
                Err((to, Fault::new(TrapKind::NotEmptyAtHalt, message)))
            }
        }
    }
}

fn peer(rank: usize, transfer: &Transfer, ranks: usize) -> usize {
    (rank as i64 + i64::from(transfer.peer)).rem_euclid(ranks as i64) as usize
}

fn read<'a>(memory: &'a Memory<'_>, at: Address, first: u64, bytes: u64) -> &'a [u8] {
    let from = (at.offset + first) as usize;
    &memory.bytes(at.space)[from..from + bytes as usize]
}

fn write(memory: &mut Memory<'_>, at: Address, first: u64, bytes: &[u8]) {
    let from = (at.offset + first) as usize;
    memory.bytes_mut(at.space)[from..from + bytes.len()].copy_from_slice(bytes);
}

/// Executes one instruction on all ranks. The transfer was checked when the object was loaded.
///
/// # Errors
/// A rank and why it traps.
pub(crate) fn step(
    memories: &mut [Memory<'_>],
    kind: &InstKind,
    transfer: &Transfer,
    mail: &mut Mail,
) -> Result<(), (usize, Fault)> {
    let ranks = memories.len();
    let part = transfer.elements * u64::from(transfer.elem.bits() / 8);
    match kind {
        InstKind::Allred { .. } => {
            let sources = memories.iter().map(|m| read(m, transfer.src, 0, part));
            let result = combined(sources, transfer);
            memories.iter_mut().for_each(|memory| write(memory, transfer.dst, 0, &result));
        }
        InstKind::Redscat { .. } => {
            let whole = part * ranks as u64;
            let sources = memories.iter().map(|m| read(m, transfer.src, 0, whole));
            let result = combined(sources, transfer);
            for (memory, part) in memories.iter_mut().zip(result.chunks(part.max(1) as usize)) {
                write(memory, transfer.dst, 0, part);
            }
        }
        InstKind::Allgath { .. } => {
            let parts: Vec<u8> =
                memories.iter().flat_map(|m| read(m, transfer.src, 0, part)).copied().collect();
            memories.iter_mut().for_each(|memory| write(memory, transfer.dst, 0, &parts));
        }
        InstKind::Alltoall { .. } => {
            let whole = part * ranks as u64;
            let sent: Vec<Vec<u8>> =
                memories.iter().map(|m| read(m, transfer.src, 0, whole).to_vec()).collect();
            for (r, memory) in memories.iter_mut().enumerate() {
                let mine = r * part as usize..(r + 1) * part as usize;
                for (q, sent) in sent.iter().enumerate() {
                    write(memory, transfer.dst, q as u64 * part, &sent[mine.clone()]);
                }
            }
        }
        InstKind::Send { .. } => {
            for (rank, memory) in memories.iter().enumerate() {
                let message = read(memory, transfer.src, 0, part).to_vec();
                mail.0.entry((rank, peer(rank, transfer, ranks))).or_default().push_back(message);
            }
        }
        InstKind::Recv { .. } => {
            for (rank, memory) in memories.iter_mut().enumerate() {
                let from = peer(rank, transfer, ranks);
                let message = mail.0.get_mut(&(from, rank)).and_then(VecDeque::pop_front);
                let Some(message) = message else {
                    let message = format!("rank {rank} receives what rank {from} has not sent");
                    return Err((rank, Fault::new(TrapKind::WouldBlock, message)));
                };
                if message.len() as u64 != part {
                    let message = format!("a message of {} bytes is received as {part}", message.len());
                    return Err((rank, Fault::new(TrapKind::ShapeMismatch, message)));
                }
                write(memory, transfer.dst, 0, &message);
            }
        }
        // No other instruction becomes a step of this kind.
        _ => {}
    }
    Ok(())
}

/// Elements of all sources combined in their order.
fn combined<'a>(mut sources: impl Iterator<Item = &'a [u8]>, transfer: &Transfer) -> Vec<u8> {
    let ty = transfer.elem;
    let size = (ty.bits() / 8) as usize;
    let Some(first) = sources.next() else { return Vec::new() };
    let mut out = first.to_vec();
    let n = first.len() / size;
    if !ty.is_float() {
        for source in sources {
            for i in 0..n {
                let (a, b) = (pack::get(&out, ty, i), pack::get(source, ty, i));
                pack::set(&mut out, ty, i, combine_int(transfer.combine, ty, a, b));
            }
        }
        return out;
    }
    let mut sums: Vec<f64> = (0..n).map(|i| ty.decode(pack::get(first, ty, i))).collect();
    for source in sources {
        for (i, sum) in sums.iter_mut().enumerate() {
            let value = ty.decode(pack::get(source, ty, i));
            *sum = match ty {
                ScalarType::F64 => combine_float(transfer.combine, *sum, value, |x| x),
                // One rounding of the exact f64 result of two f32 values is that of f32 arithmetic.
                _ => combine_float(transfer.combine, *sum, value, |x| f64::from(x as f32)),
            };
        }
    }
    for (i, &sum) in sums.iter().enumerate() {
        pack::set(&mut out, ty, i, ty.encode(sum));
    }
    out
}

fn combine_float(how: Combine, a: f64, b: f64, round: impl Fn(f64) -> f64) -> f64 {
    let lesser = |a: f64, b: f64| if a.total_cmp(&b).is_lt() { a } else { b };
    match how {
        Combine::Replace => b,
        Combine::Add => round(a + b),
        Combine::Mul => round(a * b),
        Combine::Min | Combine::Max if a.is_nan() || b.is_nan() => f64::NAN,
        Combine::Min => lesser(a, b),
        Combine::Max => -lesser(-a, -b),
    }
}

fn combine_int(how: Combine, ty: ScalarType, a: u64, b: u64) -> u64 {
    let mask = u64::MAX >> (64 - ty.bits());
    // Unsigned 64-bit codes compare as they are; narrower ones and signed ones as the integers they stand for.
    let less = match ty {
        ScalarType::U64 => a < b,
        _ => int_value(ty, a) < int_value(ty, b),
    };
    match how {
        Combine::Replace => b,
        Combine::Add => a.wrapping_add(b) & mask,
        Combine::Mul => a.wrapping_mul(b) & mask,
        Combine::Min => [b, a][usize::from(less)],
        Combine::Max => [a, b][usize::from(less)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extremes_of_zeros_and_nan() {
        let check = |how, a: f64, b: f64, expect: f64| {
            let found = combine_float(how, a, b, |x| x);
            assert!(found.to_bits() == expect.to_bits() || (found.is_nan() && expect.is_nan()), "{a} {b}");
        };
        check(Combine::Min, 0.0, -0.0, -0.0);
        check(Combine::Min, -0.0, 0.0, -0.0);
        check(Combine::Max, 0.0, -0.0, 0.0);
        check(Combine::Max, -0.0, 0.0, 0.0);
        check(Combine::Max, f64::NAN, 1.0, f64::NAN);
        check(Combine::Min, 1.0, f64::NAN, f64::NAN);
        check(Combine::Max, f64::NEG_INFINITY, -5.0, -5.0);
    }

    #[test]
    fn integers_wrap_and_compare_with_their_sign() {
        let check = |how, ty, a: u64, b: u64, expect: u64| assert_eq!(combine_int(how, ty, a, b), expect);
        check(Combine::Add, ScalarType::U8, 200, 100, 44);
        check(Combine::Mul, ScalarType::I8, 0xff, 2, 0xfe);
        check(Combine::Min, ScalarType::I8, 0xff, 1, 0xff);
        check(Combine::Min, ScalarType::U8, 0xff, 1, 1);
        check(Combine::Max, ScalarType::U64, u64::MAX, 1, u64::MAX);
        check(Combine::Max, ScalarType::I64, u64::MAX, 1, 1);
    }
}

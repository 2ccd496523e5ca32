//! Tests of the object file.

use proptest::prelude::*;

use super::*;
use crate::inst::InstKind;
use crate::object::{Access, BufferKind};
use crate::program::{Lane, Reg, SeOp, SeUnary};
use crate::testing;
use crate::view::Position;

fn read(bytes: Vec<u8>) -> Result<Object, ReadError> {
    Object::read(&Blob::new(bytes))
}

/// The first offset at which `needle` occurs.
fn find(bytes: &[u8], needle: &[u8]) -> usize {
    bytes.windows(needle.len()).position(|w| w == needle).unwrap()
}

#[test]
fn a_valid_object_survives_and_its_weights_are_not_copied() {
    let object = testing::sample();
    assert_eq!(object.validate(), Vec::<String>::new());
    let bytes = object.write().unwrap();
    assert_eq!(bytes, object.write().unwrap());
    let blob = Blob::new(bytes);
    let read = Object::read(&blob).unwrap();
    assert_eq!(read, object);
    let distance = read.weights.bytes().as_ptr() as usize - blob.bytes().as_ptr() as usize;
    assert_eq!(distance % WEIGHTS_ALIGN as usize, 0);
    assert!(distance < blob.bytes().len());
}

#[test]
fn each_kind_of_bad_file_has_its_error() {
    let good = testing::sample().write().unwrap();
    let check = |bytes: &[u8], expect: ReadError| assert_eq!(read(bytes.to_vec()), Err(expect));
    let len = good.len() as u64;
    check(b"", ReadError::NotElf);
    check(
        b"PK\x03\x04 is a zip file, and a long one, longer than an ELF header and a note",
        ReadError::NotElf,
    );
    check(&good[..2], ReadError::Truncated { expected: NOTE_END as u64, actual: 2 });
    check(&good[..90], ReadError::Truncated { expected: NOTE_END as u64, actual: 90 });
    check(&good[..good.len() - 1], ReadError::Truncated { expected: len, actual: len - 1 });
    let mut foreign = good.clone();
    foreign[NOTE_OFFSET + 14] ^= 1;
    check(&foreign, ReadError::NotLacuna);
    let mut future = good.clone();
    future[VERSION_OFFSET] = 9;
    check(&future, ReadError::Version { found: 9 });
    let mut longer = good.clone();
    longer.push(0);
    check(&longer, ReadError::Corrupted);
}

#[test]
fn every_flipped_bit_is_noticed() {
    let good = testing::sample().write().unwrap();
    // Every byte of the headers and tables, and some of the padding and the weights.
    for i in (0..2200).chain((2200..good.len()).step_by(97)).chain(good.len() - 900..good.len()) {
        for bit in [1, 0x80] {
            let mut bad = good.clone();
            bad[i] ^= bit;
            assert!(read(bad).is_err(), "byte {i}");
        }
    }
}

#[test]
fn faults_are_named() {
    let check = |expect: &str, damage: &dyn Fn(&mut Object)| {
        let mut object = testing::sample();
        damage(&mut object);
        let faults = object.validate();
        assert!(faults.iter().any(|f| f.contains(expect)), "{expect}: {faults:?}");
        // What is invalid in memory is invalid in a file too.
        let bytes = object.write().unwrap();
        assert!(matches!(read(bytes), Err(ReadError::Invalid(_))), "{expect}");
    };
    check("no kernel 7", &|o| o.entries[0].launches[0].kernel = 7);
    check("no origin 1", &|o| o.entries[0].launches[0].origins[0] = 1);
    check("2 bases for 3 tensors", &|o| {
        o.entries[0].launches[0].bases.pop();
    });
    check("tensor r2 leaves its memory", &|o| o.entries[0].launches[0].bases[2].offset = 16385);
    check("tensor r1 is written, but lies in the weights", &|o| o.kernels[0].tensors[1].access = Access::Out);
    check("port `y` leaves its memory", &|o| o.entries[0].outputs[0].shape[0] = u64::MAX);
    check("in an entry stream", &|o| o.entries[0].code[0] = InstKind::End {}.into());
    check("must end in its one `halt`", &|o| {
        o.entries[0].code.pop();
    });
    check("must end in its one `halt`", &|o| o.kernels[0].code.clear());
    check("grid 2x1x7x1 on 12 rows", &|o| o.kernels[0].grid[2] = 7);
    check("the grid has no PE", &|o| o.kernels[0].grid[1] = 0);
    check("buffer b0 has 0 slots", &|o| o.kernels[0].buffers[0].slots = 0);
    check("bytes of local memory", &|o| o.kernels[0].buffers[0].slot_bytes = 1 << 20);
    check("v3 reaches 4096 bytes into the 4092", &|o| o.kernels[0].buffers[0].slot_bytes = 4092);
    check("v3 reaches before its slot", &|o| o.kernels[0].views[3].offset = -1);
    check("is of the wrong kind", &|o| o.kernels[0].buffers[0].kind = BufferKind::Bank);
    check("no tensor r2", &|o| {
        o.kernels[0].tensors.pop();
    });
    check("reads the `out` tensor r0", &|o| o.kernels[0].tensors[0].access = Access::Out);
    check("writes the `in` tensor r2", &|o| o.kernels[0].tensors[2].access = Access::In);
    check("no view v4", &|o| {
        o.kernels[0].views.pop();
    });
    check("no trip t0", &|o| o.kernels[0].trips.clear());
    check("0 stages", &|o| o.kernels[0].code[3] = InstKind::Loop { trip: 0, level: 0, stages: 0 }.into());
    check("stage 1 where the innermost loop has 1", &|o| {
        o.kernels[0].code[3] = InstKind::Loop { trip: 0, level: 0, stages: 1 }.into();
    });
    check("has level 0", &|o| o.kernels[0].code[4] = InstKind::Loop { trip: 0, level: 0, stages: 1 }.into());
    check("a loop does not end", &|o| {
        o.kernels[0].code.remove(7);
    });
    check("`end` without a loop", &|o| {
        o.kernels[0].code.remove(3);
    });
    check("the operands' k differ", &|o| o.kernels[0].views[4].dims[3].size = 16);
    check("view v0 has too many elements", &|o| o.kernels[0].views[0].dims[0].size = u32::MAX);
    check("trip t0 overflows", &|o| o.kernels[0].trips[0].base = i64::MAX);
    check("view v0 overflows", &|o| o.kernels[0].views[0].offset = i64::MIN);
    check("no constant c0", &|o| o.kernels[0].programs[0].constants.clear());
    check("no stream s1", &|o| {
        o.kernels[0].programs[0].streams.pop();
    });
    check("stream s0 is not written", &|o| {
        o.kernels[0].programs[0].body[3] = SeOp::Store { stream: 0, lane: Lane::F32, src: Reg(2) };
    });
    check("a float function works on an integer lane", &|o| {
        let op = SeOp::Unary { f: SeUnary::Exp, lane: Lane::I32, dst: Reg(0), a: Reg(0) };
        o.kernels[0].programs[0].init.push(op);
    });
}

#[test]
fn values_that_do_not_fit_are_not_written() {
    let check = |damage: &dyn Fn(&mut Object), expect: &str| {
        let mut object = testing::sample();
        damage(&mut object);
        let error = object.write().unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
    };
    check(&|o| o.kernels[0].code[0].stage = 4, "`ld`: the value of `stage` does not fit its 2 bits");
    check(
        &|o| o.kernels[0].code[1] = InstKind::Pop { n: 1, buffer: 64 }.into(),
        "`pop`: the value of `buffer` does not fit its 6 bits",
    );
    check(&|o| o.kernels[0].views[0].k_dim = 8, "k dimension 8");
}

/// What the interpreter computes from a valid object without checks: overflow would panic here.
fn exercise(object: &Object) {
    for kernel in &object.kernels {
        let last = kernel.trips.iter().map(|t| t.max).max().unwrap_or(0).saturating_sub(1);
        let coords = kernel.grid.map(|n| u32::from(n) - 1);
        for levels in [[0; 4], [last; 4]] {
            let mut at = Position { levels, coords, ..Position::default() };
            at.params.iter_mut().zip(&kernel.params).for_each(|(value, param)| *value = param.hi);
            for trip in &kernel.trips {
                assert!(trip.count(&at) <= trip.max);
            }
            for view in &kernel.views {
                let clipped = view.clip(&at);
                assert!(clipped.iter().zip(view.sizes()).all(|((first, n), size)| first + n <= size));
                let _ = view.planes().plane_bytes(view.elements());
            }
        }
    }
}

#[test]
fn hostile_counts_allocate_nothing() {
    let good = testing::sample().write().unwrap();
    // The kernel's name is the first thing behind the kernel section's count.
    let at = find(&good, b"\x0b\0\0\0matmul_relu");
    for (offset, expect) in [(at, "bytes expected"), (at - 4, "elements announced")] {
        let mut bad = good.clone();
        bad[offset..offset + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        seal(&mut bad);
        let error = read(bad).unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 200 } else { 1000 }))]

    #[test]
    fn written_objects_read_back(object in testing::object()) {
        let bytes = object.write().unwrap();
        let read = Object::read_unvalidated(&Blob::new(bytes.clone())).unwrap();
        prop_assert_eq!(&read, &object);
        prop_assert_eq!(read.write().unwrap(), bytes);
        // Validation of nonsense finds faults, and does not panic.
        let _ = object.validate();
    }

    /// Damage under a matching hash reaches every decoder; what still reads must write the same tables.
    #[test]
    fn damaged_objects_never_panic(
        object in prop_oneof![testing::object(), Just(testing::sample())],
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3u8), 1..6),
        cut in proptest::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let mut bytes = object.write().unwrap();
        for (at, value, how) in edits {
            // The padding before the weights is long and dull: aim at the tables and the section headers.
            let tables = bytes.len().min(4096);
            let i = at.index(tables + 900);
            let i = if i < tables { i } else { bytes.len() - (i - tables + 1).min(bytes.len()) };
            match how {
                0 => bytes[i] = value,
                1 => bytes[i] ^= 1 << (value & 7),
                _ => bytes[i] = bytes[i].wrapping_add(value & 3).wrapping_sub(1),
            }
        }
        if let Some(cut) = cut {
            bytes.truncate(NOTE_END + cut.index(bytes.len() - NOTE_END));
        }
        seal(&mut bytes);
        let blob = Blob::new(bytes);
        if let Ok(valid) = Object::read(&blob) {
            exercise(&valid);
        }
        if let Ok(read) = Object::read_unvalidated(&blob) {
            let again = Blob::new(read.write().unwrap());
            prop_assert_eq!(Object::read_unvalidated(&again).unwrap(), read);
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut bytes = [elf::ELFMAG.to_vec(), bytes].concat();
        prop_assert!(read(bytes.clone()).is_err());
        bytes.resize(NOTE_END.max(bytes.len()), 0);
        bytes[NOTE_OFFSET..VERSION_OFFSET].copy_from_slice(&NOTE_HEAD);
        bytes[VERSION_OFFSET..LENGTH_OFFSET].copy_from_slice(&u64::from(FORMAT_VERSION).to_le_bytes());
        seal(&mut bytes);
        prop_assert!(read(bytes).is_err());
    }
}

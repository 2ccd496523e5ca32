//! Every kind of trap, from the smallest program that has it.

mod common;

use common::*;
use lacuna_isa::format::{Format, ScalarType};
use lacuna_isa::inst::{Fill, InstKind, Multicast, Order};
use lacuna_isa::object::{Access, BufferKind};
use lacuna_isa::view::{Dim, View};
use lacuna_runtime::{Machine, TrapKind};

/// A program over an input and an output of 64 floats; `emit` gets the builder, the two global views, a local view of 64
/// floats and the buffers (local of 2 slots, bank of 1 slot).
fn check(
    name: &str,
    expect: Option<TrapKind>,
    grid: [u16; 4],
    emit: impl Fn(&mut Builder, [u16; 3], [u8; 2]),
) {
    let mut b = Builder::new(grid);
    let x = b.input(ScalarType::F32, &[64]);
    let y = b.output(ScalarType::F32, &[64], Access::Out);
    let sizes = [1, 1, 1, 1, 64];
    let gx = b.view(global(x, F32, View::dense(F32, sizes).dims));
    let gy = b.view(global(y, F32, View::dense(F32, sizes).dims));
    let l = b.local(F32, sizes);
    let buffers = [b.buffer("l", BufferKind::Local, 256, 2), b.buffer("acc", BufferKind::Bank, 256, 1)];
    emit(&mut b, [gx, gy, l], buffers);
    let object = b.build();
    let input = bytes(&noise(64, 1));
    let found = run(&object, &[&input]).err().map(|trap| trap.kind);
    assert_eq!(found, expect, "{name}");
}

fn ld(b: &mut Builder, buffer: u8, local: u16, src: u16) {
    b.emit(InstKind::Ld { dst: push(buffer, local), src, cast: Multicast::None, fill: Fill::Zero });
}

#[test]
fn every_kind() {
    let one = [1; 4];
    check("copy", None, one, |b, [gx, gy, l], [buf, _]| {
        ld(b, buf, l, gx);
        b.emit(InstKind::St { src: pop(buf, l), dst: gy });
    });
    check("pop of nothing", Some(TrapKind::PopEmpty), one, |b, _, [buf, _]| {
        b.emit(InstKind::Pop { n: 1, buffer: buf });
    });
    check("store of nothing", Some(TrapKind::PopEmpty), one, |b, [_, gy, l], [buf, _]| {
        b.emit(InstKind::St { src: pop(buf, l), dst: gy });
    });
    check("third push", Some(TrapKind::PushFull), one, |b, [gx, _, l], [buf, _]| {
        (0..3).for_each(|_| ld(b, buf, l, gx));
    });
    check("delta", Some(TrapKind::BadDelta), one, |b, [gx, gy, l], [buf, _]| {
        ld(b, buf, l, gx);
        b.emit(InstKind::St { src: read(buf, 1, l), dst: gy });
    });
    check("halt", Some(TrapKind::NotEmptyAtHalt), one, |b, [gx, _, l], [buf, _]| ld(b, buf, l, gx));
    check("tensor end", Some(TrapKind::OutOfBounds), one, |b, [_, _, l], [buf, _]| {
        let mut far = global(0, F32, View::dense(F32, [1, 1, 1, 1, 64]).dims);
        far.offset = 1;
        let far = b.view(far);
        ld(b, buf, l, far);
    });
    check("slot end", Some(TrapKind::OutOfBounds), one, |b, [gx, gy, l], [buf, _]| {
        let mut far = View::dense(F32, [1, 1, 1, 1, 64]);
        far.offset = 1;
        let far = b.view(far);
        ld(b, buf, l, gx);
        b.emit(InstKind::St { src: pop(buf, far), dst: gy });
    });
    check("large push", Some(TrapKind::SlotTooSmall), one, |b, _, [buf, _]| {
        let large = b.local(F32, [1, 1, 1, 1, 65]);
        b.kernel.constants.push(0);
        b.emit(InstKind::Fill { dst: push(buf, large), value: 0 });
    });
    check("two writers", Some(TrapKind::Race), [1, 1, 1, 2], |b, [gx, gy, l], [buf, _]| {
        ld(b, buf, l, gx);
        b.emit(InstKind::St { src: pop(buf, l), dst: gy });
    });
    check("written twice", Some(TrapKind::Race), one, |b, [gx, gy, l], [buf, _]| {
        ld(b, buf, l, gx);
        b.emit(InstKind::St { src: read(buf, 0, l), dst: gy });
        b.emit(InstKind::St { src: pop(buf, l), dst: gy });
    });
    check("other format", Some(TrapKind::FormatMismatch), one, |b, [gx, _, l], [buf, _]| {
        let other = Format::Scalar(ScalarType::I32);
        let (lo, y) = (b.local(other, [1, 1, 1, 1, 64]), b.output(ScalarType::I32, &[64], Access::Out));
        let gy = b.view(global(y, other, View::dense(other, [1, 1, 1, 1, 64]).dims));
        ld(b, buf, l, gx);
        b.emit(InstKind::St { src: pop(buf, lo), dst: gy });
    });
    check("summed sizes", Some(TrapKind::ShapeMismatch), one, |b, [gx, _, l], [buf, acc]| {
        let a = b.local(F32, [1, 1, 1, 1, 32]);
        let c = b.local(F32, [1, 1, 1, 2, 32]);
        let bank = b.local(F32, [1, 1, 1, 1, 32]);
        ld(b, buf, l, gx);
        b.emit(InstKind::Mm {
            bank: push(acc, bank),
            a: read(buf, 0, a),
            b: read(buf, 0, c),
            order: Order::Kn,
        });
    });
    check("part of a group", Some(TrapKind::PartialGroup), one, |b, _, [buf, _]| {
        let format = Format::from_name("mxfp8").expect("a format");
        let w = b.weight(&[&[0; 64], &[127; 2]]);
        let mut cut = global(w, format, View::dense(format, [1, 1, 1, 1, 64]).dims);
        cut.dims[4] = Dim { size: 64, stride: 1, origin: -8, bound: 64 };
        let (cut, l) = (b.view(cut), b.local(format, [1, 1, 1, 1, 64]));
        ld(b, buf, l, cut);
    });
}

/// Reads and writes of an `inout` tensor: a PE sees its own stores; another PE's are a race.
#[test]
fn inout_tensors() {
    for (grid, expect) in [([1, 1, 1, 1], None), ([1, 1, 1, 2], Some(TrapKind::Race))] {
        let mut b = Builder::new(grid);
        let x = b.input(ScalarType::F32, &[32]);
        let y = b.output(ScalarType::F32, &[64], Access::InOut);
        let half = |register: u8, offset: i64, step_by: i32| {
            let mut view = global(register, F32, View::dense(F32, [1, 1, 1, 1, 32]).dims);
            view.offset = offset;
            view.coords[3] = step(4, step_by);
            view
        };
        let gx = b.view(half(x, 0, 0));
        let (low, high) = (b.view(half(y, 0, 0)), b.view(half(y, 32, 0)));
        let l = b.local(F32, [1, 1, 1, 1, 32]);
        let buf = b.buffer("l", BufferKind::Local, 128, 1);
        ld(&mut b, buf, l, gx);
        b.emit(InstKind::St { src: pop(buf, l), dst: low });
        ld(&mut b, buf, l, low);
        b.emit(InstKind::St { src: pop(buf, l), dst: high });
        let input = noise(32, 2);
        match run(&b.build(), &[&bytes(&input)]) {
            Ok(out) => {
                assert_eq!(expect, None);
                assert_eq!(floats(&out[0]), [input.clone(), input].concat());
            }
            Err(trap) => assert_eq!(Some(trap.kind), expect, "{trap}"),
        }
    }
}

/// Iteration j - i of a stage i instruction at round j; a nested loop belongs to its own stage.
#[test]
fn stages_interleave() {
    // With one slot, stage 0 of round 1 pushes before stage 1 pops: illegal in program order.
    for (slots, expect) in [(1u8, Some(TrapKind::PushFull)), (2, None)] {
        let mut b = Builder::new([1; 4]);
        let x = b.input(ScalarType::F32, &[64]);
        let y = b.output(ScalarType::F32, &[64], Access::Out);
        let part = |register: u8| {
            let mut view = global(register, F32, View::dense(F32, [1, 1, 1, 1, 8]).dims);
            view.levels[0] = step(4, 16);
            view.levels[1] = step(4, 8);
            view
        };
        let mut whole = part(x);
        whole.dims[4].size = 16;
        whole.levels[1] = None;
        let (gx, gy) = (b.view(whole), b.view(part(y)));
        let l = b.local(F32, [1, 1, 1, 1, 16]);
        let mut half = View::dense(F32, [1, 1, 1, 1, 8]);
        half.dims[4].bound = 64;
        let half = b.view(half);
        let (outer, inner) = (b.trip(4), b.trip(2));
        let buf = b.buffer("l", BufferKind::Local, 64, slots);
        b.emit(InstKind::Loop { trip: outer, level: 0, stages: 2 })
            .emit_at(0, InstKind::Ld { dst: push(buf, l), src: gx, cast: Multicast::None, fill: Fill::Zero })
            .emit_at(1, InstKind::Loop { trip: inner, level: 1, stages: 1 })
            .emit(InstKind::St { src: read(buf, 0, half), dst: gy })
            .emit(InstKind::End {})
            .emit_at(1, InstKind::Pop { n: 1, buffer: buf })
            .emit(InstKind::End {});
        let input = noise(64, 3);
        match run(&b.build(), &[&bytes(&input)]) {
            Ok(out) => {
                assert_eq!(expect, None);
                let out = floats(&out[0]);
                // Both halves store the first eight elements of their slot.
                for (i, chunk) in out.chunks(8).enumerate() {
                    assert_eq!(chunk, &input[i / 2 * 16..i / 2 * 16 + 8], "store {i}");
                }
            }
            Err(trap) => assert_eq!(Some(trap.kind), expect, "{trap}"),
        }
    }
}

#[test]
fn bad_tables_do_not_load() {
    let mut b = Builder::new([1; 4]);
    let l = b.local(F32, [1, 1, 1, 1, 64]);
    b.emit(InstKind::Zero { bank: push(3, l) });
    let error = Machine::load(&b.build()).err().map(|e| e.to_string());
    assert_eq!(error.as_deref(), Some("kernel test, instruction 0: there is no buffer 3"));
}

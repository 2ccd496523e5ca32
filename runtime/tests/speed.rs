//! Speed of the interpreter's kernels: prints nothing, fails only when a release build is absurdly slow.

mod common;

use common::*;
use lacuna_isa::format::ScalarType;
use lacuna_isa::inst::{Fill, InstKind, Multicast, Order};
use lacuna_isa::object::{Access, BufferKind};
use lacuna_isa::view::View;

/// 12 x 6 PEs multiply 64 x 512 by 512 x 64 each, eight times: 1.2 G multiply-accumulates.
#[test]
#[ignore = "a measurement; run with --release"]
fn products_per_second() {
    let mut b = Builder::new([1, 12, 1, 6]);
    let (m, k, n) = (64u32, 512u32, 64u32);
    let x = b.input(ScalarType::F32, &[m.into(), k.into()]);
    let weights = bytes(&noise((k * n) as usize, 2));
    let w = b.weight(&[&weights]);
    let y = b.output(ScalarType::F32, &[72, m.into(), n.into()], Access::Out);
    let gx = b.view(global(x, F32, View::dense(F32, [1, m, 1, 1, k]).dims));
    let gw = b.view(global(w, F32, View::dense(F32, [2, 1, 1, k, 32]).dims));
    let mut out = global(y, F32, View::dense(F32, [1, 1, 1, m, n]).dims);
    out.dims[2].stride = (m * n) as i32;
    out.coords[1] = step(2, 6);
    out.coords[3] = step(2, 1);
    let gy = b.view(out);
    let (la, lb) = (b.local(F32, [1, m, 1, 1, k]), b.local(F32, [2, 1, 1, k, 32]));
    let lc = b.local(F32, [1, 1, 1, m, n]);
    let (ba, bb) =
        (b.buffer("a", BufferKind::Local, 1 << 20, 1), b.buffer("b", BufferKind::Local, 1 << 20, 1));
    let (acc, bc) =
        (b.buffer("acc", BufferKind::Bank, 1 << 16, 1), b.buffer("c", BufferKind::Local, 1 << 16, 1));
    let trip = b.trip(8);
    b.emit(InstKind::Ld { dst: push(ba, la), src: gx, cast: Multicast::All, fill: Fill::Zero })
        .emit(InstKind::Ld { dst: push(bb, lb), src: gw, cast: Multicast::All, fill: Fill::Zero })
        .emit(InstKind::Zero { bank: push(acc, lc) })
        .emit(InstKind::Loop { trip, level: 0, stages: 1 })
        .emit(InstKind::Mm {
            bank: update(acc, lc),
            a: read(ba, 0, la),
            b: read(bb, 0, lb),
            order: Order::Kn,
        })
        .emit(InstKind::End {})
        .emit(InstKind::Drain { dst: push(bc, lc), bank: pop(acc, lc) })
        .emit(InstKind::St { src: pop(bc, lc), dst: gy })
        .emit(InstKind::Pop { n: 1, buffer: ba })
        .emit(InstKind::Pop { n: 1, buffer: bb });
    let object = b.build();
    let input = bytes(&noise((m * k) as usize, 1));
    let start = std::time::Instant::now();
    run_with(&object, &[&input], 2).expect("no trap");
    let rate = f64::from(m * n * k) * 8.0 * 72.0 / start.elapsed().as_secs_f64() / 1e9;
    assert!(rate > 5.0, "{rate:.1} G multiply-accumulates per second");
}

//! The machine model on kernels small enough to time by hand.

mod common;

use common::*;
use lacuna_isa::format::ScalarType;
use lacuna_isa::inst::{Engine, Fill, InstKind, Multicast};
use lacuna_isa::object::{Access, BufferKind, Object};
use lacuna_isa::target::Target;
use lacuna_isa::view::View;
use lacuna_runtime::profile;
use lacuna_runtime::profile::{Bound, ProfileOptions, profile_with};

fn target() -> Target {
    Target {
        name: "round numbers".into(),
        file: String::new(),
        clock_ghz: 1.0,
        rows: 2,
        cols: 2,
        local_bytes: 1 << 20,
        local_bytes_per_cycle: 64.0,
        bank_bytes: 1 << 16,
        sram_bytes: 1 << 20,
        sram_bytes_per_cycle: 256.0,
        hbm_bytes: 1 << 30,
        hbm_bytes_per_cycle: 64.0,
        macs_per_cycle: vec![(F32, 1024.0)],
        patterns: vec![],
        pattern_factors: vec![],
        simd_ops_per_cycle: 16.0,
        bank_elements_per_cycle: 32.0,
        issue_cycles: 1,
        hbm_latency_cycles: 100,
        sram_latency_cycles: 10,
        launch_cycles: 50,
        barrier_cycles: 7,
        link_bytes_per_cycle: 32.0,
        link_latency_cycles: 40,
        tdp_w: 1.0,
        energy: None,
    }
}

/// Copies 4 KiB per round and PE, `rounds` times, through a buffer of `slots` slots.
fn copy(rounds: u32, slots: u8, stages: u8, cast: Multicast) -> Object {
    let mut b = Builder::new([1, 2, 1, 2]);
    let n = 1024 * u64::from(rounds);
    let x = b.input(ScalarType::F32, &[n]);
    let y = b.output(ScalarType::F32, &[4 * n], Access::Out);
    let sizes = [1, 1, 1, 1, 1024];
    let tile = |register: u8, split: bool| {
        let mut view = global(register, F32, View::dense(F32, sizes).dims);
        view.levels[0] = step(4, 1024);
        if split {
            view.coords[1] = step(4, 2 * n as i32);
            view.coords[3] = step(4, n as i32);
        }
        view
    };
    let (gx, gy, l) = (b.view(tile(x, false)), b.view(tile(y, true)), b.local(F32, sizes));
    let buf = b.buffer("l", BufferKind::Local, 4096, slots);
    let trip = b.trip(rounds);
    b.emit(InstKind::Loop { trip, level: 0, stages })
        .emit_at(0, InstKind::Ld { dst: push(buf, l), src: gx, cast, fill: Fill::Zero })
        .emit_at(stages - 1, InstKind::St { src: pop(buf, l), dst: gy })
        .emit(InstKind::End {});
    b.build()
}

#[test]
fn bytes_and_bounds() {
    let report = profile(&copy(8, 2, 2, Multicast::None), &target(), 0).expect("loads");
    // Four PEs load and store eight tiles of 4 KiB.
    assert_eq!(report.hbm_bytes, 2 * 4 * 8 * 4096);
    assert_eq!(report.launches[0].bound_cycles, report.hbm_bytes / 64);
    assert_eq!(report.launches[0].bound, Bound::Hbm);
    // All of them load the same tiles, which must cross once.
    assert_eq!((report.bound_cycles, report.bound), (5 * 8 * 4096 / 64, Bound::Hbm));
    assert!(report.cycles >= report.bound_cycles, "{} under {}", report.cycles, report.bound_cycles);
    assert!(report.events.iter().any(|event| event.engine == Engine::FiStore));
    let shared = profile(&copy(8, 2, 2, Multicast::All), &target(), 0).expect("loads");
    assert_eq!(shared.hbm_bytes, 5 * 8 * 4096);
    assert!(shared.cycles < report.cycles);
}

#[test]
fn double_buffering_overlaps() {
    let single = profile(&copy(8, 1, 1, Multicast::None), &target(), 0).expect("loads").cycles;
    let double = profile(&copy(8, 2, 2, Multicast::None), &target(), 0).expect("loads").cycles;
    assert!(double < single, "{double} cycles with two slots, {single} with one");
    // One slot: each of eight rounds waits for its load (256 + 100) and its store (256 + 100).
    assert!(single >= 8 * 712, "{single}");
}

#[test]
fn the_layout_unit_reads_and_writes() {
    let mut b = Builder::new([1; 4]);
    let x = b.input(ScalarType::F32, &[1024]);
    let y = b.output(ScalarType::F32, &[1024], Access::Out);
    let sizes = [1, 1, 1, 1, 1024];
    let dense = View::dense(F32, sizes);
    let (gx, gy) = (b.view(global(x, F32, dense.dims)), b.view(global(y, F32, dense.dims)));
    let l = b.local(F32, sizes);
    let (from, to) = (b.buffer("x", BufferKind::Local, 4096, 1), b.buffer("y", BufferKind::Local, 4096, 1));
    b.emit(InstKind::Ld { dst: push(from, l), src: gx, cast: Multicast::None, fill: Fill::Zero })
        .emit(InstKind::Move { dst: push(to, l), src: pop(from, l), fill: Fill::Zero })
        .emit(InstKind::St { src: pop(to, l), dst: gy });
    let report = profile(&b.build(), &target(), 0).expect("loads");
    let mlu = Engine::ALL.iter().position(|&e| e == Engine::Mlu).expect("an engine");
    assert_eq!(report.launches[0].busy_cycles[mlu], 2 * 4096 / 64);
}

/// An engine without power for the whole of a kernel, and one for its first half.
#[test]
fn gated_cycles_are_counted() {
    let mut object = copy(8, 2, 2, Multicast::None);
    let gate = |engine: Engine, on: bool| InstKind::Gate { engine, on }.into();
    let code = &mut object.kernels[0].code;
    code.insert(0, gate(Engine::Dpe, false));
    code.insert(1, gate(Engine::Se, false));
    code.insert(2, gate(Engine::Se, true));
    let report = profile(&object, &target(), 0).expect("loads");
    let launch = &report.launches[0];
    let [dpe, se] = [Engine::Dpe, Engine::Se].map(|engine| launch.gated_cycles[engine as usize]);
    // Four PEs, dark from their first instruction on; the other engine from its second to its third.
    assert_eq!(dpe, 4 * (launch.end - launch.start - 1));
    assert_eq!(se, 4);
    assert_eq!(launch.gated_cycles.iter().sum::<u64>(), dpe + se);
}

/// A launch behind a copy of one tile of 4 KiB, by one PE, that copies another: of the tensor that the first wrote, or of the one that
/// it read.
fn two_copies(second: &str, local: u32, chain: &str) -> Object {
    let kernel = |n: u32, bytes: u32| {
        format!(
            "kernel k{n} \"copy\" grid 1x1x1x1 {{\ntensor r0 in bytes 4096 planes 0 4096 4096\n\
             tensor r1 out bytes 4096 planes 0 4096 4096\nbuffer b0 \"x\" local {bytes} x 1\n\
             view v0 f32 global r0 k4 offset 0 (1:0, 1:0, 1:0, 1:0, 1024:1)\n\
             view v1 f32 global r1 k4 offset 0 (1:0, 1:0, 1:0, 1:0, 1024:1)\n\
             view v2 f32 local k4 offset 0 (1:0, 1:0, 1:0, 1:0, 1024:1)\n\
             code:\nld b0+:v2, v0\nst b0-:v2, v1\nhalt\n}}\n"
        )
    };
    let text = format!(
        "object \"two\" target \"any\" hbm 65536 sram 0\n{}{}entry e0 \"main\" {{\n\
         launch #0 k0 (hbm:0, hbm:4096)\nlaunch #1 k1 ({second}, hbm:8192)\n\
         code:\nlaunch #0\n{chain} #1\nhalt\n}}\nweights 0 {{\n}}\n",
        kernel(0, local),
        kernel(1, local),
    );
    lacuna_isa::asm::assemble(&text).expect("a text")
}

/// A load takes 64 + 100 cycles and so does a store; a chained launch waits for what the first one writes, and for its slots.
#[test]
fn chained_launches_overlap_where_they_may() {
    let run = |object: &Object| profile(object, &target(), 0).expect("loads");
    let apart = run(&two_copies("hbm:4096", 4096, "launch"));
    let one = apart.launches[0].end - apart.launches[0].start;
    assert_eq!((one, apart.cycles), (1 + 4 * 64 + 2 * 100 - 2 * 64, 2 * (50 + one)));
    let dependent = run(&two_copies("hbm:4096", 4096, "chain"));
    // 7 cycles for the barrier in place of 50 for the launch, and nothing for the issue.
    assert_eq!(dependent.cycles, 50 + one + 7 + one - 1);
    assert_eq!(dependent.launches[1].start, dependent.launches[0].end);
    // The second load follows the first one at once, and its store the first store.
    let free = run(&two_copies("hbm:0", 4096, "chain"));
    assert_eq!(free.cycles, 50 + one + 64);
    assert!(free.launches[1].chained && !free.launches[0].chained);
    // Two slots do not fit local memory: the second load waits until the first is stored.
    let full = run(&two_copies("hbm:0", 3 << 18, "chain"));
    assert_eq!(full.cycles, 50 + one + one - 1);
}

/// Sums of 64 numbers on four chips: a ring of six steps, each of a quarter.
#[test]
fn collectives_take_their_steps() {
    let text = |code: &str| {
        format!(
            "object \"c\" target \"any\" hbm 4096 sram 0\nentry e0 \"main\" {{\nranks 4\n\
             transfer x0 hbm:0 hbm:2048 f32 x 64 {code} x0\nhalt\n}}\nweights 0 {{\n}}\n"
        )
    };
    let check = |code: &str, cycles: u64, hbm: u64| {
        let object = lacuna_isa::asm::assemble(&text(code)).expect("a text");
        let report = profile(&object, &target(), 0).expect("loads");
        assert_eq!((report.cycles, report.hbm_bytes), (cycles, hbm), "{code}");
        assert_eq!(report.launches[0].bound, Bound::Engine(Engine::Me));
    };
    check("add peer 0\ncode:\nallred", 6 * 40 + 2 * 3 * 64 / 32, 2 * 256);
    check("replace peer 0\ncode:\nallgath", 3 * 40 + 3 * 256 / 32, 5 * 256);
    check("add peer 0\ncode:\nredscat", 3 * 40 + 3 * 256 / 32, 5 * 256);
    check("replace peer 0\ncode:\nalltoall", 40 + 3 * 256 / 32, 8 * 256);
    check("replace peer 1\ncode:\nsend", 40 + 256 / 32, 256);
}

/// A stream of a million times a million rounds is refused, not listed.
#[test]
fn endless_streams_are_refused() {
    let mut object = copy(1_000_000, 2, 2, Multicast::None);
    let code = &mut object.kernels[0].code;
    code.insert(0, InstKind::Loop { trip: 0, level: 1, stages: 1 }.into());
    code.insert(code.len() - 1, InstKind::End {}.into());
    let options = ProfileOptions { walk_limit: 1 << 20, ..ProfileOptions::default() };
    let error = profile_with(&object, &target(), 0, &options).expect_err("too long");
    assert!(error.to_string().contains("instructions and loop rounds"), "{error}");
}

//! Kernels whose PEs meet: barriers, events, exchanged slots and summed banks, parameters, power gates, endless loops.

mod common;

use common::{bytes, floats, noise, run};
use lacuna_isa::asm::assemble;
use lacuna_isa::object::Object;
use lacuna_runtime::{Machine, Outcome, RunOptions, TrapKind};

/// The object of a kernel's tables and streams, with the entry's ports and bases.
fn object(grid: &str, kernel: &str, ports: &str, bases: &str) -> Object {
    let text = format!(
        "object \"meet\" target \"mtia-300\" hbm 8192 sram 0\n\
         kernel k0 \"meet\" grid {grid} {{\n{kernel}\nhalt\n}}\n\
         entry e0 \"main\" {{\n{ports}\nlaunch #0 k0 {bases}\ncode:\nlaunch #0\nhalt\n}}\n\
         weights 0 {{\n}}\n"
    );
    let object = assemble(&text)
        .unwrap_or_else(|e| panic!("{}", e.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")));
    assert_eq!(object.validate(), Vec::<String>::new());
    let bytes = object.write().expect("an object file");
    assert_eq!(Object::read(&lacuna_isa::Blob::new(bytes)).expect("the same object"), object);
    object
}

/// Appends a key to a cache at a position that the command processor loads, then scores all keys up to it.
const DECODE: &str = include_str!("../../testdata/isa/accept/decode.s");

#[test]
fn a_row_is_appended_and_read_with_all_before_it() {
    let object = assemble(DECODE).expect("the kernel");
    assert_eq!(object.validate(), Vec::<String>::new());
    let query = noise(8, 1);
    let key = noise(8, 2);
    let cache = noise(128, 3);
    for position in [0i32, 1, 3, 4, 7, 8, 11, 12, 15, 99, -5] {
        let p = position.clamp(0, 15) as usize;
        let inputs = [&position.to_le_bytes()[..], &bytes(&query), &bytes(&key), &bytes(&cache)];
        let out = run(&object, &inputs).expect("no trap");
        let mut expect = cache.clone();
        expect[p * 8..p * 8 + 8].copy_from_slice(&key);
        assert_eq!(floats(&out[0]), expect, "cache at {position}");
        let score = |row: &[f32]| row.iter().zip(&query).fold(0f32, |sum, (a, b)| a.mul_add(*b, sum));
        let scores: Vec<f32> =
            (0..16).map(|j| if j <= p { score(&expect[j * 8..j * 8 + 8]) } else { 0.0 }).collect();
        assert_eq!(floats(&out[1]), scores, "scores at {position}");
    }
}

/// 2 x 3 PEs load four elements each and exchange them within their row and within their column.
#[test]
fn slots_are_gathered_in_the_order_of_the_members() {
    let check = |cast: &str, members: u32, expect: &dyn Fn(usize) -> Vec<usize>| {
        let n = 4 * members;
        let kernel = format!(
            "tensor r0 in bytes 96 planes 0 96 96\n\
             tensor r1 out bytes {} planes 0 0 0\n\
             buffer b0 \"mine\" local 16 x 1\n\
             buffer b1 \"all\" local {} x 1\n\
             view v0 f32 global r0 k4 offset 0 (1:0, 1:0, 1:0, 1:0, 4:1<24) p1:d4+12 p3:d4+4\n\
             view v1 f32 local k4 offset 0 (1:4, 1:4, 1:4, 1:4, 4:1)\n\
             view v2 f32 local k4 offset 0 (1:1, 1:1, 1:1, 1:1, {n}:1)\n\
             view v3 f32 global r1 k4 offset 0 (1:0, 1:0, 1:0, 1:{n}<6, {n}:1) p1:d3+3 p3:d3+1\n\
             code:\n\
             ld b0+:v1, v0\n\
             xchg b1+:v2, b0-:v1, dim=4, cast={cast}\n\
             st b1-:v2, v3",
            24 * n,
            4 * n
        );
        let ports = format!("input \"x\" f32 (24) hbm:0\noutput \"y\" f32 (6, {n}) hbm:1024");
        let object = object("1x2x1x3", &kernel, &ports, "(hbm:0, hbm:1024)");
        let x = noise(24, 7);
        let out = floats(&run(&object, &[&bytes(&x)]).expect("no trap")[0]);
        let expect: Vec<f32> =
            (0..6).flat_map(expect).flat_map(|pe| x[4 * pe..4 * pe + 4].to_vec()).collect();
        assert_eq!(out, expect, "{cast}");
    };
    check("row", 3, &|pe| (0..3).map(|c| pe / 3 * 3 + c).collect());
    check("col", 2, &|pe| (0..2).map(|r| r * 3 + pe % 3).collect());
    check("all", 6, &|_| (0..6).collect());
    check("none", 1, &|pe| vec![pe]);
}

/// Four PEs split the summed dimension of 3 x 32 by 32 x 8 among them.
fn split_k(share: &str) -> Object {
    let (n, out, parts) = if share == "all" { (8, 4 * 24, "p3:d2+1") } else { (2, 24, "p3:d4+2") };
    let kernel = format!(
        "tensor r0 in bytes 384 planes 0 0 0\n\
         tensor r1 in bytes 1024 planes 0 0 0\n\
         tensor r2 out bytes {} planes 0 0 0\n\
         buffer b0 \"a\" local 96 x 1\n\
         buffer b1 \"b\" local 256 x 1\n\
         buffer b2 \"acc\" bank 96 x 1\n\
         buffer b3 \"c\" local 96 x 1\n\
         view v0 f32 global r0 k4 offset 0 (1:0, 3:32<3, 1:0, 1:0, 8:1<32) p3:d4+8\n\
         view v1 f32 local k4 offset 0 (1:24, 3:8, 1:8, 1:8, 8:1)\n\
         view v2 f32 global r1 k3 offset 0 (1:0, 1:0, 1:0, 8:8<32, 8:1<8) p3:d3+8\n\
         view v3 f32 local k3 offset 0 (1:64, 1:64, 1:64, 8:8, 8:1)\n\
         view v4 f32 local k4 offset 0 (1:24, 1:24, 1:24, 3:8, 8:1)\n\
         view v5 f32 local k4 offset 0 (1:24, 1:24, 1:24, 3:{n}, {n}:1)\n\
         view v6 f32 global r2 k4 offset 0 (1:0, 1:0, 1:24<4, 3:8<3, {n}:1<8) {parts}\n\
         code:\n\
         ld b0+:v1, v0\n\
         ld b1+:v3, v2\n\
         mm b2+:v4, b0-:v1, b1-:v3\n\
         xred b3+:v5, b2-:v4, dim=4, cast=all, share={share}\n\
         st b3-:v5, v6",
        4 * out
    );
    let ports = format!(
        "input \"a\" f32 (3, 32) hbm:0\ninput \"b\" f32 (32, 8) hbm:1024\noutput \"y\" f32 ({out}) hbm:4096"
    );
    object("1x1x1x4", &kernel, &ports, "(hbm:0, hbm:1024, hbm:4096)")
}

#[test]
fn banks_are_summed_in_ascending_order() {
    let (a, b) = (noise(96, 3), noise(256, 4));
    let mut expect = vec![0f32; 24];
    for part in 0..4 {
        for (i, sum) in expect.iter_mut().enumerate() {
            let (row, column) = (i / 8, i % 8);
            let k = part * 8..part * 8 + 8;
            let partial = k.fold(0f32, |sum, k| a[row * 32 + k].mul_add(b[k * 8 + column], sum));
            *sum += partial;
        }
    }
    let out = run(&split_k("part"), &[&bytes(&a), &bytes(&b)]).expect("no trap");
    assert_eq!(floats(&out[0]), expect);
    let out = run(&split_k("all"), &[&bytes(&a), &bytes(&b)]).expect("no trap");
    assert_eq!(floats(&out[0]), [&expect[..]; 4].concat());
}

/// Three rounds in which each of four PEs adds its neighbour's number to its own, through an `inout` tensor: `guards` are the
/// instructions after the store and after the load.
fn ring(after_store: &str, after_load: &str) -> Object {
    let kernel = format!(
        "tensor r0 inout bytes 16 planes 0 16 16\n\
         tensor r1 out bytes 48 planes 0 48 48\n\
         tensor r2 in bytes 16 planes 0 16 16\n\
         buffer b0 \"x\" local 4 x 2\n\
         buffer b1 \"y\" local 4 x 2\n\
         view v0 f32 local k4 offset 0 (1:1, 1:1, 1:1, 1:1, 1:1)\n\
         view v1 f32 global r0 k4 offset 0 (1:0, 1:0, 1:0, 1:0, 1:1<4) p3:d4+1\n\
         view v2 f32 global r0 k4 offset 3 (1:0, 1:0, 1:0, 1:0, 1:-1<4) p3:d4+1\n\
         view v3 f32 global r1 k4 offset 0 (1:0, 1:0, 1:0, 1:4<3, 1:1<4) p3:d4+1 l0:d3+1\n\
         view v4 f32 global r2 k4 offset 0 (1:0, 1:0, 1:0, 1:0, 1:1<4) p3:d4+1\n\
         trip t0 3 max 3\n\
         program p0 \"add\" domain v0 parallel 5 {{\n\
         stream s0 b0-:v0 floor\nstream s1 b1-:v0 floor\nstream s2 b0+:v0 floor\n\
         body:\nload.f32 r0, s0\nload.f32 r1, s1\nbinary.add.f32 r0, r0, r1\nstore.f32 s2, r0\n}}\n\
         code:\n\
         ld b0+:v0, v4\n\
         loop t0, l0, stages=1\n\
         st b0:v0, v1\n{after_store}\n\
         ld b1+:v0, v2\n{after_load}\n\
         run p0\n\
         st b0:v0, v3\n\
         end\n\
         pop b0, n=1"
    );
    let ports = "input \"x\" f32 (4) hbm:0\noutput \"y\" f32 (3, 4) hbm:64";
    object("1x1x1x4", &kernel, ports, "(hbm:128, hbm:64, hbm:0)")
}

#[test]
fn events_and_barriers_order_accesses() {
    let x = [1f32, 10.0, 100.0, 1000.0];
    let mut now = x;
    let mut expect = Vec::new();
    for _ in 0..3 {
        let mut next = now;
        (0..4).for_each(|i| next[i] = now[i] + now[3 - i]);
        now = next;
        expect.extend(now);
    }
    let check = |after_store: &str, after_load: &str, traps: Option<TrapKind>| {
        let result = run(&ring(after_store, after_load), &[&bytes(&x)]);
        match traps {
            None => assert_eq!(floats(&result.expect("no trap")[0]), expect, "{after_store} {after_load}"),
            Some(kind) => assert_eq!(result.map_err(|t| t.kind).unwrap_err(), kind, "{after_store}"),
        }
    };
    let (seen, free) =
        ("post e0, fi.store\nwait count=4, e0, fi.load", "post e1, fi.load\nwait count=4, e1, fi.store");
    let race = Some(TrapKind::Race);
    check(seen, free, None);
    check("bar cast=all", "bar cast=all", None);
    check("bar cast=row", free, None);
    check(seen, "bar cast=all", None);
    // Without the second pair, the next round's store meets this round's load.
    check(seen, "", race);
    check("", "", race);
    // A post of the other queue says nothing of the store, and a wait of the other holds the wrong one.
    check("post e0, fi.load\nwait count=4, e0, fi.load", free, race);
    check("post e0, fi.store\nwait count=4, e0, fi.store", free, race);
    // Fewer posts than there are put nothing in order, more never come.
    check("post e0, fi.store\nwait count=3, e0, fi.load", free, race);
    check("post e0, fi.store\nwait count=5, e0, fi.load", free, Some(TrapKind::WouldBlock));
    // Columns are groups of one here.
    check("bar cast=none", free, race);
}

/// The guards of `testdata/isa/guards.txt`, and which pairs of them are legal there, one string of each row.
fn guards() -> (Vec<String>, Vec<String>) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/isa/guards.txt");
    let text = std::fs::read_to_string(path).expect("a text");
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with(';')).collect();
    let (verdicts, guards): (Vec<&str>, Vec<&str>) =
        lines.into_iter().partition(|line| line.chars().all(|c| c == '.' || c == 'x'));
    let guard = |line: &&str| if *line == "none" { String::new() } else { line.replace("; ", "\n") };
    (guards.iter().map(guard).collect(), verdicts.into_iter().map(str::to_owned).collect())
}

/// Whatever guards the accesses, a run traps or gives what lockstep gives: nothing wrong passes unseen. The checker's tests
/// hold it to the same verdicts.
#[test]
fn guards_are_enough_or_trap() {
    let (guards, verdicts) = guards();
    let x = [1f32, 10.0, 100.0, 1000.0];
    let right = run(&ring("bar cast=all", "bar cast=all"), &[&bytes(&x)]).expect("no trap");
    let verdict = |after_store: &String, after_load: &String| match run(
        &ring(after_store, after_load),
        &[&bytes(&x)],
    ) {
        Ok(out) => {
            assert_eq!(out, right, "{after_store:?} and {after_load:?}");
            '.'
        }
        Err(_) => 'x',
    };
    let found: Vec<String> =
        guards.iter().map(|after_store| guards.iter().map(|g| verdict(after_store, g)).collect()).collect();
    assert_eq!(found, verdicts, "\n{}", found.join("\n"));
}

#[test]
fn collectives_need_every_member() {
    let kernel = |meet: &str| {
        format!(
            "tensor r0 out bytes 8 planes 0 8 8\n\
             buffer b0 \"x\" local 4 x 1\n\
             buffer b1 \"y\" local 8 x 1\n\
             buffer b2 \"acc\" bank 4 x 1\n\
             view v0 f32 local k4 offset 0 (1:1, 1:1, 1:1, 1:1, 1:1)\n\
             view v1 f32 global r0 k4 offset 0 (1:0, 1:0, 1:0, 1:0, 1:1<2) p3:d4+1\n\
             view v2 f32 local k4 offset 0 (1:1, 1:1, 1:1, 1:1, 2:1)\n\
             trip t0 1 max 2 p3*1\n\
             constant c0 0x0\n\
             code:\n\
             loop t0, l0, stages=1\nfill b0+:v0, c0\n{meet}\nend\n\
             fill b0+:v0, c0\nst b0-:v0, v1"
        )
    };
    let check = |meet: &str| {
        let ports = "output \"y\" f32 (2) hbm:0";
        let object = object("1x1x1x2", &kernel(meet), ports, "(hbm:0)");
        assert_eq!(run(&object, &[]).map_err(|t| t.kind), Err(TrapKind::NotUniform), "{meet}");
    };
    check("bar cast=all\npop b0, n=1");
    check("xchg b1+:v2, b0-:v0, dim=4, cast=all\npop b1, n=1");
    check("zero b2+:v0\npop b0, n=1\nxred b0+:v0, b2-:v0, dim=4, cast=all\npop b0, n=1");
}

#[test]
fn gated_engines_do_nothing_and_loops_end() {
    let check = |code: &str, limit: u64, expect: Option<TrapKind>| {
        let kernel = format!(
            "tensor r0 out bytes 4 planes 0 4 4\n\
             buffer b0 \"x\" local 4 x 1\n\
             view v0 f32 local k4 offset 0 (1:1, 1:1, 1:1, 1:1, 1:1)\n\
             view v1 f32 global r0 k4 offset 0 (1:0, 1:0, 1:0, 1:0, 1:1<1)\n\
             trip t0 1000000 max 1000000\n\
             constant c0 0x0\n\
             code:\n{code}\nfill b0+:v0, c0\nst b0-:v0, v1"
        );
        let object = object("1x1x1x1", &kernel, "output \"y\" f32 (1) hbm:0", "(hbm:0)");
        let machine = Machine::load(&object).expect("a machine");
        let options = RunOptions { step_limit: limit, ..RunOptions::default() };
        let kind = match machine.run(&[], &options).expect("no inputs") {
            Outcome::Done { .. } => None,
            Outcome::Trap(trap) => Some(trap.kind),
        };
        assert_eq!(kind, expect, "{code}");
    };
    check("gate dpe, on=false", 100, None);
    check("gate mlu, on=false", 100, Some(TrapKind::Gated));
    check("gate mlu, on=false\ngate mlu, on=true", 100, None);
    check("gate fi.store, on=false", 100, Some(TrapKind::Gated));
    check("loop t0, l0, stages=1\nend", 10_000_000, None);
    check("loop t0, l0, stages=1\nend", 10_000, Some(TrapKind::StepLimit));
    let nest = "loop t0, l0, stages=1\nloop t0, l1, stages=1\nloop t0, l2, stages=4\nend\nend\nend";
    check(nest, 1 << 20, Some(TrapKind::StepLimit));
}

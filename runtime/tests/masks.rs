//! Products with masks: what they mean, what they cost, and the counts of gating and skipping.

mod common;

use common::*;
use lacuna_isa::format::{Format, ScalarType, pack};
use lacuna_isa::inst::{Fill, InstKind, Multicast, Order};
use lacuna_isa::object::{Access, BufferKind, Object};
use lacuna_isa::target::Target;
use lacuna_isa::target_file;
use lacuna_isa::timing::DpeActions;
use lacuna_isa::view::View;
use lacuna_runtime::{LaunchRecord, Machine, Outcome, ProfileOptions, RunOptions, TrapKind, profile_with};
use proptest::prelude::*;

#[derive(Clone, Copy, PartialEq, Debug)]
enum Kind {
    Dense,
    Blocks,
    Active,
}

/// A product of one tile.
#[derive(Clone, Debug)]
struct Case {
    kind: Kind,
    formats: [Format; 2],
    order: Order,
    /// Rows, columns (outer and inner), summed dimensions.
    rows: u32,
    cols: [u32; 2],
    k: [u32; 3],
    /// Sizes of the mask's view.
    mask: [u32; 5],
    flags: Vec<u8>,
    /// Whether the flags are constants of the object.
    constant: bool,
    /// Blocks that the slot of the second operand has room for, where it holds the set ones alone.
    room: Option<u32>,
    /// Codes, scales.
    a: [Vec<u8>; 2],
    b: [Vec<u8>; 2],
}

const BOOL: Format = Format::Scalar(ScalarType::Bool);

impl Case {
    fn sizes(&self) -> [[u32; 5]; 2] {
        let ([n0, n1], [x, y, z]) = (self.cols, self.k);
        let b = match self.order {
            Order::Kn => [n0, x, y, z, n1],
            Order::Nk => [n0, n1, x, y, z],
        };
        [[1, self.rows, x, y, z], b]
    }

    fn views(&self) -> [View; 2] {
        let [a, b] = self.sizes();
        let mut views = [View::dense(self.formats[0], a), View::dense(self.formats[1], b)];
        views[1].k_dim = if self.order == Order::Kn { 3 } else { 4 };
        views
    }

    /// The second operand's slot with its set blocks alone: view, codes and scales.
    fn packed(&self, room: u32) -> (View, [Vec<u8>; 2]) {
        let whole = &self.views()[1];
        let [n_dims, k_dims] = if self.order == Order::Kn { [[0, 4], [2, 3]] } else { [[0, 1], [3, 4]] };
        let times = |d: usize| whole.dims[d].size / self.mask[d];
        let (k_dim, n_dim) = (k_dims[1], n_dims[1]);
        let mut sizes = [1; 5];
        (sizes[0], sizes[k_dim], sizes[n_dim]) = (room, times(k_dim), times(n_dim));
        assert_eq!(sizes.iter().skip(1).product::<u32>(), (0..5).map(times).product(), "blocks along one k");
        let view = View { k_dim: whole.k_dim, ..View::dense(whole.format, sizes) };
        let (from, to) = (whole.planes(), view.planes());
        let [codes, scales, _] = to.plane_bytes(view.elements());
        let mut planes = [vec![0; codes as usize], vec![127; scales as usize]];
        let ty = whole.format.element();
        let set = (0..self.flags.len()).filter(|&flag| self.flags[flag] != 0);
        for (rank, flag) in set.take(room as usize).enumerate() {
            let mut rest = flag as u32;
            let mut first = [0; 5];
            for d in (0..5).rev() {
                first[d] = rest % self.mask[d] * times(d);
                rest /= self.mask[d];
            }
            for (k, n) in (0..sizes[k_dim]).flat_map(|k| (0..sizes[n_dim]).map(move |n| (k, n))) {
                let (mut there, mut here) = (first, [0; 5]);
                (there[k_dim], there[n_dim]) = (there[k_dim] + k, there[n_dim] + n);
                (here[0], here[k_dim], here[n_dim]) = (rank as u32, k, n);
                let element = |view: &View, idx: [u32; 5]| -> u64 {
                    view.dims.iter().zip(idx).map(|(dim, i)| dim.stride as u64 * u64::from(i)).sum()
                };
                let (there, here) = (element(whole, there), element(&view, here));
                let code = pack::get(&self.b[0], ty, there as usize);
                pack::set(&mut planes[0], ty, here as usize, code);
                if scales > 0 {
                    planes[1][to.scale_idx(here) as usize] = self.b[1][from.scale_idx(there) as usize];
                }
            }
        }
        (view, planes)
    }

    fn object(&self) -> Object {
        let mut builder = Builder::new([1; 4]);
        let mut operands = Vec::new();
        let [a, b] = self.views();
        let b = self.room.map_or_else(|| (b, self.b.clone()), |room| self.packed(room));
        for (view, planes) in [(a, self.a.clone()), b] {
            let w = builder.weight(&[&planes[0], &planes[1]]);
            let mut far = global(w, view.format, view.dims);
            far.k_dim = view.k_dim;
            let bytes: u64 = view.planes().plane_bytes(view.elements()).iter().sum();
            let buffer = builder.buffer("operand", BufferKind::Local, bytes as u32, 1);
            operands.push((builder.view(far), buffer, builder.view(view)));
        }
        let n = self.cols[0] * self.cols[1];
        let dense = View::dense(BOOL, self.mask);
        let flags = match self.constant {
            true => builder.weight(&[&self.flags]),
            false => builder.input(ScalarType::Bool, &[self.flags.len() as u64]),
        };
        let far = builder.view(global(flags, BOOL, dense.dims));
        let near = builder.view(dense);
        let masks = builder.buffer("mask", BufferKind::Local, self.flags.len() as u32, 1);
        let out = builder.output(ScalarType::F32, &[u64::from(self.rows), u64::from(n)], Access::Out);
        let sums = View::dense(F32, [1, 1, 1, self.rows, n]);
        let to = builder.view(global(out, F32, sums.dims));
        let sums = builder.view(sums);
        let bank = builder.buffer("acc", BufferKind::Bank, self.rows * n * 4, 1);
        let result = builder.buffer("c", BufferKind::Local, self.rows * n * 4, 1);
        let ld = |dst, src| InstKind::Ld { dst, src, cast: Multicast::None, fill: Fill::Zero };
        for &(far, buffer, near) in &operands {
            builder.emit(ld(push(buffer, near), far));
        }
        let (a, b) = (pop(operands[0].1, operands[0].2), pop(operands[1].1, operands[1].2));
        let (bank_at, order) = (push(bank, sums), self.order);
        builder.emit(ld(push(masks, near), far));
        match self.kind {
            Kind::Dense => {
                builder.emit(InstKind::Mm { bank: bank_at, a, b, order });
                builder.emit(InstKind::Pop { n: 1, buffer: masks });
            }
            Kind::Blocks => {
                let (mask, packed) = (pop(masks, near), self.room.is_some());
                builder.emit(InstKind::Mmblk { bank: bank_at, a, b, mask, order, packed });
            }
            Kind::Active => {
                builder.emit(InstKind::Mmact { bank: bank_at, a, b, mask: pop(masks, near), order });
            }
        }
        builder.emit(InstKind::Drain { dst: push(result, sums), bank: pop(bank, sums) });
        builder.emit(InstKind::St { src: pop(result, sums), dst: to });
        builder.build()
    }

    /// Result and record of a run.
    fn run(&self) -> Result<(Vec<f32>, LaunchRecord), TrapKind> {
        let object = self.object();
        let inputs: &[&[u8]] = if self.constant { &[] } else { &[&self.flags] };
        let machine = Machine::load(&object).expect("the object loads");
        let options = RunOptions { threads: 1, record: true, ..RunOptions::default() };
        match machine.run(inputs, &options).expect("the inputs fit") {
            Outcome::Done { outputs, records } => {
                Ok((floats(&outputs[0]), records.expect("records").remove(0)))
            }
            Outcome::Trap(trap) => Err(trap.kind),
        }
    }

    fn actions(&self) -> DpeActions {
        self.run().expect("no trap").1.products[0].actions
    }

    /// The flag that decides over k `k` in column `n`.
    fn takes_part(&self, k: u32, n: u32) -> bool {
        let [_, y, z] = self.k;
        let idx_k = [k / (y * z), k / z % y, k % z];
        let idx_n = [n / self.cols[1], n % self.cols[1]];
        let idx = match (self.kind, self.order) {
            (Kind::Dense, _) => return true,
            (Kind::Active, _) => [0, 0, idx_k[0], idx_k[1], idx_k[2]],
            (Kind::Blocks, Order::Kn) => [idx_n[0], idx_k[0], idx_k[1], idx_k[2], idx_n[1]],
            (Kind::Blocks, Order::Nk) => [idx_n[0], idx_n[1], idx_k[0], idx_k[1], idx_k[2]],
        };
        let whole = self.sizes()[1];
        let mut at = 0;
        for d in 0..5 {
            let i = if self.kind == Kind::Blocks { idx[d] / (whole[d] / self.mask[d]) } else { idx[d] };
            at = at * self.mask[d] + i;
        }
        self.flags[at as usize] != 0
    }

    /// Element number of k and column in the second operand.
    fn b_at(&self, k: u32, n: u32) -> usize {
        let total: u32 = self.k.iter().product();
        let (n0, n1) = (n / self.cols[1], n % self.cols[1]);
        (match self.order {
            Order::Kn => (n0 * total + k) * self.cols[1] + n1,
            Order::Nk => (n0 * self.cols[1] + n1) * total + k,
        }) as usize
    }

    fn n_k(&self) -> u32 {
        self.k.iter().product()
    }

    fn n_cols(&self) -> u32 {
        self.cols[0] * self.cols[1]
    }
}

/// f32 operands with infinities and NaN where nothing is read.
fn f32_case(kind: Kind, order: Order, flags: impl Fn(usize) -> bool) -> Case {
    let (rows, cols, k) = (5, [2, 24], [2, 3, 4]);
    let mask = match (kind, order) {
        (Kind::Active | Kind::Dense, _) => [1, 1, 2, 3, 4],
        (Kind::Blocks, Order::Kn) => [2, 1, 3, 2, 3],
        (Kind::Blocks, Order::Nk) => [2, 3, 1, 3, 2],
    };
    let n_flags: u32 = mask.iter().product();
    let mut case = Case {
        kind,
        formats: [F32; 2],
        order,
        rows,
        cols,
        k,
        mask,
        flags: (0..n_flags as usize).map(|i| if flags(i) { 1 + (i % 3) as u8 } else { 0 }).collect(),
        constant: true,
        room: None,
        a: [Vec::new(), Vec::new()],
        b: [Vec::new(), Vec::new()],
    };
    let a = noise((rows * case.n_k()) as usize, 1);
    let mut b = noise((case.n_cols() * case.n_k()) as usize, 2);
    for n in 0..case.n_cols() {
        for k in (0..case.n_k()).filter(|&k| !case.takes_part(k, n)) {
            b[case.b_at(k, n)] = if (k + n) % 2 == 0 { f32::INFINITY } else { f32::NAN };
        }
    }
    (case.a[0], case.b[0]) = (bytes(&a), bytes(&b));
    case
}

#[test]
fn what_is_off_contributes_nothing() {
    for kind in [Kind::Dense, Kind::Blocks, Kind::Active] {
        for order in [Order::Kn, Order::Nk] {
            for pick in [|i: usize| i % 3 != 1, |_| true, |_| false, |i| i % 2 == 0] {
                let case = f32_case(kind, order, pick);
                let (a, b) = (floats(&case.a[0]), floats(&case.b[0]));
                let mut want = Vec::new();
                let mut taken = 0;
                for m in 0..case.rows {
                    for n in 0..case.n_cols() {
                        let mut sum = 0f32;
                        for k in (0..case.n_k()).filter(|&k| case.takes_part(k, n)) {
                            sum = a[(m * case.n_k() + k) as usize].mul_add(b[case.b_at(k, n)], sum);
                            taken += 1;
                        }
                        want.push(sum);
                    }
                }
                let (got, record) = case.run().expect("no trap");
                assert_eq!(got, want, "{kind:?} {order:?}");
                let dense = u64::from(case.rows * case.n_cols() * case.n_k());
                assert_eq!((record.macs, record.macs_skipped), (taken, dense - taken), "{kind:?} {order:?}");
            }
        }
    }
}

/// Set and unset masks of other sizes than the operands', and blocks that cut groups.
#[test]
fn illegal_masks_trap() {
    let check = |case: &Case, expect: TrapKind| {
        assert_eq!(case.run().map(|_| ()), Err(expect), "{:?} {:?}", case.kind, case.mask);
    };
    let mut case = f32_case(Kind::Active, Order::Kn, |_| true);
    (case.mask, case.flags) = ([1, 1, 1, 1, 24], vec![1; 24]);
    check(&case, TrapKind::ShapeMismatch);
    let mut case = f32_case(Kind::Blocks, Order::Kn, |_| true);
    (case.mask, case.flags) = ([1, 1, 1, 3, 1], vec![0; 3]);
    check(&case, TrapKind::ShapeMismatch);
    let mx = Format::from_name("mxfp8").expect("a format");
    let mut case = coded(Kind::Blocks, [mx, mx], Order::Nk, &[0; 4]);
    (case.mask, case.flags) = ([1, 1, 1, 1, 4], vec![0; 4]);
    check(&case, TrapKind::PartialGroup);
    // The groups of the first operand alone.
    case.formats[1] = F32;
    case.b = [vec![0; (case.n_cols() * case.n_k() * 4) as usize], Vec::new()];
    check(&case, TrapKind::PartialGroup);
    case.formats = [F32; 2];
    case.a = [vec![0; (case.rows * case.n_k() * 4) as usize], Vec::new()];
    assert!(case.run().is_ok());
}

/// Finite operands of any formats, from seeds.
fn coded(kind: Kind, formats: [Format; 2], order: Order, seeds: &[u64]) -> Case {
    let (rows, cols, k) = (3, [2, 20], [1, 1, 64]);
    let mask = match (kind, order) {
        (Kind::Active | Kind::Dense, _) => [1, 1, 1, 1, 64],
        (Kind::Blocks, Order::Kn) => [2, 1, 1, 2, 4],
        (Kind::Blocks, Order::Nk) => [2, 4, 1, 1, 2],
    };
    let mut state = seeds.iter().fold(7u64, |s, &x| s.wrapping_mul(31).wrapping_add(x));
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    let n_flags: u32 = mask.iter().product();
    let mut case = Case {
        kind,
        formats,
        order,
        rows,
        cols,
        k,
        mask,
        flags: (0..n_flags).map(|_| u8::from(next() % 3 == 0)).collect(),
        constant: true,
        room: None,
        a: [Vec::new(), Vec::new()],
        b: [Vec::new(), Vec::new()],
    };
    let mut made = case.views().map(|view| {
        let [codes, scales, _] = view.planes().plane_bytes(view.elements());
        let ty = view.format.element();
        let mut bytes = vec![0; codes as usize];
        for i in 0..view.elements() as usize {
            let code = if ty.bits() < 8 { next() } else { ty.encode((next() % 64) as f64 / 32.0 - 1.0) };
            pack::set(&mut bytes, ty, i, code);
        }
        // About 1 in either type of scale.
        let one = match view.format {
            Format::Grouped(group) if group.scale == ScalarType::E4M3 => 52,
            Format::Grouped(_) | Format::Scalar(_) => 120,
        };
        [bytes, (0..scales).map(|_| one + (next() % 8) as u8).collect()]
    });
    (case.a, case.b) = (std::mem::take(&mut made[0]), std::mem::take(&mut made[1]));
    case
}

const FORMATS: [&str; 8] = ["f32", "bf16", "e4m3", "mxfp8", "mxfp6", "mxfp4", "mxint8", "nvfp4"];

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    /// Masked equals dense, bit for bit, where what is masked out is zero.
    #[test]
    fn masks_are_zeros(fa in 0..8usize, fb in 0..8usize, nk: bool, blocks: bool, seed: u64) {
        let formats = [FORMATS[fa], FORMATS[fb]].map(|name| Format::from_name(name).expect("a format"));
        let order = if nk { Order::Nk } else { Order::Kn };
        let kind = if blocks { Kind::Blocks } else { Kind::Active };
        let case = coded(kind, formats, order, &[seed]);
        let mut dense = case.clone();
        let ty = formats[1].element();
        for n in 0..case.n_cols() {
            for k in (0..case.n_k()).filter(|&k| !case.takes_part(k, n)) {
                pack::set(&mut dense.b[0], ty, case.b_at(k, n), 0);
            }
        }
        dense.kind = Kind::Dense;
        (dense.mask, dense.flags) = ([1, 1, 1, 1, 64], vec![0; 64]);
        let bits = |case: &Case| case.run().expect("no trap").0.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        prop_assert_eq!(bits(&case), bits(&dense), "{:?} {:?} {:?}", kind, formats, order);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    /// A slot of set blocks alone gives the bits and the counts of the whole operand; blocks that it has no room for are off.
    #[test]
    fn packed_blocks_are_those_of_the_whole(
        fa in 0..8usize, fb in 0..8usize, nk: bool, spare in 0..3u32, missing in 0..3usize, seed: u64,
    ) {
        let formats = [FORMATS[fa], FORMATS[fb]].map(|name| Format::from_name(name).expect("a format"));
        let order = if nk { Order::Nk } else { Order::Kn };
        let mut whole = coded(Kind::Blocks, formats, order, &[seed]);
        let n_set = whole.flags.iter().filter(|&&flag| flag != 0).count() as u32;
        let room = n_set.saturating_sub(missing as u32).max(1);
        let mut packed = whole.clone();
        packed.room = Some(if missing == 0 { room + spare } else { room });
        let set = whole.flags.iter_mut().filter(|flag| **flag != 0);
        set.skip(room as usize).for_each(|flag| *flag = 0);
        let (a, b) = (packed.run().expect("no trap"), whole.run().expect("no trap"));
        let bits = |sums: &[f32]| sums.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        prop_assert_eq!(bits(&a.0), bits(&b.0), "{:?} {:?}", formats, order);
        prop_assert_eq!(a.1.products[0].actions, b.1.products[0].actions);
        let report = |case: &Case| lacuna_runtime::profile(&case.object(), &small(), 0).expect("loads");
        let (a, b) = (report(&packed), report(&whole));
        prop_assert_eq!((a.macs, a.macs_skipped), (b.macs, b.macs_skipped));
        prop_assert_eq!(a.launches[0].busy_cycles[4], b.launches[0].busy_cycles[4]);
    }
}

/// Three dimensions of k, of which blocks take part of the last.
#[test]
fn packed_blocks_follow_every_dimension() {
    for order in [Order::Kn, Order::Nk] {
        let mut case = f32_case(Kind::Blocks, order, |_| true);
        case.mask = if order == Order::Kn { [2, 2, 3, 2, 3] } else { [2, 3, 2, 3, 2] };
        let n_flags: u32 = case.mask.iter().product();
        case.flags = (0..n_flags as usize).map(|i| u8::from(i % 3 != 1)).collect();
        let want = case.run().expect("no trap").0;
        case.room = Some(n_flags);
        assert_eq!(case.run().expect("no trap").0, want, "{order:?}");
    }
}

fn figures(actions: DpeActions) -> [u64; 4] {
    let DpeActions { steps, a_reads, b_reads, macs, .. } = actions;
    [steps, a_reads, b_reads, macs]
}

/// Six elements, three non-zeros in A of which two meet a non-zero of B: cycles, A reads, B reads, multiply-accumulates
/// without any saving, gating on A, skipping on A, skipping on both (Sparseloop, MICRO 2022).
#[test]
fn gating_and_skipping_count_as_published() {
    let (a, b) = ([1.0, 0.0, 2.0, 0.0, 3.0, 0.0], [4.0, 5.0, 6.0, 7.0, 0.0, 0.0]);
    let case = |kind: Kind, flags: [u8; 6]| Case {
        kind,
        formats: [F32; 2],
        order: Order::Nk,
        rows: 1,
        cols: [1, 1],
        k: [1, 1, 6],
        mask: [1, 1, 1, 1, 6],
        flags: flags.to_vec(),
        constant: false,
        room: None,
        a: [bytes(&a), Vec::new()],
        b: [bytes(&b), Vec::new()],
    };
    let (on_a, on_both) = ([1, 0, 1, 0, 1, 0], [1, 0, 1, 0, 0, 0]);
    let baseline = case(Kind::Dense, [0; 6]);
    let skip_a = case(Kind::Active, on_a);
    let skip_both = case(Kind::Active, on_both);
    assert_eq!(figures(baseline.actions()), [6, 6, 6, 6]);
    assert_eq!(figures(baseline.actions().with_gate()), [6, 6, 3, 3]);
    assert_eq!(figures(skip_a.actions()), [3, 3, 3, 3]);
    assert_eq!(figures(skip_both.actions()), [2, 2, 2, 2]);
    assert_eq!(skip_a.actions().gated, 0);
    // The same cycles come out of the machine model on a target with the multipliers of one tile.
    let mut target = target_file::target("mtia-300").expect("a target");
    target.macs_per_cycle = vec![(F32, 32.0)];
    for (case, cycles) in [(&baseline, 6), (&skip_a, 3), (&skip_both, 2)] {
        assert_eq!(case.run().expect("no trap").0, [16.0]);
        let records = [case.run().expect("no trap").1];
        let options = ProfileOptions { records: &records, ..ProfileOptions::default() };
        let report = profile_with(&case.object(), &target, 0, &options).expect("loads");
        assert_eq!(report.launches[0].busy_cycles[4], cycles);
        assert_eq!((report.macs, report.macs_skipped), (cycles, 6 - cycles));
    }
}

/// A zero that meets an infinity is not gated, one that no row shares does not save the read of B.
#[test]
fn gates_close_where_nothing_changes() {
    let case = Case {
        kind: Kind::Dense,
        formats: [F32; 2],
        order: Order::Nk,
        rows: 2,
        cols: [1, 1],
        k: [1, 1, 4],
        mask: [1; 5],
        flags: vec![0],
        constant: false,
        room: None,
        a: [bytes(&[0.0, -0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0]), Vec::new()],
        b: [bytes(&[1.0, 1.0, f32::NAN, 1.0]), Vec::new()],
    };
    let actions = case.actions();
    assert_eq!((actions.gated, actions.b_gated, actions.macs), (3, 1, 8));
    assert!(case.run().expect("no trap").0.iter().all(|sum| sum.is_nan()));
}

/// MTIA 300 with a DPE of 32 multipliers and energies that are easy to tell apart.
fn small() -> Target {
    let mut target = target_file::target("mtia-300").expect("a target");
    target.macs_per_cycle = vec![(F32, 32.0)];
    if let Some(energy) = &mut target.energy {
        energy.mac_pj = vec![(F32, 4.0)];
    }
    target
}

/// Constant flags are known to the machine model: its counts are the interpreter's.
#[test]
fn constant_masks_are_counted_exactly() {
    for kind in [Kind::Blocks, Kind::Active] {
        for order in [Order::Kn, Order::Nk] {
            let case = f32_case(kind, order, |i| i % 3 == 0);
            let record = case.run().expect("no trap").1;
            let report = lacuna_runtime::profile(&case.object(), &small(), 0).expect("loads");
            assert_eq!((report.macs, report.macs_skipped), (record.macs, record.macs_skipped));
            assert_eq!(report.launches[0].busy_cycles[4], record.products[0].actions.steps);
            assert!(report.macs_skipped > 0 && report.energy.skipped > 0.0 && report.energy.metadata > 0.0);
        }
    }
}

/// Flags that the program gets when it runs: all set, a declared share, or what a run counted.
#[test]
fn other_masks_need_to_be_told() {
    let mut case = f32_case(Kind::Active, Order::Kn, |i| i % 4 == 0);
    case.constant = false;
    let record = case.run().expect("no trap").1;
    let dense = record.macs + record.macs_skipped;
    let macs = |options: &ProfileOptions<'_>| {
        let report = profile_with(&case.object(), &small(), 0, options).expect("loads");
        assert_eq!(report.macs + report.macs_skipped, dense);
        report.macs
    };
    assert_eq!(macs(&ProfileOptions::default()), dense);
    assert_eq!(macs(&ProfileOptions { activity: 0.5, ..ProfileOptions::default() }), dense / 2);
    assert_eq!(
        macs(&ProfileOptions {
            activity: 0.5,
            records: std::slice::from_ref(&record),
            ..ProfileOptions::default()
        }),
        record.macs
    );
}

/// What `mmblk` skips are steps of 32 columns by 32 bytes of k: a smaller block saves reads, not cycles.
#[test]
fn blocks_skip_whole_steps() {
    let check = |mask: [u32; 5], set: &[usize], expect: [u64; 4]| {
        let n_flags: u32 = mask.iter().product();
        let case = Case {
            kind: Kind::Blocks,
            formats: [F32; 2],
            order: Order::Kn,
            rows: 2,
            cols: [1, 64],
            k: [1, 1, 32],
            mask,
            flags: (0..n_flags as usize).map(|i| u8::from(set.contains(&i))).collect(),
            constant: true,
            room: None,
            a: [vec![0; 2 * 32 * 4], Vec::new()],
            b: [vec![0; 64 * 32 * 4], Vec::new()],
        };
        assert_eq!(figures(case.actions()), expect, "{mask:?} {set:?}");
    };
    check([1, 1, 1, 1, 1], &[0], [2 * 2 * 32, 2 * 32, 64 * 32, 2 * 64 * 32]);
    check([1, 1, 1, 1, 1], &[], [0, 0, 0, 0]);
    // One block of 8 k by 32 columns: one step of eight f32.
    check([1, 1, 1, 4, 2], &[1], [2 * 8, 2 * 8, 32 * 8, 2 * 32 * 8]);
    // Half of a step, and half of its columns: the step runs whole.
    check([1, 1, 1, 8, 4], &[0], [2 * 8, 2 * 8, 16 * 4, 2 * 16 * 4]);
}

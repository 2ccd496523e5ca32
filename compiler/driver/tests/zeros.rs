//! Products that use zeros: every form gives the bits of the dense one, and costs what its zeros leave.

use cranelift_entity::SecondaryMap;
use lacuna_codegen::{Form, ProductZeros};
use lacuna_ir::op::{BinaryOp, ContractMap, ConvAttrs};
use lacuna_ir::{Constant, Entry, FunctionBuilder, Module, Node, Op, TensorType, Value};
use lacuna_isa::format::{GroupFormat, ScalarType, ScaleMode};
use lacuna_isa::inst::InstKind;
use lacuna_isa::object::Object;
use lacuna_isa::target_file::target;
use lacuna_runtime::profile::Profile;
use lacuna_runtime::{LaunchRecord, Machine, Outcome, ProfileOptions, RunOptions, profile_with};
use proptest::prelude::*;

type Zeros = SecondaryMap<Node, ProductZeros>;

/// Numbers that differ, with signs, not near one another.
fn noise(i: u64) -> f32 {
    let hash = (i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
    (hash as f32 - 8_388_608.0) / 4_194_304.0
}

/// Whether number `i` is among a share of all numbers, at random places.
fn among(i: u64, seed: u64, share: f64) -> bool {
    let hash = (i + seed * 7_919 + 1).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    let hash = (hash ^ (hash >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93) >> 32;
    (hash as f64) < share * f64::from(u32::MAX)
}

fn module(input: &[u64], build: impl Fn(&mut FunctionBuilder<'_>, Value) -> Value) -> Module {
    let mut module = Module { name: "zeros".into(), ..Module::default() };
    let mut b = FunctionBuilder::new(&mut module, "main");
    let x = b.param(TensorType::new(ScalarType::F32, input.to_vec()), "");
    let y = build(&mut b, x);
    b.results(&[y]);
    let func = b.id();
    let (inputs, outputs) = (vec!["x".into()], vec!["y".into()]);
    module.entries.push(Entry { name: "main".into(), func, inputs, outputs });
    lacuna_ir::verify::verify(&module).unwrap_or_else(|e| panic!("{e:?}\n{module}"));
    module
}

fn f32_const(b: &mut FunctionBuilder<'_>, shape: &[u64], value: impl Fn(u64) -> f32) -> Value {
    let bytes = (0..shape.iter().product()).flat_map(|i| value(i).to_le_bytes()).collect();
    b.constant(Constant::dense(TensorType::new(ScalarType::F32, shape.to_vec()), bytes, "w")).unwrap()
}

fn contract(b: &mut FunctionBuilder<'_>, x: Value, w: Value) -> Value {
    let map = ContractMap { a: vec![0, 1], b: vec![1, 2], out: vec![0, 2] };
    b.emit(Op::Contract { map, elem: ScalarType::F32 }, &[x, w]).unwrap()
}

/// A convolution of 3 x 3 taps.
fn conv(b: &mut FunctionBuilder<'_>, x: Value, w: Value, stride: u64) -> Value {
    let attrs = ConvAttrs {
        x: vec![0, 1, 2, 3],
        w: vec![0, 1, 2, 3],
        out: vec![0, 1, 2, 3],
        strides: vec![stride; 2],
        dilations: vec![1, 1],
        x_dilations: vec![1, 1],
        low: vec![1, 1],
        high: vec![1, 1],
        groups: 1,
    };
    b.emit(Op::Conv { attrs, elem: ScalarType::F32 }, &[x, w]).unwrap()
}

/// A value that is 0 where it was negative.
fn relu(b: &mut FunctionBuilder<'_>, x: Value) -> Value {
    let shape = b.ty(x).shape.0.clone();
    let zero = f32_const(b, &[1], |_| 0.0);
    let zero = b.emit(Op::Reshape { shape: Vec::<u64>::new().into() }, &[zero]).unwrap();
    let zero = b.emit(Op::Broadcast { dims: [].into(), shape: shape.into() }, &[zero]).unwrap();
    b.binary(BinaryOp::Max, x, zero).unwrap()
}

/// The last product of a module.
fn hero(module: &Module) -> Node {
    let func = &module.functions[module.entries[0].func];
    let mut products = func.nodes.iter().filter(|(_, data)| data.op.is_product()).map(|(node, _)| node);
    products.next_back().expect("a product")
}

fn compile(module: &Module, chip: &str, zeros: &Zeros) -> Object {
    let target = target(chip).expect("a target");
    let generated = lacuna_codegen::generate(module, &target, zeros)
        .unwrap_or_else(|failures| panic!("{failures:?}\n{module}"));
    let faults = generated.object.validate();
    assert!(faults.is_empty(), "{faults:?}\n{}", generated.tiled);
    let findings = lacuna_codegen::check::check(&generated.object, &target);
    assert!(findings.is_empty(), "{findings:?}\n{}", generated.tiled);
    generated.object
}

fn in_form(module: &Module, chip: &str, form: Form) -> Object {
    let mut zeros = Zeros::new();
    zeros[hero(module)].only = Some(form);
    compile(module, chip, &zeros)
}

fn uses(object: &Object, is_it: impl Fn(&InstKind) -> bool) -> bool {
    object.kernels.iter().flat_map(|k| &k.code).any(|inst| is_it(&inst.kind))
}

fn input_of(module: &Module) -> Vec<u8> {
    let func = &module.functions[module.entries[0].func];
    let n = func.ty(func.params[0]).shape.elements();
    (0..n).flat_map(|i| noise(i + 999_983).to_le_bytes()).collect()
}

fn run(object: &Object, input: &[u8]) -> (Vec<u8>, Vec<LaunchRecord>) {
    let machine = Machine::load(object).expect("a valid object loads");
    let options = RunOptions { record: true, ..RunOptions::default() };
    match machine.run(&[input], &options).expect("an input of the right size") {
        Outcome::Trap(trap) => panic!("{trap:?}"),
        Outcome::Done { mut outputs, records } => (outputs.remove(0), records.expect("a recorded run")),
    }
}

fn profile(object: &Object, records: &[LaunchRecord]) -> Profile {
    let target = target(&object.target).expect("a target");
    let options = ProfileOptions { records, ..ProfileOptions::default() };
    profile_with(object, &target, 0, &options).expect("a profile")
}

/// A product `[rows, k] x [k, n]` in which a share of blocks of `block` x 32 weights is not zero, of a value that went
/// through a ReLU. Both operands are in groups of `format`, if there is one.
fn sparse_product(
    [rows, k, n]: [u64; 3],
    block: u64,
    share: f64,
    format: Option<GroupFormat>,
    value: fn(u64) -> f32,
) -> Module {
    module(&[rows, k], |b, x| {
        let w = f32_const(b, &[k, n], |i| {
            let at = (i / n / block) * 1_000 + i % n / 32;
            if among(at, block, share) { value(i) } else { 0.0 }
        });
        let x = relu(b, x);
        let Some(format) = format else { return contract(b, x, w) };
        let x = b.emit(Op::MxQuantize { format, axis: 1, mode: ScaleMode::Floor }, &[x]).unwrap();
        let codes = b.emit(Op::MxQuantize { format, axis: 0, mode: ScaleMode::Floor }, &[w]).unwrap();
        contract(b, x, codes)
    })
}

/// The constants of a module folded, as selection leaves them.
fn folded(module: &Module, format: Option<GroupFormat>) -> Module {
    let Some(format) = format else { return module.clone() };
    let mut module = module.clone();
    let func = module.entries[0].func;
    let weights = module.constants.values().find(|c| c.name == "w").expect("the weights").clone();
    let shape = weights.ty.shape.0.clone();
    let quantise = self::module(&[1], |b, _| {
        let w = b.constant(weights.clone()).unwrap();
        b.emit(Op::MxQuantize { format, axis: 0, mode: ScaleMode::Floor }, &[w]).unwrap()
    });
    let one = lacuna_ir::eval::Tensor::from_f64(ScalarType::F32, vec![1], &[0.0]).expect("one element");
    let entry = quantise.entries[0].func;
    let codes =
        lacuna_ir::eval::eval(&quantise, entry, &[one], lacuna_ir::eval::Mode::Typed).unwrap().remove(0);
    let rows = module.functions[func].ty(module.functions[func].params[0]).shape.0.clone();
    module = self::module(&rows, |b, x| {
        let x = relu(b, x);
        let x = b.emit(Op::MxQuantize { format, axis: 1, mode: ScaleMode::Floor }, &[x]).unwrap();
        let w = b.constant(Constant::dense(codes.ty.clone(), codes.to_bytes(), "w")).unwrap();
        contract(b, x, w)
    });
    assert_eq!(shape, codes.ty.shape.0);
    module
}

/// Every form that uses zeros gives the bits of the dense form.
#[test]
fn every_form_has_the_bits_of_the_dense_one() {
    let shapes = [[1, 128, 96], [5, 100, 70], [67, 256, 40]];
    let formats = [
        None,
        Some(GroupFormat::MXFP8),
        Some(GroupFormat::MXFP4),
        Some(GroupFormat::MX6),
        Some(GroupFormat::MXINT8),
    ];
    for chip in ["mtia-300", "trainium2"] {
        for sizes in shapes {
            for format in formats {
                let block = format.map_or(8, |f| u64::from(f.size).max(32));
                let module = folded(&sparse_product(sizes, block, 0.4, format, noise), format);
                let input = input_of(&module);
                let (expect, _) = run(&in_form(&module, chip, Form::Dense), &input);
                for form in [Form::Compressed, Form::Blocks, Form::Active] {
                    let name = format!("{chip} {sizes:?} {format:?} {form:?}");
                    let object = in_form(&module, chip, form);
                    let masked = |kind: &InstKind| match form {
                        Form::Compressed => matches!(kind, InstKind::Ldx { .. }),
                        Form::Blocks => matches!(kind, InstKind::Mmblk { .. }),
                        Form::Active => matches!(kind, InstKind::Mmact { .. }),
                        Form::Dense | Form::Pattern(_) => false,
                    };
                    assert!(uses(&object, masked), "{name}: another form");
                    assert!(run(&object, &input).0 == expect, "{name}: other bits");
                }
            }
        }
    }
}

/// Weights of every narrower type, widened on the way in, give the bits of the same values in f32.
#[test]
fn narrow_constants_have_the_bits_of_wide_ones() {
    type Numbers = fn(u64) -> f32;
    let values: [(ScalarType, Numbers); 4] = [
        (ScalarType::I4, |i| (i % 16) as f32 - 8.0),
        (ScalarType::I8, |i| (i % 256) as f32 - 128.0),
        (ScalarType::E4M3, |i| ((i % 15) as f32 - 7.0) * 0.25),
        (ScalarType::Bf16, |i| f32::from_bits(noise(i).to_bits() & 0xFFFF_0000)),
    ];
    for (stored, value) in values {
        let narrow = sparse_product([3, 70, 40], 8, 1.0, None, value);
        // One value that needs f32, times 0: the same sums from constants that are not narrow.
        let wide =
            module(&[3, 70], |b, x| {
                let w = f32_const(b, &[70, 41], |i| {
                    if i % 41 < 40 { value(i / 41 * 40 + i % 41) } else { 1.000_000_1 }
                });
                let x = relu(b, x);
                let y = contract(b, x, w);
                b.emit(Op::Slice { starts: vec![0, 0], shape: vec![3, 40].into(), steps: vec![1, 1] }, &[y])
                    .unwrap()
            });
        let input = input_of(&narrow);
        let (a, b) = (in_form(&narrow, "mtia-300", Form::Dense), in_form(&wide, "mtia-300", Form::Dense));
        assert!(run(&a, &input).0 == run(&b, &input).0, "{stored}: other bits");
        let bytes = stored.bytes_for(70 * 64);
        let got = a.weights.bytes().len() as u64;
        assert!(got < bytes + 256, "{stored}: {got} bytes for {bytes}");
    }
}

/// A convolution whose weights have zero blocks along its input channels.
#[test]
fn convolutions_by_blocks() {
    let (channels, out) = (64u64, 40u64);
    let model = module(&[1, channels, 9, 9], |b, x| {
        let w = f32_const(b, &[out, channels, 3, 3], |i| {
            let (channel, tap) = (i / 9 % channels, i % 9);
            if among(channel / 8 * 9 + tap, 5, 0.3) { noise(i) } else { 0.0 }
        });
        conv(b, x, w, 1)
    });
    let input = input_of(&model);
    let (expect, _) = run(&in_form(&model, "mtia-300", Form::Dense), &input);
    for form in [Form::Blocks, Form::Compressed] {
        let object = in_form(&model, "mtia-300", form);
        assert!(run(&object, &input).0 == expect, "{form:?}: other bits");
    }
    let chosen = compile(&model, "mtia-300", &Zeros::new());
    let got = profile(&chosen, &[]);
    let zeros = got.macs_skipped as f64 / (got.macs + got.macs_skipped) as f64;
    assert!(zeros > 0.6, "{zeros} of the products are skipped");
}

/// Rows of weights are left out along one summed dimension, and a window sums over three: its product stays dense.
#[test]
fn windows_behind_a_relu_stay_dense() {
    let channels = 256u64;
    let model = module(&[1, channels, 3, 3], |b, x| {
        let x = relu(b, x);
        let w = f32_const(b, &[channels, channels, 3, 3], noise);
        conv(b, x, w, 2)
    });
    let input = input_of(&model);
    let mut zeros = Zeros::new();
    zeros[hero(&model)].active = true;
    let [dense, chosen] = [&Zeros::new(), &zeros].map(|zeros| compile(&model, "mtia-300", zeros));
    assert!(run(&chosen, &input).0 == run(&dense, &input).0, "other bits");
    zeros[hero(&model)].only = Some(Form::Active);
    let refused = lacuna_codegen::generate(&model, &target("mtia-300").unwrap(), &zeros);
    let failures = refused.err().expect("flags for a window");
    assert!(format!("{failures:?}").contains("more than one dimension"), "{failures:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Blocks of any size and density, in operands of any shape and format: the bits of the dense form.
    #[test]
    fn blocks_have_the_bits_of_the_whole(
        rows in 1..80u64, k in 8..400u64, n in 1..300u64, block in 1..5u32, share in 0.02..0.9f64, format in 0..4usize,
        chip in 0..3usize,
    ) {
        let format = [None, Some(GroupFormat::MXFP8), Some(GroupFormat::MXFP4), Some(GroupFormat::MX9)][format];
        let chip = ["mtia-300", "trainium2", "mtia-2i"][chip];
        let block = format.map_or(4, |f| u64::from(f.size)) << block;
        let module = folded(&sparse_product([rows, k, n], block, share, format, noise), format);
        let input = input_of(&module);
        let mut zeros = Zeros::new();
        zeros[hero(&module)].only = Some(Form::Blocks);
        let target = target(chip).expect("a target");
        // Nothing to leave out is a reason to refuse the form.
        if lacuna_codegen::generate(&module, &target, &zeros).is_ok() {
            let (expect, _) = run(&in_form(&module, chip, Form::Dense), &input);
            prop_assert!(run(&in_form(&module, chip, Form::Blocks), &input).0 == expect, "other bits");
        }
    }
}

/// A group whose scale is NaN has codes of zero and is not zero: its block is multiplied.
#[test]
fn zeros_under_a_nan_scale_are_not_zeros() {
    let (k, n, format) = (128u64, 64u64, GroupFormat::MXFP8);
    let codes = (0..k * n).map(|i| if i < 32 * 32 && i % n < 32 { 0x38 } else { 0 });
    // The last scale is of column 63 in the last group of rows.
    let scales = (0..k / 32 * n).map(|i| if i == k / 32 * n - 1 { 0xFF } else { 0x7F });
    let bytes: Vec<u8> = codes.chain(scales).collect();
    let model = module(&[3, k], |b, x| {
        let x = b.emit(Op::MxQuantize { format, axis: 1, mode: ScaleMode::Floor }, &[x]).unwrap();
        let ty = TensorType::grouped(format, 0, vec![k, n]);
        let w = b.constant(Constant::dense(ty, bytes.clone(), "w")).unwrap();
        contract(b, x, w)
    });
    let object = compile(&model, "mtia-300", &Zeros::new());
    let input = input_of(&model);
    let (expect, _) = run(&in_form(&model, "mtia-300", Form::Dense), &input);
    assert!(!uses(&object, |kind| matches!(kind, InstKind::Mmblk { .. })));
    assert!(run(&object, &input).0 == expect, "other bits");
    let last = expect.chunks_exact(4).nth(63).expect("64 columns");
    assert!(f32::from_le_bytes(last.try_into().expect("four bytes")).is_nan());
}

/// Of products by 4096 x 4096 weights of which 90% of the 32 x 32 blocks are zero, the terms of zero blocks are skipped.
#[test]
fn zero_blocks_are_skipped() {
    let set = |at: u64| among(at, 32, 0.1);
    let share =
        (0..128 * 128u64).filter(|&i| set(i / 128 * 1_000 + i % 128)).count() as f64 / (128.0 * 128.0);
    for (rows, most) in [(4096, 0.14), (512, 0.16)] {
        let model = module(&[rows, 4096], |b, x| {
            let w = f32_const(b, &[4096, 4096], |i| {
                if set(i / 4096 / 32 * 1_000 + i % 4096 / 32) { noise(i) } else { 0.0 }
            });
            contract(b, x, w)
        });
        let (dense, sparse) =
            (in_form(&model, "mtia-300", Form::Dense), compile(&model, "mtia-300", &Zeros::new()));
        let (dense, sparse) = (profile(&dense, &[]), profile(&sparse, &[]));
        let terms = rows as f64 * 4096.0 * 4096.0;
        let skipped = (terms - sparse.macs as f64) / (terms * (1.0 - share));
        let ratio = sparse.cycles as f64 / dense.cycles as f64;
        let bytes = sparse.hbm_bytes as f64 / dense.hbm_bytes as f64;
        println!(
            "block-sparse, {rows} rows: {skipped:.3} of the zeros skipped, {ratio:.3} of the dense cycles, {bytes:.3} of the \
             bytes over HBM"
        );
        assert!((0.95..=1.0).contains(&skipped), "{skipped} of the zeros are skipped");
        assert!(ratio <= most, "{ratio} of the dense cycles for {rows} rows");
    }
}

/// One row and several by wide weights of integers that f32 alone has, whose sums are exact: the numbers themselves.
#[test]
fn few_rows_by_wide_weights() {
    let (k, n) = (4096u64, 4096u64);
    let weight = |i: u64| if among(i, 3, 0.5) { 0.0 } else { (noise(i) * 2000.0).floor() * 2.0 + 1.0 };
    for rows in [1, 3] {
        let model = module(&[rows, k], |b, x| {
            let w = f32_const(b, &[k, n], weight);
            contract(b, x, w)
        });
        let x: Vec<f32> = (0..rows * k).map(|i| (noise(i + 7) * 1.5).floor()).collect();
        let input: Vec<u8> = x.iter().flat_map(|v| v.to_le_bytes()).collect();
        let weights: Vec<f32> = (0..k * n).map(weight).collect();
        for only in [Some(Form::Dense), Some(Form::Compressed), None] {
            let object = only.map_or_else(
                || compile(&model, "mtia-300", &Zeros::new()),
                |form| in_form(&model, "mtia-300", form),
            );
            let (found, _) = run(&object, &input);
            let found = found.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            for (i, found) in found.enumerate() {
                let (row, column) = (i / n as usize, i % n as usize);
                let row = &x[row * k as usize..][..k as usize];
                let expect: f32 =
                    row.iter().zip(weights[column..].iter().step_by(n as usize)).map(|(a, b)| a * b).sum();
                assert_eq!(found, expect, "{rows} rows, {only:?}, element {i}");
            }
        }
    }
}

/// `i8` weights of which 75% are zero, at random: bytes in the object and over the memory port.
#[test]
fn random_zeros_of_integers_are_not_stored() {
    let weights = |zeros: bool| {
        module(&[1, 4096], move |b, x| {
            let w = f32_const(b, &[4096, 4096], |i| {
                let code = 1.0 + (noise(i).abs() * 63.0).floor();
                if zeros && !among(i, 3, 0.25) { 0.0 } else { code * noise(i).signum() }
            });
            contract(b, x, w)
        })
    };
    let (dense, sparse) = (weights(false), weights(true));
    let (dense, sparse) =
        (compile(&dense, "mtia-300", &Zeros::new()), compile(&sparse, "mtia-300", &Zeros::new()));
    let bytes = |object: &Object| object.weights.bytes().len() as f64;
    assert!(bytes(&dense) < 1.001 * 4096.0 * 4096.0, "{} bytes of dense weights", bytes(&dense));
    let stored = bytes(&sparse) / bytes(&dense);
    let moved = profile(&sparse, &[]).hbm_bytes as f64 / profile(&dense, &[]).hbm_bytes as f64;
    println!("75% zeros: {stored:.4} of the dense bytes stored, {moved:.4} moved");
    assert!(stored <= 0.375 && moved <= 0.375, "{stored} of the bytes stored, {moved} moved");
}

/// A feed-forward with ReLU of which 65% of the hidden values are zero, one row at a time.
#[test]
fn rows_behind_a_relu_are_not_loaded() {
    let (width, hidden) = (1024u64, 2752u64);
    let model = module(&[1, width], |b, x| {
        let up = f32_const(b, &[width, hidden], |i| noise(i) / 16.0);
        let h = contract(b, x, up);
        let bias = f32_const(b, &[hidden], |_| -0.193);
        let bias =
            b.emit(Op::Broadcast { dims: [1].into(), shape: vec![1, hidden].into() }, &[bias]).unwrap();
        let h = b.binary(BinaryOp::Add, h, bias).unwrap();
        let h = relu(b, h);
        let down = f32_const(b, &[hidden, width], |i| noise(i + 77));
        contract(b, h, down)
    });
    let mut zeros = Zeros::new();
    zeros[hero(&model)].active = true;
    let (dense, sparse) = (compile(&model, "mtia-300", &Zeros::new()), compile(&model, "mtia-300", &zeros));
    let input = input_of(&model);
    let ((expect, _), (got, records)) = (run(&dense, &input), run(&sparse, &input));
    assert!(got == expect, "other bits");
    let (dense, sparse) = (profile(&dense, &[]), profile(&sparse, &records));
    let down = |p: &Profile| p.launches.last().expect("a launch").hbm_bytes as f64;
    let zero = sparse.macs_skipped as f64 / (hidden * width) as f64;
    let (moved, all) = (down(&sparse) / down(&dense), sparse.hbm_bytes as f64 / dense.hbm_bytes as f64);
    println!("{zero:.3} zeros: {moved:.3} of the bytes of the down projection, {all:.3} of all");
    assert!((0.63..0.67).contains(&zero), "{zero} of the hidden values are zero");
    assert!(moved <= 0.40, "{moved} of the bytes of the down projection");
    assert!(all <= 0.72, "{all} of the bytes of the feed-forward");
}

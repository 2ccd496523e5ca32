//! Modules that several tests share.

use lacuna_ir::expand::Attention;
use lacuna_ir::op::{BinaryOp, CompareOp, ContractMap, ConvAttrs, EmptyRow, Real, ReduceOp, UnaryOp};
use lacuna_ir::{
    Constant, ConstantData, Entry, FunctionBuilder, Module, Op, Origin, OriginId, Shape, TensorType, Value,
};
use lacuna_isa::format::{GroupFormat, ScalarType, ScaleMode};
use lacuna_isa::inst::Combine;

use ScalarType::{Bool, E4M3, F32, I64};

/// A type of scalars.
pub fn ty(elem: ScalarType, shape: &[u64]) -> TensorType {
    TensorType::new(elem, shape)
}

/// A verified module with every operator, every kind of constant, two functions, names and origins.
pub fn every_operator() -> Module {
    let mut module = Module { name: "every \"operator\"\n".into(), ..Module::default() };
    for (node, op) in [("/conv", "Conv"), ("", "Relu"), ("ü\u{7}\\", "Add")] {
        module.origins.push(Origin { node: node.into(), op: op.into() });
    }
    let origins: Vec<OriginId> = module.origins.keys().collect();

    let mut b = FunctionBuilder::new(&mut module, "two results");
    let x = b.param(ty(F32, &[2, 8]), "x");
    let y = b.unary(UnaryOp::Exp, x).unwrap();
    b.results(&[y, x]);
    let callee = b.id();

    let mut b = FunctionBuilder::new(&mut module, "main.1");
    let x = b.param(ty(F32, &[2, 8]), "x");
    let i = b.param(ty(I64, &[3]), "");
    b.set_origins(vec![origins[2], origins[0]]);
    let w: Vec<f32> = (0..24).map(|i| i as f32 / 7.0).collect();
    let w = b.const_f32([1u64, 8, 3].as_slice(), &w).unwrap();
    b.set_origins(vec![]);
    let w2 = b.emit(Op::Reshape { shape: Shape(vec![8, 3]) }, &[w]).unwrap();
    let zero = b.constant(Constant::new(ty(F32, &[]), ConstantData::Splat(0x8000_0000), "zero")).unwrap();
    let odd = b.constant(Constant::dense(ty(E4M3, &[3]), vec![0x7F, 0, 1], "odd")).unwrap();
    let empty = b.constant(Constant::dense(ty(Bool, &[0]), vec![], "")).unwrap();
    let grouped = TensorType::grouped(GroupFormat::MXFP4, 1, [1u64, 40].as_slice());
    let grouped = b.constant(Constant::dense(grouped, (0..22).collect(), "groups")).unwrap();
    let called = b.emit_all(Op::Call { func: callee }, &[x]).unwrap();
    let sum = b.binary(BinaryOp::Add, called[0], called[1]).unwrap();
    let less = b.emit(Op::Compare { op: CompareOp::Lt }, &[sum, x]).unwrap();
    b.emit(Op::BitCast { to: ScalarType::I32 }, &[sum]).unwrap();
    let chosen = b.emit(Op::Select {}, &[less, x, sum]).unwrap();
    let map = ContractMap::parse("mk,kn->mn").unwrap();
    let product = b.emit(Op::Contract { map, elem: F32 }, &[chosen, w2]).unwrap();
    let permuted = b.emit(Op::Permute { perm: vec![1, 0] }, &[product]).unwrap();
    let padded = b.emit(Op::Pad { low: vec![0, 1], high: vec![2, 0] }, &[permuted, zero]).unwrap();
    let joined = b.emit(Op::Concat { axis: 0 }, &[padded, padded]).unwrap();
    let slice = Op::Slice { starts: vec![9, 0], shape: Shape(vec![5, 3]), steps: vec![-2, 1] };
    let sliced = b.emit(slice, &[joined]).unwrap();
    let window = Op::Window { axes: vec![0], sizes: vec![2], strides: vec![1], dilations: vec![3] };
    let windows = b.emit(window, &[sliced]).unwrap();
    let pooled = b.emit(Op::Reduce { op: ReduceOp::Max, axes: vec![2] }, &[windows]).unwrap();
    let wide = b.emit(Op::Broadcast { dims: vec![0, 2], shape: Shape(vec![2, 4, 3]) }, &[pooled]).unwrap();
    let conv = ConvAttrs {
        x: vec![0, 1, 2],
        w: vec![1, 2, 0],
        out: vec![0, 2, 1],
        strides: vec![1],
        dilations: vec![1],
        x_dilations: vec![2],
        low: vec![-1],
        high: vec![1],
        groups: 1,
    };
    let kernel = b.emit(Op::Broadcast { dims: vec![0], shape: Shape(vec![1, 8, 4]) }, &[empty]);
    assert!(kernel.is_err(), "an empty dimension does not repeat");
    let kernel = b.emit(Op::Iota { elem: F32, shape: Shape(vec![1, 8, 4]), axis: 2 }, &[]).unwrap();
    let conv = b.emit(Op::Conv { attrs: conv, elem: F32 }, &[wide, kernel]).unwrap();
    let soft = b.emit(Op::Softmax { axis: 1, log: false }, &[conv]).unwrap();
    let norm = b.emit(Op::Norm { axes: vec![2], centre: true, eps: Real(1e-5) }, &[soft]).unwrap();
    let rms = b.emit(Op::Norm { axes: vec![0], centre: false, eps: Real(f64::INFINITY) }, &[norm]).unwrap();
    let heads = b.emit(Op::Reshape { shape: Shape(vec![1, 2, 2, 4]) }, &[x]).unwrap();
    let attention = Attention {
        scale: Real(0.5),
        softcap: Real(30.0),
        causal: true,
        shift: -1,
        window: 7,
        empty_row: EmptyRow::Zero,
        elem: F32,
    };
    b.emit(attention.op(), &[heads, heads, heads]).unwrap();
    let run = Op::Cumulate { op: ReduceOp::Sum, axis: 1, exclusive: true, reverse: false };
    let run = b.emit(run, &[rms]).unwrap();
    b.emit(Op::Sort { k: 2, descending: true }, &[run]).unwrap();
    let at = b.emit(Op::Iota { elem: I64, shape: Shape(vec![1, 2]), axis: 1 }, &[]).unwrap();
    let rows = b.emit(Op::Iota { elem: F32, shape: Shape(vec![1, 3, 4]), axis: 1 }, &[]).unwrap();
    let fresh = b.emit(Op::Iota { elem: F32, shape: Shape(vec![1, 2, 4]), axis: 2 }, &[]).unwrap();
    b.emit(Op::Scatter { combine: Combine::Max }, &[rows, at, fresh]).unwrap();
    let best = b.emit(Op::ArgReduce { max: true, axis: 2, last: false }, &[run]).unwrap();
    let taken = b.emit(Op::Gather { axis: 1, batch: 0 }, &[x, i]).unwrap();
    let small = b.emit(Op::Cast { to: E4M3, saturate: false }, &[taken]).unwrap();
    let mode = ScaleMode::Rceil;
    let q = b.emit(Op::MxQuantize { format: GroupFormat::MXFP8, axis: 1, mode }, &[x]).unwrap();
    let q = b.emit(Op::MxDecode { to: F32 }, &[q]).unwrap();
    let g = b.emit(Op::MxDecode { to: F32 }, &[grouped]).unwrap();
    let rank = b.func().ty(small).shape.rank();
    let blocks = Op::Dequantize { blocks: vec![1; rank], to: F32 };
    b.emit(blocks, &[small, taken, small]).unwrap();
    b.func_mut().values[q].name = "decoded".into();
    b.results(&[best, small, odd, empty, q, g]);
    let func = b.id();
    let outputs = ["a", "b", "c", "d", "e", "f"].map(String::from).to_vec();
    module.entries.push(Entry { name: "main".into(), func, inputs: vec!["x".into(), "i".into()], outputs });
    module
}

/// Builds a random element-wise and movement graph over `f32[2,3]` from choices.
pub fn random_graph(choices: &[(u8, u8, u8)]) -> Module {
    let mut module = Module { name: "random".into(), ..Module::default() };
    let mut b = FunctionBuilder::new(&mut module, "main");
    let mut values: Vec<Value> = vec![b.param(ty(F32, &[2, 3]), "x")];
    for &(kind, first, second) in choices {
        let pick = |n: u8| values[usize::from(n) % values.len()];
        let (x, y) = (pick(first), pick(second));
        let value = match kind % 7 {
            0 => b.unary(UnaryOp::ALL[usize::from(second) % 6], x).unwrap(),
            1 => b.binary(BinaryOp::ALL[usize::from(kind / 7) % 9], x, y).unwrap(),
            2 => b.const_f32([2u64, 3].as_slice(), &[f32::from(first); 6]).unwrap(),
            3 => {
                let code = f32::from(second).to_bits().into();
                b.constant(Constant::new(ty(F32, &[2, 3]), ConstantData::Splat(code), "s")).unwrap()
            }
            4 => {
                let turned = b.emit(Op::Permute { perm: vec![1, 0] }, &[x]).unwrap();
                b.emit(Op::Permute { perm: vec![1, 0] }, &[turned]).unwrap()
            }
            5 => {
                let less = b.emit(Op::Compare { op: CompareOp::Le }, &[x, y]).unwrap();
                b.emit(Op::Select {}, &[less, y, x]).unwrap()
            }
            _ => b.emit(Op::Iota { elem: F32, shape: Shape(vec![2, 3]), axis: first % 2 }, &[]).unwrap(),
        };
        values.push(value);
    }
    let last = values[values.len() - 1];
    b.results(&[last, values[values.len() / 2]]);
    let func = b.id();
    let outputs = vec!["y".into(), "z".into()];
    module.entries.push(Entry { name: "main".into(), func, inputs: vec!["x".into()], outputs });
    module
}

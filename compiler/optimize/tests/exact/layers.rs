//! A generator of deep modules: transformer layers and residual convolutions as exporters spell them.
//!
//! Every layer has constants of its own, so equal layers are equal but for the constants' identity.

use lacuna_ir::op::{BinaryOp, ContractMap, ConvAttrs, UnaryOp};
use lacuna_ir::{Constant, Entry, FunctionBuilder, Module, Op, TensorType, Value};
use lacuna_isa::format::ScalarType;

/// Tokens of a sequence.
const TOKENS: u64 = 16;
/// Channels between layers.
const WIDTH: u64 = 32;
/// Attention heads.
const HEADS: u64 = 4;

/// What the layers of a module are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Self-attention and a feed-forward network with GELU, each with a residual and then a norm.
    Encoder,
    /// Norm first by its parts, grouped keys and values, a gated feed-forward network.
    Decoder,
    /// Two convolutions with batch normalisation, ReLU and a residual.
    Residual,
}

/// A module of `n` layers.
pub fn module(kind: Kind, n: usize) -> Module {
    let mut module = Module::default();
    let mut l = Layers { b: FunctionBuilder::new(&mut module, "main"), seed: 1 };
    let shape: &[u64] = match kind {
        Kind::Encoder | Kind::Decoder => &[1, TOKENS, WIDTH],
        Kind::Residual => &[1, WIDTH, 6, 6],
    };
    let input = l.b.param(TensorType::new(ScalarType::F32, shape), "x");
    let mask = l.b.param(TensorType::new(ScalarType::F32, &[1u64, TOKENS][..]), "mask");
    let mask = l.emit(Op::Reshape { shape: vec![1, 1, 1, TOKENS].into() }, &[mask]);
    let mut x = input;
    for _ in 0..n {
        x = match kind {
            Kind::Encoder => l.encoder(x, mask),
            Kind::Decoder => l.decoder(x, mask),
            Kind::Residual => l.residual(x),
        };
    }
    let x = l.unary(UnaryOp::Tanh, x);
    l.b.results(&[x]);
    let func = l.b.id();
    let inputs = vec!["x".into(), "mask".into()];
    module.entries.push(Entry { name: "main".into(), func, inputs, outputs: vec!["y".into()] });
    module
}

struct Layers<'m> {
    b: FunctionBuilder<'m>,
    seed: u64,
}

impl Layers<'_> {
    fn emit(&mut self, op: Op, args: &[Value]) -> Value {
        self.b.emit(op, args).unwrap()
    }

    fn unary(&mut self, op: UnaryOp, x: Value) -> Value {
        self.b.unary(op, x).unwrap()
    }

    fn shape(&self, x: Value) -> Vec<u64> {
        self.b.ty(x).shape.0.clone()
    }

    fn konst(&mut self, shape: &[u64]) -> Value {
        let values: Vec<f32> = (0..shape.iter().product())
            .map(|_| {
                // SplitMix64.
                self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let z = (self.seed ^ (self.seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                0.25 + (z >> 44) as f32 / (1 << 21) as f32
            })
            .collect();
        self.b.const_f32(shape, &values).unwrap()
    }

    fn scalar(&mut self, value: f32) -> Value {
        let ty = TensorType::new(ScalarType::F32, &[][..]);
        self.b.constant(Constant::dense(ty, value.to_le_bytes().to_vec(), "")).unwrap()
    }

    /// Element-wise with the second operand broadcast as NumPy does.
    fn binary(&mut self, op: BinaryOp, x: Value, y: Value) -> Value {
        let shape = self.b.ty(x).shape.clone();
        let y = self.b.broadcast_to(y, &shape).unwrap();
        self.b.binary(op, x, y).unwrap()
    }

    fn contract(&mut self, map: &str, x: Value, y: Value) -> Value {
        let map = ContractMap::parse(map).unwrap();
        self.emit(Op::Contract { map, elem: ScalarType::F32 }, &[x, y])
    }

    fn linear(&mut self, x: Value, outputs: u64, bias: bool) -> Value {
        let inputs = self.shape(x)[2];
        let w = self.konst(&[inputs, outputs]);
        let y = self.contract("btk,kn->btn", x, w);
        if !bias {
            return y;
        }
        let b = self.konst(&[outputs]);
        self.binary(BinaryOp::Add, y, b)
    }

    fn heads(&mut self, x: Value, n: u64) -> Value {
        let d = self.shape(x)[2] / n;
        let y = self.emit(Op::Reshape { shape: vec![1, TOKENS, n, d].into() }, &[x]);
        self.emit(Op::Permute { perm: vec![0, 2, 1, 3] }, &[y])
    }

    fn attention(&mut self, q: Value, k: Value, v: Value, mask: Value) -> Value {
        let d = self.shape(q)[3];
        let scale = self.scalar((d as f32).powf(-0.25));
        let q = self.binary(BinaryOp::Mul, q, scale);
        let k = self.emit(Op::Permute { perm: vec![0, 1, 3, 2] }, &[k]);
        let k = self.binary(BinaryOp::Mul, k, scale);
        let scores = self.contract("bhtd,bhds->bhts", q, k);
        let scores = self.binary(BinaryOp::Add, scores, mask);
        let weights = self.emit(Op::Softmax { axis: 3, log: false }, &[scores]);
        let y = self.contract("bhts,bhsd->bhtd", weights, v);
        let y = self.emit(Op::Permute { perm: vec![0, 2, 1, 3] }, &[y]);
        self.emit(Op::Reshape { shape: vec![1, TOKENS, WIDTH].into() }, &[y])
    }

    fn layer_norm(&mut self, x: Value) -> Value {
        let (s, b) = (self.konst(&[WIDTH]), self.konst(&[WIDTH]));
        let eps = lacuna_ir::op::Real(1e-5);
        self.emit(Op::Norm { axes: vec![2], centre: true, eps }, &[x, s, b])
    }

    fn rms_norm(&mut self, x: Value) -> Value {
        let two = self.scalar(2.0);
        let square = self.binary(BinaryOp::Pow, x, two);
        let mean = self.emit(Op::Reduce { op: lacuna_ir::op::ReduceOp::Mean, axes: vec![2] }, &[square]);
        let mean = self.emit(Op::Reshape { shape: vec![1, TOKENS, 1].into() }, &[mean]);
        let eps = self.scalar(1e-6);
        let sum = self.binary(BinaryOp::Add, mean, eps);
        let root = self.unary(UnaryOp::Sqrt, sum);
        let inverse = self.unary(UnaryOp::Recip, root);
        let y = self.binary(BinaryOp::Mul, x, inverse);
        let s = self.konst(&[WIDTH]);
        self.binary(BinaryOp::Mul, y, s)
    }

    fn encoder(&mut self, x: Value, mask: Value) -> Value {
        let [q, k, v] = [(); 3].map(|()| {
            let y = self.linear(x, WIDTH, true);
            self.heads(y, HEADS)
        });
        let y = self.attention(q, k, v, mask);
        let y = self.linear(y, WIDTH, true);
        let y = self.binary(BinaryOp::Add, y, x);
        let x = self.layer_norm(y);
        let y = self.linear(x, 4 * WIDTH, true);
        let root = self.scalar(std::f32::consts::SQRT_2);
        let z = self.binary(BinaryOp::Div, y, root);
        let z = self.unary(UnaryOp::Erf, z);
        let one = self.scalar(1.0);
        let z = self.binary(BinaryOp::Add, z, one);
        let z = self.binary(BinaryOp::Mul, y, z);
        let half = self.scalar(0.5);
        let z = self.binary(BinaryOp::Mul, z, half);
        let y = self.linear(z, WIDTH, true);
        let y = self.binary(BinaryOp::Add, y, x);
        self.layer_norm(y)
    }

    fn decoder(&mut self, x: Value, mask: Value) -> Value {
        let n = self.rms_norm(x);
        let q = self.linear(n, WIDTH, false);
        let q = self.heads(q, HEADS);
        let [k, v] = [(); 2].map(|()| {
            let y = self.linear(n, WIDTH / 2, false);
            let y = self.heads(y, HEADS / 2);
            let d = WIDTH / HEADS;
            let y = self.emit(Op::Reshape { shape: vec![1, HEADS / 2, 1, TOKENS, d].into() }, &[y]);
            let shape = vec![1, HEADS / 2, 2, TOKENS, d].into();
            let y = self.emit(Op::Broadcast { dims: vec![0, 1, 2, 3, 4], shape }, &[y]);
            self.emit(Op::Reshape { shape: vec![1, HEADS, TOKENS, d].into() }, &[y])
        });
        let y = self.attention(q, k, v, mask);
        let y = self.linear(y, WIDTH, false);
        let x = self.binary(BinaryOp::Add, x, y);
        let n = self.rms_norm(x);
        let gate = self.linear(n, 3 * WIDTH, false);
        let sigmoid = self.unary(UnaryOp::Sigmoid, gate);
        let gate = self.binary(BinaryOp::Mul, gate, sigmoid);
        let up = self.linear(n, 3 * WIDTH, false);
        let y = self.binary(BinaryOp::Mul, gate, up);
        let y = self.linear(y, WIDTH, false);
        self.binary(BinaryOp::Add, x, y)
    }

    fn residual(&mut self, x: Value) -> Value {
        let mut y = x;
        for last in [false, true] {
            let w = self.konst(&[WIDTH, WIDTH, 3, 3]);
            let attrs = ConvAttrs {
                x: vec![0, 1, 2, 3],
                w: vec![0, 1, 2, 3],
                out: vec![0, 1, 2, 3],
                strides: vec![1, 1],
                dilations: vec![1, 1],
                x_dilations: vec![1, 1],
                low: vec![1, 1],
                high: vec![1, 1],
                groups: 1,
            };
            y = self.emit(Op::Conv { attrs, elem: ScalarType::F32 }, &[y, w]);
            for op in [BinaryOp::Mul, BinaryOp::Add] {
                let c = self.konst(&[WIDTH]);
                let c = self.emit(Op::Reshape { shape: vec![1, WIDTH, 1, 1].into() }, &[c]);
                y = self.binary(op, y, c);
            }
            if last {
                y = self.binary(BinaryOp::Add, y, x);
            }
            let zero = self.scalar(0.0);
            y = self.binary(BinaryOp::Max, y, zero);
        }
        y
    }
}

//! A laboratory for rules: random micro-graphs, and the check that all terms of every class are equal.

use egg::{Id, Language};
use indexmap::IndexMap;
use lacuna_ir::eval::{Mode, Tensor, TensorData, eval, eval_op};
use lacuna_ir::op::{BinaryOp, ContractMap, ConvAttrs, ReduceOp, UnaryOp};
use lacuna_ir::{Constant, ConstantData, Entry, FuncId, FunctionBuilder, Module, Op, TensorType, Value};
use lacuna_isa::format::ScalarType;

use crate::exact::Input;
use crate::graph::Graph;
use crate::lang::Term;
use crate::report::Report;
use crate::rules::{Rule, RuleClass};
use crate::saturate::{Limits, Made, compile, saturate};

/// Builds a function with random inputs and constants.
pub struct Lab<'m> {
    pub b: FunctionBuilder<'m>,
    pub inputs: Vec<Tensor>,
    /// Which numbers occur.
    pub numbers: Numbers,
    state: u64,
}

/// The numbers that occur in a laboratory, and their type.
#[derive(Clone, Copy)]
pub struct Numbers {
    /// Type of parameters and constants that no other type is given for.
    pub elem: ScalarType,
    /// Whether inputs have zeros of both signs, infinities, NaN, subnormal numbers, ties, the greatest numbers, and numbers so
    /// large that others vanish in them.
    pub specials: bool,
    /// Whether constants have infinities, NaN, zeros, and numbers whose products overflow or underflow.
    pub extremes: bool,
}

impl Numbers {
    /// Numbers near 1, in f32.
    pub const PLAIN: Numbers = Numbers { elem: ScalarType::F32, specials: false, extremes: false };
}

/// Numbers that tell bits apart, of f32 and of narrower types, to which some of them round.
const SPECIALS: [f64; 24] = [
    f64::INFINITY,
    f64::NEG_INFINITY,
    f64::NAN,
    0.0,
    -0.0,
    1e-45,
    -1e-45,
    1.17549421e-38,
    6e-8,
    -6.1e-5,
    9.2e-41,
    0.5,
    -0.5,
    1.5,
    2.5,
    -3.5,
    3.402_823_466_385_288_6e38,
    -3.38e38,
    65504.0,
    -65504.0,
    1e6,
    16_777_217.0,
    12_582_912.0,
    -1e30,
];

/// See [`Numbers::extremes`].
const EXTREMES: [f64; 8] = [f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 0.0, 1e25, -1e25, 1e-25, 1e-30];

impl<'m> Lab<'m> {
    pub fn new(module: &'m mut Module, seed: u64) -> Lab<'m> {
        let b = FunctionBuilder::new(module, "main");
        Lab { b, inputs: Vec::new(), numbers: Numbers::PLAIN, state: seed ^ 0x9e37_79b9_7f4a_7c15 }
    }

    pub fn random(&mut self, below: u64) -> u64 {
        // SplitMix64.
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }

    /// A random size, often 1.
    pub fn dim(&mut self) -> u64 {
        [1, 1, 2, 3, 4, 5][self.random(6) as usize]
    }

    pub fn dims(&mut self, n: usize) -> Vec<u64> {
        (0..n).map(|_| self.dim()).collect()
    }

    pub fn perm(&mut self, n: usize) -> Vec<u8> {
        let mut perm: Vec<u8> = (0..n as u8).collect();
        for i in (1..n).rev() {
            let j = self.random(i as u64 + 1) as usize;
            perm.swap(i, j);
        }
        perm
    }

    fn numbers(&mut self, n: u64, among: &[f64], one_in: u64) -> Vec<f64> {
        (0..n)
            .map(|_| {
                if !among.is_empty() && self.random(one_in) == 0 {
                    return among[self.random(among.len() as u64) as usize];
                }
                let magnitude = 0.25 + self.random(1 << 20) as f64 / (1 << 20) as f64;
                f64::from((if self.random(2) == 0 { magnitude } else { -magnitude }) as f32)
            })
            .collect()
    }

    /// Takes f32 instead of integers, for operators of floats alone.
    pub fn floats(&mut self) {
        if !self.numbers.elem.is_float() {
            self.numbers.elem = ScalarType::F32;
        }
    }

    pub fn param(&mut self, shape: &[u64]) -> Value {
        self.param_of(self.numbers.elem, shape)
    }

    pub fn param_of(&mut self, elem: ScalarType, shape: &[u64]) -> Value {
        // Among infinities and NaN, sums tell little of what else is in them.
        let among = match (self.numbers.specials, self.random(2)) {
            (false, _) => &[][..],
            (true, 0) => &SPECIALS[..],
            (true, _) => &SPECIALS[3..],
        };
        let mut values = self.numbers(shape.iter().product(), among, 3);
        if !elem.is_float() {
            values = values.into_iter().map(|v| (v * 100.0).trunc()).collect();
        }
        self.inputs.push(Tensor::from_f64(elem, shape, &values).unwrap());
        self.b.param(TensorType::new(elem, shape), "")
    }

    pub fn konst(&mut self, shape: &[u64]) -> Value {
        let among = if self.numbers.extremes { &EXTREMES[..] } else { &[] };
        let values = self.numbers(shape.iter().product(), among, 6);
        self.dense(shape, &values)
    }

    /// A constant of these elements, rounded to the laboratory's type.
    fn dense(&mut self, shape: &[u64], values: &[f64]) -> Value {
        let elem = self.numbers.elem;
        let bytes = Tensor::from_f64(elem, shape, values).unwrap().to_bytes();
        self.b.constant(Constant::dense(TensorType::new(elem, shape), bytes, "")).unwrap()
    }

    pub fn splat(&mut self, shape: &[u64], value: f32) -> Value {
        self.splat_of(self.numbers.elem, shape, f64::from(value))
    }

    pub fn splat_of(&mut self, elem: ScalarType, shape: &[u64], value: f64) -> Value {
        let (ty, code) = (TensorType::new(elem, shape), elem.encode(value));
        self.b.constant(Constant::new(ty, ConstantData::Splat(code), "")).unwrap()
    }

    /// An `i8` constant widened to the laboratory's type, as quantised weights are.
    pub fn widened_konst(&mut self, shape: &[u64]) -> Value {
        let n: u64 = shape.iter().product();
        let bytes = (0..n).map(|_| self.random(255) as u8).collect();
        let ty = TensorType::new(ScalarType::I8, shape);
        let codes = self.b.constant(Constant::dense(ty, bytes, "")).unwrap();
        let to = self.numbers.elem;
        self.emit(Op::Cast { to, saturate: true }, &[codes])
    }

    /// An integer constant of elements from 1 to 9.
    pub fn int_konst(&mut self, shape: &[u64]) -> Value {
        let n: u64 = shape.iter().product();
        let bytes = (0..n).flat_map(|_| (1 + self.random(9) as i32).to_le_bytes()).collect();
        self.b.constant(Constant::dense(TensorType::new(ScalarType::I32, shape), bytes, "")).unwrap()
    }

    pub fn int_splat(&mut self, shape: &[u64], value: i32) -> Value {
        self.splat_of(ScalarType::I32, shape, f64::from(value))
    }

    /// A constant whose elements are zero but for the last.
    pub fn nearly_zero(&mut self, shape: &[u64]) -> Value {
        let n = shape.iter().product::<u64>() as usize;
        let mut values = vec![0.0; n];
        values[n - 1] = 2.0;
        self.dense(shape, &values)
    }

    /// A constant that is zero at some indices along `d`, and nowhere else.
    pub fn with_dead(&mut self, shape: &[u64], d: usize, dead: &[u64]) -> Value {
        let after: u64 = shape[d + 1..].iter().product();
        let numbers = self.numbers(shape.iter().product(), &[], 1);
        let at = |i: usize| i as u64 / after % shape[d];
        let values = numbers.iter().enumerate().map(|(i, &v)| if dead.contains(&at(i)) { 0.0 } else { v });
        let values: Vec<f64> = values.collect();
        self.dense(shape, &values)
    }

    /// Some indices below `n`, but not all, and none where `n` is 1.
    pub fn some_of(&mut self, n: u64) -> Vec<u64> {
        let kept = self.random(n);
        (0..n).filter(|&i| i != kept && self.random(2) == 0).collect()
    }

    /// An operator; a convolution gives the type of its first operand.
    pub fn emit(&mut self, op: Op, args: &[Value]) -> Value {
        let op = match (op, args.first().and_then(|&x| self.b.ty(x).elem.scalar())) {
            (Op::Conv { attrs, .. }, Some(elem)) => Op::Conv { attrs, elem },
            (op, _) => op,
        };
        self.b.emit(op, args).unwrap()
    }

    pub fn shape(&self, v: Value) -> Vec<u64> {
        self.b.ty(v).shape.0.clone()
    }

    pub fn bin(&mut self, op: BinaryOp, x: Value, y: Value) -> Value {
        self.b.binary(op, x, y).unwrap()
    }

    pub fn un(&mut self, op: UnaryOp, x: Value) -> Value {
        self.b.unary(op, x).unwrap()
    }

    pub fn permute(&mut self, x: Value, perm: &[u8]) -> Value {
        self.emit(Op::Permute { perm: perm.to_vec() }, &[x])
    }

    pub fn reshape(&mut self, x: Value, shape: &[u64]) -> Value {
        self.emit(Op::Reshape { shape: shape.into() }, &[x])
    }

    pub fn broadcast(&mut self, x: Value, dims: &[u8], shape: &[u64]) -> Value {
        self.emit(Op::Broadcast { dims: dims.to_vec(), shape: shape.into() }, &[x])
    }

    pub fn reduce(&mut self, op: ReduceOp, axes: &[u8], x: Value) -> Value {
        self.emit(Op::Reduce { op, axes: axes.to_vec() }, &[x])
    }

    pub fn contract(&mut self, map: &str, a: Value, b: Value) -> Value {
        let map = ContractMap::parse(map).unwrap();
        let elem = self.b.ty(a).elem.scalar().unwrap();
        self.emit(Op::Contract { map, elem }, &[a, b])
    }

    /// A constant of `shape` that varies along `d` only.
    pub fn channel(&mut self, shape: &[u64], d: usize) -> Value {
        let c = self.konst(&[shape[d]]);
        self.broadcast(c, &[d as u8], shape)
    }
}

/// A convolution over one spatial axis with unit strides.
pub fn conv1d(low: i64, high: i64, groups: u64) -> Op {
    let attrs = ConvAttrs {
        x: vec![0, 1, 2],
        w: vec![0, 1, 2],
        out: vec![0, 1, 2],
        strides: vec![1],
        dilations: vec![1],
        x_dilations: vec![1],
        low: vec![low],
        high: vec![high],
        groups,
    };
    Op::Conv { attrs, elem: ScalarType::F32 }
}

/// A module with one entry from what `build` returns.
pub fn module(
    seed: u64,
    specials: bool,
    build: impl FnOnce(&mut Lab) -> Vec<Value>,
) -> (Module, Vec<Tensor>) {
    module_of(seed, Numbers { specials, ..Numbers::PLAIN }, build)
}

/// A module with one entry from what `build` returns, made of these numbers.
pub fn module_of(
    seed: u64,
    numbers: Numbers,
    build: impl FnOnce(&mut Lab) -> Vec<Value>,
) -> (Module, Vec<Tensor>) {
    let mut module = Module::default();
    let mut lab = Lab::new(&mut module, seed);
    lab.numbers = numbers;
    let results = build(&mut lab);
    let inputs = std::mem::take(&mut lab.inputs);
    lab.b.results(&results);
    let func = lab.b.id();
    let names = |n: usize, stem: &str| (0..n).map(|i| format!("{stem}{i}")).collect();
    let (inputs_named, outputs) = (names(inputs.len(), "in"), names(results.len(), "out"));
    module.entries.push(Entry { name: "main".into(), func, inputs: inputs_named, outputs });
    (module, inputs)
}

/// How often the rule fired among `rules`, and the contradiction that it brought, if any.
pub fn fired(module: Module, rules: &[Rule], name: &'static str) -> (usize, Option<String>) {
    let func = module.functions[module.entries[0].func].clone();
    let mut graph = Input::read(module, &func, Vec::new()).unwrap().graph;
    let (mut made, mut report) = (Vec::new(), Report::default());
    let limits = Limits { iterations: 4, terms: 400 };
    saturate(&mut graph, &compile(rules).unwrap(), limits, &mut made, &mut report);
    (report.count(name).fired, graph.eg.analysis.error.take().map(|e| e.to_string()))
}

/// What saturation with `rules` made of the entry of a module.
pub fn saturated(module: Module, rules: &[Rule]) -> (Graph, Vec<Id>, Vec<Made>, Report) {
    let func = module.functions[module.entries[0].func].clone();
    let Input { mut graph, roots, .. } = Input::read(module, &func, Vec::new()).unwrap();
    let (mut made, mut report) = (Vec::new(), Report::default());
    let limits = Limits { iterations: 12, terms: 1_500 };
    saturate(&mut graph, &compile(rules).unwrap(), limits, &mut made, &mut report);
    assert_eq!(graph.eg.analysis.error, None);
    (graph, roots, made, report)
}

/// Asserts that all terms of every class have one value: in typed mode by bits for E0 and, but for the sign of zeros,
/// for E0f, else in real mode closely.
pub fn assert_sound(g: &Graph, inputs: &[Tensor], class: RuleClass) {
    let mode = if class >= RuleClass::E1 { Mode::Real } else { Mode::Typed };
    assert_all(g, inputs, mode, |got, expect| {
        same(got, expect, mode) || (class == RuleClass::E0f && equal(got, expect))
    });
}

/// Asserts that no term of a class is infinite or NaN where another is not, in typed mode.
pub fn assert_equally_finite(g: &Graph, inputs: &[Tensor]) {
    let kind = |v: &f64| (v.is_nan(), v.is_infinite());
    assert_all(g, inputs, Mode::Typed, |got, expect| {
        got.to_f64().iter().map(kind).eq(expect.to_f64().iter().map(kind))
    });
}

/// Asserts of all terms of every class that their values are equal in the sense of `agree`.
fn assert_all(g: &Graph, inputs: &[Tensor], mode: Mode, agree: impl Fn(&Tensor, &Tensor) -> bool) {
    let module = &g.eg.analysis.module;
    let mut values: IndexMap<Id, Tensor> = IndexMap::new();
    let value = |values: &IndexMap<Id, Tensor>, term: &Term| -> Option<Tensor> {
        match term {
            Term::Param(n) => Some(inputs[*n as usize].clone()),
            Term::Result(..) => None,
            Term::Apply(_, op, args) => {
                let args: Option<Vec<&Tensor>> = args.iter().map(|&a| values.get(&g.eg.find(a))).collect();
                let op = &g.eg.analysis.ops[*op];
                Some(eval_op(module, op, &args?, mode).unwrap().remove(0))
            }
        }
    };
    loop {
        let before = values.len();
        for class in g.eg.classes() {
            if !values.contains_key(&class.id)
                && let Some(v) = class.nodes.iter().find_map(|t| value(&values, t))
            {
                values.insert(class.id, v);
            }
        }
        if values.len() == before {
            break;
        }
    }
    assert_eq!(values.len(), g.eg.number_of_classes(), "some class has no value");
    for c in g.eg.classes() {
        for term in &c.nodes {
            let got = value(&values, term).unwrap();
            let expect = &values[&c.id];
            assert_eq!(got.ty, expect.ty);
            assert!(agree(&got, expect), "{}: {:?}\nis not\n{:?}", show(g, term, 2), got.data, expect.data);
        }
    }
}

/// Whether two tensors have equal numbers.
fn equal(a: &Tensor, b: &Tensor) -> bool {
    a.to_f64() == b.to_f64()
}

/// Whether two tensors agree: closely in real mode, by bits in typed mode, where all NaN are one.
pub fn same(a: &Tensor, b: &Tensor, mode: Mode) -> bool {
    match (&a.data, &b.data) {
        (TensorData::F(x), TensorData::F(y)) => {
            let scale = y.iter().filter(|v| v.is_finite()).fold(1.0f64, |m, v| m.max(v.abs()));
            x.len() == y.len()
                && x.iter().zip(y.iter()).all(|(x, y)| match mode {
                    Mode::Typed => x.to_bits() == y.to_bits() || (x.is_nan() && y.is_nan()),
                    Mode::Real => (x - y).abs() <= 1e-5 * scale || (x.is_nan() && y.is_nan()) || x == y,
                })
        }
        (x, y) => x == y,
    }
}

/// A term as text, to a depth.
pub fn show(g: &Graph, term: &Term, depth: usize) -> String {
    let mut text = term.to_string();
    if let Some(op) = g.op(term) {
        match op {
            Op::Contract { map, .. } => text = format!("contract{map}"),
            Op::Reduce { op, axes } => text = format!("reduce:{op}{axes:?}"),
            Op::Permute { perm } => text = format!("permute{perm:?}"),
            Op::Broadcast { dims, .. } => text = format!("broadcast{dims:?}"),
            Op::Softmax { axis, .. } | Op::Concat { axis } => text = format!("{text}[{axis}]"),
            Op::Norm { axes, centre, .. } => {
                text = format!("norm{axes:?}{}", if *centre { "centred" } else { "" })
            }
            Op::Attention { causal, .. } => {
                text = if *causal { "causal attention" } else { "attention" }.into()
            }
            Op::Const { .. } => text = "c".into(),
            Op::Iota { .. } | Op::Unary { .. } | Op::Binary { .. } | Op::Compare { .. } => {}
            Op::Select {} | Op::Cast { .. } | Op::Reshape { .. } | Op::Slice { .. } | Op::Pad { .. } => {}
            Op::Window { .. } | Op::Gather { .. } | Op::ArgReduce { .. } | Op::Cumulate { .. } => {}
            Op::Sort { .. }
            | Op::Scatter { .. }
            | Op::BitCast { .. }
            | Op::Conv { .. }
            | Op::MxQuantize { .. }
            | Op::MxDecode { .. }
            | Op::Dequantize { .. }
            | Op::Call { .. } => {}
        }
    }
    if term.children().is_empty() {
        return text;
    }
    let args: Vec<String> = term
        .children()
        .iter()
        .map(|&c| {
            let first = g.eg[c].nodes.iter().min_by_key(|t| (t.children().len(), show_head(t))).unwrap();
            if depth == 0 { "..".into() } else { show(g, first, depth - 1) }
        })
        .collect();
    format!("{text}({})", args.join(", "))
}

fn show_head(term: &Term) -> String {
    term.to_string()
}

/// Asserts that two modules compute the same on inputs.
pub fn assert_same(before: &Module, after: &Module, inputs: &[Tensor], mode: Mode) {
    let run = |m: &Module| eval(m, m.entries[0].func, inputs, mode).unwrap();
    for (x, y) in run(after).iter().zip(&run(before)) {
        assert_eq!(x.ty, y.ty);
        assert!(same(x, y, mode), "{:?}\nis not\n{:?}", x.data, y.data);
    }
}

/// How many nodes of a function have an operator of this name.
pub fn count(module: &Module, func: FuncId, name: &str) -> usize {
    module.functions[func].nodes.values().filter(|n| n.op.name() == name).count()
}

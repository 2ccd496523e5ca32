//! One step of an LSTM, GRU or RNN for a batch of sequences.

use lacuna_ir::Value;
use lacuna_ir::op::BinaryOp;

use super::activation::Activation;
use super::quantized::{Codes, dynamic_product};
use crate::context::{Ctx, invalid};
use crate::diagnostic::Fail;

/// Kinds of recurrent layers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Gates: input, output, forget, cell.
    Lstm,
    /// Gates: update, reset, hidden.
    Gru,
    /// One gate.
    Rnn,
}

impl Kind {
    /// Number of gates.
    pub fn gates(self) -> u64 {
        match self {
            Kind::Lstm => 4,
            Kind::Gru => 3,
            Kind::Rnn => 1,
        }
    }

    /// Functions of one direction.
    pub fn default_activations(self) -> &'static [&'static str] {
        match self {
            Kind::Lstm => &["Sigmoid", "Tanh", "Tanh"],
            Kind::Gru => &["Sigmoid", "Tanh"],
            Kind::Rnn => &["Tanh"],
        }
    }
}

/// Recurrent weights.
pub(super) enum Weights {
    /// `[gates * hidden, hidden]`.
    Rows(Value),
    /// Codes `[hidden, gates * hidden]`; what they are multiplied with is quantised as it comes.
    Codes(Codes),
}

impl Weights {
    /// The product of a state `[batch, hidden]` with the weights of `count` gates from one on.
    fn product(&self, c: &mut Ctx<'_>, h: Value, first: u64, count: u64, hidden: u64) -> Result<Value, Fail> {
        match self {
            Weights::Rows(r) => {
                let r = c.slice_axis(*r, 0, first * hidden, count * hidden)?;
                c.contract_as("bh,gh->bg", h, r, c.elem(h))
            }
            Weights::Codes(codes) => {
                let all = dynamic_product(c, h, *codes)?;
                c.slice_axis(all, 1, first * hidden, count * hidden)
            }
        }
    }
}

/// What a step reads.
pub(super) struct Gates {
    /// Inputs times their weights, with biases: `[steps, batch, gates * hidden]`.
    pub inputs: Value,
    /// Recurrent weights.
    pub r: Weights,
    /// The recurrent bias `[gates * hidden]`, where it is not in `inputs`.
    pub recurrent_bias: Option<Value>,
    /// Weights `[hidden]` of the cell state in the input, output and forget gates.
    pub peepholes: Option<[Value; 3]>,
}

/// What a step hands on: `[batch, hidden]` each.
pub(super) struct State {
    pub h: Value,
    /// The cell state of an LSTM.
    pub c: Option<Value>,
}

/// A cell with its attributes.
pub(super) struct Cell<'a> {
    pub kind: Kind,
    pub acts: &'a [Activation],
    /// Bound on the magnitude of what the activations of gates get.
    pub clip: Option<f64>,
    /// Whether an LSTM forgets what it does not take in.
    pub couple: bool,
    /// Whether a GRU resets the product instead of its operand.
    pub linear: bool,
    pub hidden: u64,
    pub gates: Gates,
}

impl Cell<'_> {
    /// The next state from the input's part of the gates, `[batch, gates * hidden]`.
    pub fn step(&self, c: &mut Ctx<'_>, x: Value, state: &State) -> Result<State, Fail> {
        match self.kind {
            Kind::Lstm => self.lstm(c, x, state),
            Kind::Gru => Ok(State { h: self.gru(c, x, state.h)?, c: None }),
            Kind::Rnn => {
                let product = self.gates.r.product(c, state.h, 0, 1, self.hidden)?;
                let sum = c.binary(BinaryOp::Add, x, product)?;
                Ok(State { h: self.activate(c, 0, sum)?, c: None })
            }
        }
    }

    fn gate(&self, c: &mut Ctx<'_>, v: Value, i: u64) -> Result<Value, Fail> {
        c.slice_axis(v, c.rank(v) - 1, i * self.hidden, self.hidden)
    }

    /// Function `i` of a gate.
    fn activate(&self, c: &mut Ctx<'_>, i: usize, mut x: Value) -> Result<Value, Fail> {
        if let Some(clip) = self.clip {
            x = c.binary_splat(BinaryOp::Max, x, -clip)?;
            x = c.binary_splat(BinaryOp::Min, x, clip)?;
        }
        self.acts[i].apply(c, x)
    }

    /// `1 - x`.
    fn rest(c: &mut Ctx<'_>, x: Value) -> Result<Value, Fail> {
        let one = c.splat_like(x, 1.0)?;
        c.binary(BinaryOp::Sub, one, x)
    }

    fn lstm(&self, c: &mut Ctx<'_>, x: Value, state: &State) -> Result<State, Fail> {
        let cell = state.c.ok_or_else(|| invalid("an LSTM without cell state"))?;
        let product = self.gates.r.product(c, state.h, 0, 4, self.hidden)?;
        let all = c.binary(BinaryOp::Add, x, product)?;
        let with_peephole = |c: &mut Ctx<'_>, gate: Value, i: usize, cell: Value| match self.gates.peepholes {
            Some(weights) => {
                let seen = c.binary(BinaryOp::Mul, cell, weights[i])?;
                c.binary(BinaryOp::Add, gate, seen)
            }
            None => Ok(gate),
        };
        let input = self.gate(c, all, 0)?;
        let input = with_peephole(c, input, 0, cell)?;
        let input = self.activate(c, 0, input)?;
        let forget = if self.couple {
            Self::rest(c, input)?
        } else {
            let forget = self.gate(c, all, 2)?;
            let forget = with_peephole(c, forget, 2, cell)?;
            self.activate(c, 0, forget)?
        };
        let fresh = self.gate(c, all, 3)?;
        let fresh = self.activate(c, 1, fresh)?;
        let kept = c.binary(BinaryOp::Mul, forget, cell)?;
        let taken = c.binary(BinaryOp::Mul, input, fresh)?;
        let cell = c.binary(BinaryOp::Add, kept, taken)?;
        let output = self.gate(c, all, 1)?;
        let output = with_peephole(c, output, 1, cell)?;
        let output = self.activate(c, 0, output)?;
        // The cell state is no gate: as in ONNX Runtime, it is not clipped.
        let shown = self.acts[2].apply(c, cell)?;
        Ok(State { h: c.binary(BinaryOp::Mul, output, shown)?, c: Some(cell) })
    }

    fn gru(&self, c: &mut Ctx<'_>, x: Value, h: Value) -> Result<Value, Fail> {
        let hidden = self.hidden;
        let product = |c: &mut Ctx<'_>, h: Value, first: u64, count: u64| {
            let y = self.gates.r.product(c, h, first, count, hidden)?;
            match self.gates.recurrent_bias {
                Some(bias) => {
                    let bias = c.slice_axis(bias, 0, first * hidden, count * hidden)?;
                    c.binary(BinaryOp::Add, y, bias)
                }
                None => Ok(y),
            }
        };
        let of_h = product(c, h, 0, if self.linear { 3 } else { 2 })?;
        let mut opened = Vec::new();
        for i in 0..2 {
            let (own, other) = (self.gate(c, x, i)?, self.gate(c, of_h, i)?);
            let sum = c.binary(BinaryOp::Add, own, other)?;
            opened.push(self.activate(c, 0, sum)?);
        }
        let (update, reset) = (opened[0], opened[1]);
        let other = if self.linear {
            let last = self.gate(c, of_h, 2)?;
            c.binary(BinaryOp::Mul, reset, last)?
        } else {
            let left = c.binary(BinaryOp::Mul, reset, h)?;
            product(c, left, 2, 1)?
        };
        let own = self.gate(c, x, 2)?;
        let sum = c.binary(BinaryOp::Add, own, other)?;
        let fresh = self.activate(c, 1, sum)?;
        let rest = Self::rest(c, update)?;
        let taken = c.binary(BinaryOp::Mul, rest, fresh)?;
        let kept = c.binary(BinaryOp::Mul, update, h)?;
        c.binary(BinaryOp::Add, taken, kept)
    }
}

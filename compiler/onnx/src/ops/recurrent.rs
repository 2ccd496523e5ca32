//! LSTM, GRU and RNN: one product for the inputs of all steps, then the steps, one after the other.

use lacuna_ir::Value;
use lacuna_ir::op::{BinaryOp, CompareOp};
use lacuna_isa::format::ScalarType;

use super::activation::activations;
use super::quantized::{Codes, dynamic_product};
use super::recurrent_cells::{Cell, Gates, Kind, State, Weights};
use crate::call::Call;
use crate::context::{Ctx, invalid};
use crate::control::{MAX_STEPS, too_long};
use crate::diagnostic::Fail;

type Results = Result<Vec<Value>, Fail>;

pub(super) fn lstm(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    Layer::of(c, n, Kind::Lstm, false)?.run(c, n)
}

/// An LSTM whose weights are codes, transposed, and whose operands are quantised as they come.
pub(super) fn dynamic_quantize_lstm(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    Layer::of(c, n, Kind::Lstm, true)?.run(c, n)
}

pub(super) fn gru(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    Layer::of(c, n, Kind::Gru, false)?.run(c, n)
}

pub(super) fn rnn(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    Layer::of(c, n, Kind::Rnn, false)?.run(c, n)
}

/// A recurrent layer: sizes, and operands in the layout [steps, batch, ..].
struct Layer {
    kind: Kind,
    /// Whether weights are codes with scales and zero points, operands 8 to 11.
    codes: bool,
    /// Type of the results.
    elem: ScalarType,
    /// Type that steps are computed in.
    wide: ScalarType,
    steps: u64,
    batch: u64,
    hidden: u64,
    /// For each direction, whether it starts at the end.
    directions: Vec<bool>,
    batch_first: bool,
    /// `[steps, batch, inputs]`.
    x: Value,
    lengths: Lengths,
}

/// How many steps each sequence of the batch has.
enum Lengths {
    /// All of them.
    Full,
    /// Known numbers.
    Known(Vec<u64>),
    /// Numbers that are computed at run time: `[batch]`.
    RunTime(Value),
}

/// Which sequences of the batch take a step.
enum Active {
    All,
    None,
    /// `[batch, 1]`.
    Some(Value),
}

impl Layer {
    fn of(c: &mut Ctx<'_>, n: &Call<'_>, kind: Kind, codes: bool) -> Result<Layer, Fail> {
        let directions = match n.string("direction", "forward")? {
            "forward" => vec![false],
            "reverse" => vec![true],
            "bidirectional" => vec![false, true],
            other => return Err(invalid(format!("direction is {other:?}"))),
        };
        let mut x = n.input(0)?;
        let batch_first = n.flag("layout", false)?;
        let elem = c.elem(x);
        if c.rank(x) != 3 {
            return Err(invalid(format!("the input is {}, not of rank 3", c.b.ty(x))));
        }
        if batch_first {
            x = c.permute(x, vec![1, 0, 2])?;
        }
        let (shape, w, r) = (c.shape(x), c.shape(n.input(1)?), c.shape(n.input(2)?));
        let (gates, count) = (kind.gates(), directions.len() as u64);
        let hidden = if codes { r.get(1) } else { r.last() }.copied().unwrap_or(0);
        let of =
            |rows: u64| if codes { [count, rows, gates * hidden] } else { [count, gates * hidden, rows] };
        if w[..] != of(shape[2]) || r[..] != of(hidden) {
            let reason = format!("weights {w} and {r} for {count} directions of {gates} gates over {shape}");
            return Err(invalid(reason));
        }
        if n.has("hidden_size") && n.int("hidden_size", 0)? != hidden as i64 {
            return Err(invalid(format!("hidden_size is {}, the weights {r}", n.int("hidden_size", 0)?)));
        }
        let (steps, batch) = (shape[0], shape[1]);
        if steps > MAX_STEPS {
            return Err(too_long(steps));
        }
        let lengths = match n.opt(4) {
            None => Lengths::Full,
            Some(v) if c.shape(v)[..] != [batch] => {
                return Err(invalid(format!("sequence_lens is {} for a batch of {batch}", c.b.ty(v))));
            }
            Some(v) => match c.known_ints(v) {
                Some(known) if known.iter().all(|&l| l == steps as i64) => Lengths::Full,
                Some(known) => Lengths::Known(known.iter().map(|&l| l.max(0) as u64).collect()),
                None => Lengths::RunTime(v),
            },
        };
        let wide = if elem == ScalarType::F64 { elem } else { ScalarType::F32 };
        Ok(Layer { kind, codes, elem, wide, steps, batch, hidden, directions, batch_first, x, lengths })
    }

    fn run(&self, c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
        let n_acts = self.kind.default_activations().len();
        let acts = activations(n, n_acts * self.directions.len(), self.kind.default_activations())?;
        let (mut outputs, mut last_h, mut last_c) = (Vec::new(), Vec::new(), Vec::new());
        for (d, acts) in acts.chunks(n_acts).enumerate() {
            let cell = Cell {
                kind: self.kind,
                acts,
                clip: n.has("clip").then(|| n.float("clip", 0.0)).transpose()?.filter(|&clip| clip > 0.0),
                couple: n.flag("input_forget", false)?,
                linear: n.flag("linear_before_reset", false)?,
                hidden: self.hidden,
                gates: self.gates(c, n, d)?,
            };
            let (rows, state) = self.direction(c, n, d, &cell)?;
            outputs.push(rows);
            last_h.push(state.h);
            last_c.extend(state.c);
        }
        let mut results = vec![self.sequence(c, &outputs)?];
        for states in [last_h, last_c] {
            if !states.is_empty() {
                results.push(self.states(c, &states)?);
            }
        }
        Ok(results)
    }

    /// One direction's slice of an operand, without its dimension of directions.
    fn slice(&self, c: &mut Ctx<'_>, v: Value, d: usize, at: usize) -> Result<Value, Fail> {
        let mut shape = c.shape(v);
        if shape.get(at) != Some(&(self.directions.len() as u64)) {
            return Err(invalid(format!("{} for {} directions", c.b.ty(v), self.directions.len())));
        }
        let part = c.slice_axis(v, at, d as u64, 1)?;
        shape.0.remove(at);
        c.reshape(part, shape)
    }

    /// The codes of one direction with the scale and the zero point that operands `at` and `at + 1` have for it.
    fn scaled(
        &self,
        c: &mut Ctx<'_>,
        n: &Call<'_>,
        codes: Value,
        d: usize,
        at: usize,
    ) -> Result<Codes, Fail> {
        let scale = self.slice(c, n.input(at)?, d, 0)?;
        let zero = n.opt(at + 1).map(|zero| self.slice(c, zero, d, 0)).transpose()?;
        Ok((codes, scale, zero))
    }

    /// The product of all inputs, with biases, and what steps need besides.
    fn gates(&self, c: &mut Ctx<'_>, n: &Call<'_>, d: usize) -> Result<Gates, Fail> {
        let w = self.slice(c, n.input(1)?, d, 0)?;
        let r = self.slice(c, n.input(2)?, d, 0)?;
        let (r, mut inputs) = if self.codes {
            let own = self.scaled(c, n, w, d, 8)?;
            (Weights::Codes(self.scaled(c, n, r, d, 10)?), dynamic_product(c, self.x, own)?)
        } else {
            let r = Weights::Rows(c.cast(r, self.wide)?);
            (r, c.contract_as("sbi,gi->sbg", self.x, w, self.wide)?)
        };
        let (gates, hidden) = (self.kind.gates(), self.hidden);
        let mut recurrent_bias = None;
        if let Some(bias) = n.opt(3) {
            let bias = self.slice(c, bias, d, 0)?;
            let bias = c.cast(bias, self.wide)?;
            if c.shape(bias)[..] != [2 * gates * hidden] {
                return Err(invalid(format!("the bias is {} for {gates} gates of {hidden}", c.b.ty(bias))));
            }
            let own = c.slice_axis(bias, 0, 0, gates * hidden)?;
            let other = c.slice_axis(bias, 0, gates * hidden, gates * hidden)?;
            inputs = c.binary(BinaryOp::Add, inputs, own)?;
            // A GRU that resets after its product keeps the last gate's recurrent bias inside.
            let apart = self.kind == Kind::Gru && n.flag("linear_before_reset", false)?;
            if apart {
                recurrent_bias = Some(other);
            } else {
                inputs = c.binary(BinaryOp::Add, inputs, other)?;
            }
        }
        let peepholes = match n.opt(7).filter(|_| self.kind == Kind::Lstm) {
            Some(p) => {
                let p = self.slice(c, p, d, 0)?;
                let p = c.cast(p, self.wide)?;
                let part = |c: &mut Ctx<'_>, i: u64| c.slice_axis(p, 0, i * hidden, hidden);
                Some([part(c, 0)?, part(c, 1)?, part(c, 2)?])
            }
            None => None,
        };
        Ok(Gates { inputs, r, recurrent_bias, peepholes })
    }

    fn initial(&self, c: &mut Ctx<'_>, n: &Call<'_>, i: usize, d: usize) -> Result<Value, Fail> {
        let shape = vec![self.batch, self.hidden].into();
        let Some(v) = n.opt(i) else { return c.splat(self.wide, &shape, 0.0) };
        let v = self.slice(c, v, d, usize::from(self.batch_first))?;
        if c.shape(v) != shape {
            return Err(invalid(format!("the initial state is {}, not of {shape}", c.b.ty(v))));
        }
        c.cast(v, self.wide)
    }

    /// The rows of a direction in the order of the steps, and its last state.
    fn direction(
        &self,
        c: &mut Ctx<'_>,
        n: &Call<'_>,
        d: usize,
        cell: &Cell<'_>,
    ) -> Result<(Vec<Value>, State), Fail> {
        let mut state = State {
            h: self.initial(c, n, 5, d)?,
            c: match self.kind {
                Kind::Lstm => Some(self.initial(c, n, 6, d)?),
                Kind::Gru | Kind::Rnn => None,
            },
        };
        let order: Vec<u64> = match self.directions[d] {
            false => (0..self.steps).collect(),
            true => (0..self.steps).rev().collect(),
        };
        // A sequence that is shorter waits: at its end forwards, at its start (behind its last step) backwards.
        let mut rows = vec![None; self.steps as usize];
        let zero = c.splat(self.wide, &vec![self.batch, self.hidden].into(), 0.0)?;
        for t in order {
            let active = self.active(c, t)?;
            if matches!(active, Active::None) {
                rows[t as usize] = Some(zero);
                continue;
            }
            let x = c.slice_axis(cell.gates.inputs, 0, t, 1)?;
            let x = c.reshape(x, vec![self.batch, self.kind.gates() * self.hidden])?;
            let next = cell.step(c, x, &state)?;
            let Active::Some(mask) = active else {
                rows[t as usize] = Some(next.h);
                state = next;
                continue;
            };
            rows[t as usize] = Some(c.select(mask, next.h, zero)?);
            state.h = c.select(mask, next.h, state.h)?;
            if let (Some(new), Some(old)) = (next.c, state.c) {
                state.c = Some(c.select(mask, new, old)?);
            }
        }
        Ok((rows.into_iter().flatten().collect(), state))
    }

    fn active(&self, c: &mut Ctx<'_>, t: u64) -> Result<Active, Fail> {
        Ok(match &self.lengths {
            Lengths::Full => Active::All,
            Lengths::Known(known) if known.iter().all(|&l| l > t) => Active::All,
            Lengths::Known(known) if known.iter().all(|&l| l <= t) => Active::None,
            Lengths::Known(known) => {
                let values: Vec<i64> = known.iter().map(|&l| i64::from(l > t)).collect();
                let flags = c.ints(vec![self.batch, 1], &values)?;
                Active::Some(c.cast(flags, ScalarType::Bool)?)
            }
            Lengths::RunTime(v) => {
                let number = c.splat_like(*v, t as f64)?;
                let mask = c.compare(CompareOp::Lt, number, *v)?;
                Active::Some(c.reshape(mask, vec![self.batch, 1])?)
            }
        })
    }

    /// All rows as the first result: `[steps, directions, batch, hidden]`, or with the batch first.
    fn sequence(&self, c: &mut Ctx<'_>, outputs: &[Vec<Value>]) -> Result<Value, Fail> {
        let (batch, hidden, count) = (self.batch, self.hidden, self.directions.len() as u64);
        let y = if self.steps == 0 {
            c.splat(self.wide, &vec![0, count, batch, hidden].into(), 0.0)?
        } else {
            let mut lifted = Vec::new();
            for t in 0..self.steps as usize {
                for rows in outputs {
                    lifted.push(c.reshape(rows[t], vec![1, batch, hidden])?);
                }
            }
            let y = c.concat(&lifted, 0)?;
            c.reshape(y, vec![self.steps, count, batch, hidden])?
        };
        let y = c.cast(y, self.elem)?;
        if self.batch_first { c.permute(y, vec![2, 0, 1, 3]) } else { Ok(y) }
    }

    /// Last states of all directions: `[directions, batch, hidden]`, or with the batch first.
    fn states(&self, c: &mut Ctx<'_>, states: &[Value]) -> Result<Value, Fail> {
        let lifted: Vec<Value> = states
            .iter()
            .map(|&s| c.reshape(s, vec![1, self.batch, self.hidden]))
            .collect::<Result<_, Fail>>()?;
        let all = c.concat(&lifted, 0)?;
        let all = c.cast(all, self.elem)?;
        if self.batch_first { c.permute(all, vec![1, 0, 2]) } else { Ok(all) }
    }
}

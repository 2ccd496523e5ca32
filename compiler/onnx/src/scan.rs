//! Scan: a loop over slices of tensors, expanded in place.

use lacuna_ir::Value;
use lacuna_ir::op::CompareOp;

use crate::call::{Call, axis};
use crate::context::{Ctx, invalid};
use crate::control::{MAX_STEPS, collect, collect_none, too_long};
use crate::diagnostic::Fail;
use crate::importer::Importer;
use crate::proto::GraphProto;
use crate::sequence::stack;
use crate::slot::{Slot, choose_value};

type Results = Result<Vec<Slot>, Fail>;

/// A scan with its operands resolved.
struct Scan<'a> {
    n: &'a Call<'a, Slot>,
    body: &'a GraphProto,
    inputs: Vec<Stream>,
    outputs: Vec<Way>,
    /// Number of steps.
    steps: u64,
}

/// The dimension along which a tensor is taken apart or put together, and whether from the end.
#[derive(Clone, Copy)]
struct Way {
    axis: i64,
    backward: bool,
}

/// A tensor that is taken apart.
#[derive(Clone, Copy)]
struct Stream {
    value: Value,
    axis: usize,
    backward: bool,
}

/// What a scan leaves: the states, and the rows of each collected result.
struct Done {
    states: Vec<Value>,
    rows: Vec<Vec<Value>>,
}

/// Axes and directions of `count` operands or results, from two attributes.
fn ways(n: &Call<'_, Slot>, axes: &str, directions: &str, count: usize) -> Result<Vec<Way>, Fail> {
    let list = |name: &str| -> Result<Vec<i64>, Fail> {
        let given = n.ints(name)?.map_or_else(|| vec![0; count], <[i64]>::to_vec);
        let fits = given.len() == count;
        fits.then_some(given).ok_or_else(|| invalid(format!("attribute `{name}` needs {count} numbers")))
    };
    let pairs = list(axes)?.into_iter().zip(list(directions)?);
    Ok(pairs.map(|(axis, d)| Way { axis, backward: d != 0 }).collect())
}

/// Numbers of states and of collected results.
fn counts(n: &Call<'_, Slot>, body: &GraphProto, inputs: usize) -> Result<(usize, usize, usize), Fail> {
    let scans = n.int("num_scan_inputs", 0)?;
    let scans = usize::try_from(scans).ok().filter(|&s| s > 0 && s <= inputs);
    let scans = scans.ok_or_else(|| invalid("num_scan_inputs does not fit the operands"))?;
    let states = inputs - scans;
    let rows = body.output.len().checked_sub(states);
    rows.map(|rows| (states, scans, rows))
        .ok_or_else(|| invalid("the body has fewer results than the scan has states"))
}

/// Operator sets 8 (with a batch dimension and lengths) and later.
pub(crate) fn scan(im: &mut Importer<'_>, n: &Call<'_, Slot>) -> Results {
    if n.opset < 9 {
        return batched(im, n);
    }
    let body = n.body("body")?;
    let operands: Vec<Value> = (0..n.n_operands()).map(|i| n.value(i)).collect::<Result<_, Fail>>()?;
    let (n_states, n_scans, n_rows) = counts(n, body, operands.len())?;
    let mut inputs = Vec::new();
    let mut steps = None;
    for (&value, way) in
        operands[n_states..].iter().zip(ways(n, "scan_input_axes", "scan_input_directions", n_scans)?)
    {
        let axis = axis(way.axis, im.ctx.rank(value))?;
        let extent = im.ctx.shape(value)[axis];
        if *steps.get_or_insert(extent) != extent {
            return Err(invalid("the operands differ in their number of slices"));
        }
        inputs.push(Stream { value, axis, backward: way.backward });
    }
    let outputs = ways(n, "scan_output_axes", "scan_output_directions", n_rows)?;
    let scan = Scan { n, body, inputs, outputs, steps: steps.unwrap_or(0) };
    let states = operands[..n_states].to_vec();
    im.with_body(body, |im| {
        let Some(done) = scan.run(im, states, None)? else {
            return Ok(vec![Slot::Poisoned; body.output.len()]);
        };
        let mut results: Vec<Slot> = done.states.into_iter().map(Slot::Value).collect();
        for (rows, way) in done.rows.iter().zip(&scan.outputs) {
            results.push(scan.join(&mut im.ctx, rows, *way).map(Slot::Value)?);
        }
        Ok(results)
    })
}

impl Scan<'_> {
    /// Takes the steps, up to `length` where that is given. `None` when a step is refused.
    ///
    /// Beyond the length, the state stays and collected rows are zeros.
    fn run(
        &self,
        im: &mut Importer<'_>,
        mut states: Vec<Value>,
        length: Option<Value>,
    ) -> Result<Option<Done>, Fail> {
        if self.steps > MAX_STEPS {
            return Err(too_long(self.steps));
        }
        let mut rows = vec![Vec::new(); self.outputs.len()];
        // A step that nothing uses says what the collected results are of.
        let steps = if self.outputs.is_empty() { self.steps } else { self.steps.max(1) };
        for step in 0..steps {
            let going = match length {
                Some(v) => {
                    let number = im.ctx.splat_like(v, step as f64)?;
                    Some(im.ctx.compare(CompareOp::Lt, number, v)?)
                }
                None => None,
            };
            let Some(results) = self.step(im, step, &states)? else { return Ok(None) };
            let (next, collected) = results.split_at(states.len());
            let mut taken = next.to_vec();
            let mut made = collected.to_vec();
            if let Some(going) = going {
                for (new, &old) in taken.iter_mut().zip(&states) {
                    *new = choose_value(&mut im.ctx, going, *new, old, "a state")?;
                }
                for row in &mut made {
                    let zero = im.ctx.splat_like(*row, 0.0)?;
                    *row = im.ctx.select(going, *row, zero)?;
                }
            }
            if self.steps > 0 {
                states = taken;
            }
            rows.iter_mut().zip(made).for_each(|(rows, row)| rows.push(row));
        }
        Ok(Some(Done { states, rows }))
    }

    fn step(&self, im: &mut Importer<'_>, step: u64, states: &[Value]) -> Result<Option<Vec<Value>>, Fail> {
        let mut arguments: Vec<Slot> = states.iter().copied().map(Slot::Value).collect();
        for stream in &self.inputs {
            arguments.push(Slot::Value(self.slice(&mut im.ctx, stream, step)?));
        }
        let n_found = im.diagnostics.len();
        let results = im.expand(self.n, self.body, arguments)?;
        if im.diagnostics.len() > n_found {
            return Ok(None);
        }
        let value = |slot: &Slot| match slot {
            Slot::Value(v) => Ok(*v),
            other => Err(invalid(format!("a result of the body is {}", other.kind()))),
        };
        results.iter().map(value).collect::<Result<_, Fail>>().map(Some)
    }

    /// The slice of a step; zeros where there is none.
    fn slice(&self, c: &mut Ctx<'_>, stream: &Stream, step: u64) -> Result<Value, Fail> {
        let mut shape = c.shape(stream.value);
        let extent = shape.0.remove(stream.axis);
        if extent == 0 {
            return c.splat(c.elem(stream.value), &shape, 0.0);
        }
        let at = if stream.backward { self.steps - 1 - step } else { step };
        let part = c.slice_axis(stream.value, stream.axis, at, 1)?;
        c.reshape(part, shape)
    }

    fn join(&self, c: &mut Ctx<'_>, rows: &[Value], way: Way) -> Result<Value, Fail> {
        let at = axis(way.axis, c.rank(rows[0]) + 1)?;
        if self.steps == 0 {
            return collect_none(c, rows[0], at);
        }
        let mut rows = rows.to_vec();
        if way.backward {
            rows.reverse();
        }
        collect(c, &rows, at)
    }
}

/// Operator set 8: operands lead with a batch dimension, whose elements are scanned on their own along dimension 1.
fn batched(im: &mut Importer<'_>, n: &Call<'_, Slot>) -> Results {
    let body = n.body("body")?;
    let lengths = n.opt_value(0)?;
    let operands: Vec<Value> = (1..n.n_operands()).map(|i| n.value(i)).collect::<Result<_, Fail>>()?;
    let (n_states, n_scans, n_rows) = counts(n, body, operands.len())?;
    let ways = ways(n, "", "directions", n_scans)?;
    let first = im.ctx.shape(operands[n_states]);
    let &[batch, steps, ..] = &first[..] else { return Err(invalid(format!("a scan over {first}"))) };
    if batch == 0 || batch.saturating_mul(steps) > MAX_STEPS {
        return Err(too_long(format!("{batch} times {steps}")));
    }
    let rank_fits = |(i, &v): (usize, &Value)| {
        let shape = im.ctx.shape(v);
        shape.first() == Some(&batch) && (i < n_states || shape.get(1) == Some(&steps))
    };
    if !operands.iter().enumerate().all(rank_fits) {
        return Err(invalid("the operands differ in batch or number of slices"));
    }
    let element = |c: &mut Ctx<'_>, v: Value, b: u64| {
        let mut shape = c.shape(v);
        let part = c.slice_axis(v, 0, b, 1)?;
        shape.0.remove(0);
        c.reshape(part, shape)
    };
    let mut results: Vec<Vec<Value>> = vec![Vec::new(); n_states + n_rows];
    let complete = im.with_body(body, |im| {
        for b in 0..batch {
            let mut own = Vec::new();
            for &v in &operands {
                own.push(element(&mut im.ctx, v, b)?);
            }
            let length = lengths.map(|v| element(&mut im.ctx, v, b)).transpose()?;
            let streams = own[n_states..].iter().zip(&ways);
            let inputs =
                streams.map(|(&value, way)| Stream { value, axis: 0, backward: way.backward }).collect();
            let outputs = vec![Way { axis: 0, backward: false }; n_rows];
            let scan = Scan { n, body, inputs, outputs, steps };
            let Some(done) = scan.run(im, own[..n_states].to_vec(), length)? else { return Ok(false) };
            let mut made = done.states;
            for rows in &done.rows {
                made.push(scan.join(&mut im.ctx, rows, scan.outputs[0])?);
            }
            results.iter_mut().zip(made).for_each(|(all, one)| all.push(one));
        }
        Ok(true)
    })?;
    if !complete {
        return Ok(vec![Slot::Poisoned; results.len()]);
    }
    results.iter().map(|parts| stack(&mut im.ctx, parts, 0).map(Slot::Value)).collect()
}

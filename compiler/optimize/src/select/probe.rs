//! Modules that measure themselves: beside each contraction the same one in other formats, and the power of the difference.
//!
//! The reference values flow on, so that one run gives the local error of every contraction in a format, undisturbed by the
//! others. The sums come out as additional results of the entry.

use lacuna_ir::op::{BinaryOp, ReduceOp};
use lacuna_ir::{FuncId, Module, NodeData, Op, OriginId, Value};

use super::convert::{Converter, Forms};
use crate::constants::fold;
use crate::error::{Broken, Error};
use crate::weights::WeightOptions;

/// Elements that one sum of the machine covers at most, unless one axis has more: such rows fit every local memory. The rest is
/// summed by whoever reads the results.
const MAX_ROW: u64 = 4096;

/// What is measured at a contraction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Probe {
    /// Sums of squares of its result.
    Signal,
    /// Sums of squares of the difference that these formats make.
    Noise(Forms),
}

/// The module whose function `func` also returns the sums that `probes` asks for at each contraction, in order of the
/// contractions and of the probes of each; `probes` gets the number of the contraction within the function.
///
/// # Errors
/// When a conversion does not fit; never for a verified module.
pub fn probed(
    module: &Module,
    func: FuncId,
    weights: WeightOptions,
    probes: impl Fn(usize) -> Vec<Probe>,
) -> Result<Module, Error> {
    let mut module = module.clone();
    let source = module.functions[func].clone();
    let broken = |message| Error::Contradiction { function: source.name.clone(), message };
    let mut sums = Vec::new();
    let mut converter = Converter::new(&mut module, &source, weights);
    let mut idx = 0;
    let mut build = || -> Result<_, Broken> {
        for node in source.nodes.values() {
            let args = converter.known(&node.args)?;
            converter.copy(node, &args)?;
            if node.op.is_product() {
                for probe in probes(idx) {
                    sums.push(sum_of_squares(&mut converter, node, probe)?);
                }
                idx += 1;
            }
        }
        converter.results()
    };
    let mut function = build().map_err(broken)?;
    function.results.extend(&sums);
    module.functions[func] = function;
    for entry in module.entries.iter_mut().filter(|e| e.func == func) {
        entry.outputs.extend((0..sums.len()).map(|i| format!("probe.{i}")));
    }
    fold(&mut module)?;
    Ok(module)
}

fn sum_of_squares(converter: &mut Converter<'_>, node: &NodeData, probe: Probe) -> Result<Value, Broken> {
    let origins: &[OriginId] = &node.origins;
    let result = converter.known(&node.results)?[0];
    let values = match probe {
        Probe::Signal => result,
        Probe::Noise(forms) => {
            let args = converter.operands(node, forms)?;
            let other = converter.emit(node.op.clone(), &args, origins)?[0];
            converter.emit(Op::Binary { op: BinaryOp::Sub }, &[other, result], origins)?[0]
        }
    };
    let square = converter.emit(Op::Binary { op: BinaryOp::Mul }, &[values, values], origins)?[0];
    let shape = &converter.out.func().ty(square).shape;
    let mut axes = Vec::new();
    let mut row = 1u64;
    for (axis, &n) in shape.iter().enumerate().rev() {
        row = row.saturating_mul(n);
        if !axes.is_empty() && row > MAX_ROW {
            break;
        }
        axes.insert(0, axis as u8);
    }
    Ok(converter.emit(Op::Reduce { op: ReduceOp::Sum, axes }, &[square], origins)?[0])
}

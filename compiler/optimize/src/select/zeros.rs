//! What zeros make of a product before its formats are chosen: which forms code generation has for it, and what each of them
//! leaves of the work.
//!
//! Zeros are counted in the weights as they are; what rounding adds to them is not. Of the forms of code generation (records
//! without zeros, blocks, active rows) this has the shares that decide between formats, not their layouts.

use lacuna_ir::op::ContractMap;
use lacuna_ir::{Constant, Function, Module, NodeData, Op, Shape};
use lacuna_isa::format::Format;
use lacuna_isa::timing::{ASSUMED_ACTIVITY, DPE_COLUMNS, WORTHWHILE, flag_elements};
use lacuna_isa::view::Pattern;

use super::extents::Extents;
use crate::zeros::{density, zero_blocks};

/// Zeros of a product.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Zeros {
    /// The share of the weights that are not zero.
    filled: Option<f64>,
    /// For lengths of a block along the summed dimension the share of blocks that are not zero.
    blocks: Vec<(u64, f64)>,
    /// Whether the other operand is probably zero in many places.
    active: bool,
}

/// What a form leaves of a product, as shares of the dense one.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Left {
    /// The pattern in which weights are stored.
    pub pattern: Option<Pattern>,
    /// Steps of the DPE.
    pub steps: f64,
    /// Bytes of the weights in the object.
    pub stored: f64,
    /// Whether only rows of weights that meet something are fetched and multiplied: each PE then fetches its own.
    pub by_rows: bool,
}

impl Left {
    /// All of the product, in the pattern that its weights are stored in.
    pub const fn dense(pattern: Option<Pattern>) -> Left {
        Left { pattern, steps: 1.0, stored: 1.0, by_rows: false }
    }

    /// The share of the weights that is fetched and multiplied for a tile of so many rows: a row of weights is needed when any of
    /// them is other than zero there.
    pub fn needed(&self, rows: u64) -> f64 {
        if self.by_rows { 1.0 - (1.0 - ASSUMED_ACTIVITY).powf(rows as f64) } else { 1.0 }
    }
}

impl Zeros {
    /// Of a contraction that may get any of `formats`. Whether its computed operand is probably zero in many places is known
    /// already.
    pub fn of(
        module: &Module,
        func: &Function,
        node: &NodeData,
        extents: &Extents,
        formats: &[Format],
        active: bool,
    ) -> Zeros {
        let operand = 1 - extents.first;
        let constant = func.as_const(node.args[operand]).map(|id| &module.constants[id]);
        let Some(constant) = constant.filter(|_| extents.packed) else { return Zeros::default() };
        // Rows of weights are left out along one summed dimension.
        let active = active && sums_once(node, &constant.ty.shape);
        if constant.ty.elem.scalar().is_none() {
            return Zeros { active, ..Zeros::default() };
        }
        let (n_zero, n) = density(constant);
        if n_zero == 0 || n == 0 {
            return Zeros { active, ..Zeros::default() };
        }
        let mut blocks: Vec<(u64, f64)> = Vec::new();
        for k in formats.iter().map(|&f| flag_elements(f)) {
            if !blocks.iter().any(|b| b.0 == k)
                && let Some(share) = set_blocks(constant, node, operand, k)
            {
                blocks.push((k, share));
            }
        }
        Zeros { filled: Some(1.0 - n_zero as f64 / n as f64), blocks, active }
    }

    /// The forms of a product whose weights have this format, and this pattern if any: code generation takes the fastest, of equally
    /// fast ones the first.
    pub fn forms(&self, weights: Format, pattern: Option<Pattern>) -> Vec<Left> {
        // A pattern of the target is a form of its own; the others store weights without it.
        let dense = Left::dense(None);
        // The masks of records have a bit for each element at most.
        let stored = self.filled.map(|filled| filled + 1.0 / f64::from(weights.element().bits()));
        let stored = stored.filter(|&stored| stored <= WORTHWHILE);
        let blocks = self.blocks.iter().find(|b| b.0 == flag_elements(weights));
        let steps = blocks.map(|b| b.1).filter(|&steps| steps <= WORTHWHILE);
        let mut forms = Vec::new();
        forms.extend(stored.zip(steps).map(|(stored, steps)| Left { steps, stored, ..dense }));
        forms.extend(pattern.map(|p| Left::dense(Some(p))));
        forms.extend(stored.map(|stored| Left { stored, ..dense }));
        if self.active {
            forms.push(Left { by_rows: true, ..dense });
        }
        if pattern.is_none() {
            forms.push(dense);
        }
        forms
    }
}

/// Whether a product by weights of this shape sums over one dimension alone.
fn sums_once(node: &NodeData, weights: &Shape) -> bool {
    match &node.op {
        Op::Conv { attrs, .. } => attrs.w[2..].iter().all(|&d| weights[usize::from(d)] == 1),
        Op::Contract { map, .. } => map.summed().len() == 1,
        _ => false,
    }
}

/// The share of blocks of 32 columns by `k` summed elements that are not zero; `None` where the weights are no matrix.
fn set_blocks(constant: &Constant, node: &NodeData, operand: usize, k: u64) -> Option<f64> {
    let axes = match &node.op {
        // Blocks lie along the channels of one place of the window.
        Op::Conv { attrs, .. } => [usize::from(attrs.w[0]), usize::from(attrs.w[1])],
        Op::Contract { map, .. } => matrix_axes(map, operand)?,
        _ => return None,
    };
    let found = zero_blocks(constant, axes, [DPE_COLUMNS, k])?;
    Some(1.0 - found.n_zero as f64 / found.n_blocks.max(1) as f64)
}

/// The dimensions of an operand that are its columns and its summed elements, if it has one of each and no other.
fn matrix_axes(map: &ContractMap, operand: usize) -> Option<[usize; 2]> {
    let labels = if operand == 0 { &map.a } else { &map.b };
    let [label] = map.summed()[..] else { return None };
    let summed = labels.iter().position(|&l| l == label)?;
    (labels.len() == 2).then_some([1 - summed, summed])
}

#[cfg(test)]
mod tests {
    use lacuna_ir::Value;
    use lacuna_ir::op::{BinaryOp, UnaryOp};
    use lacuna_isa::format::ScalarType;
    use lacuna_isa::target_file::target;

    use super::super::model::Model;
    use super::*;
    use crate::testing::{Lab, module};
    use crate::zeros::activity_of;

    const F32: Format = Format::F32;
    const BF16: Format = Format::Scalar(ScalarType::Bf16);

    /// A product of `rows` rows behind a ReLU, or without, and weights that `kept` says are not zero; its zeros and extents.
    fn product(rows: u64, relu: bool, kept: impl Fn(u64, u64) -> bool) -> (Zeros, Extents) {
        let (m, _) = module(1, false, |l: &mut Lab| {
            let mut x: Value = l.param(&[rows, 2048]);
            if relu {
                let zero = l.splat(&[rows, 2048], 0.0);
                x = l.bin(BinaryOp::Max, x, zero);
            }
            let value = |i: u64| if kept(i / 1024, i % 1024) { 1.0 } else { 0.0 };
            let values: Vec<f32> = (0..2048 * 1024).map(value).collect();
            let w = l.b.const_f32(vec![2048, 1024], &values).unwrap();
            let y = l.contract("mk,kn->mn", x, w);
            vec![l.un(UnaryOp::Tanh, y)]
        });
        let func = m.entries[0].func;
        let active = activity_of(&m, func);
        let func = &m.functions[func];
        let (id, node) = func.nodes.iter().find(|(_, n)| n.op.is_product()).unwrap();
        let extents = Extents::of(func, node, [false, true]);
        (Zeros::of(&m, func, node, &extents, &[F32, BF16], active[id].is_some()), extents)
    }

    fn cycles(rows: u64, relu: bool, kept: impl Fn(u64, u64) -> bool) -> f64 {
        let target = target("mtia-300").unwrap();
        let (zeros, extents) = product(rows, relu, kept);
        Model { target: &target }.product(&extents, [F32; 2], None, &zeros).cycles
    }

    #[test]
    fn shares_are_counted_by_elements_and_by_blocks() {
        // Of every 32 columns by 16 summed elements, every fourth block is kept.
        let (zeros, _) = product(4, false, |k, n| (k / 16 + n / 32) % 4 == 0);
        assert_eq!(zeros, Zeros { filled: Some(0.25), blocks: vec![(8, 0.25), (16, 0.25)], active: false });
        let forms = zeros.forms(BF16, None);
        let stored = 0.25 + 1.0 / 16.0;
        let dense = Left::dense(None);
        assert_eq!(forms, [Left { stored, steps: 0.25, ..dense }, Left { stored, ..dense }, dense]);
        // One element in each block leaves no block.
        let (zeros, _) = product(4, true, |k, n| k % 8 == 0 && n % 32 == 0);
        assert_eq!(
            zeros,
            Zeros { filled: Some(1.0 / 256.0), blocks: vec![(8, 1.0), (16, 1.0)], active: true }
        );
        assert!(zeros.forms(F32, None).iter().all(|left| left.steps == 1.0));
        // Without a zero there is nothing to use.
        let (zeros, _) = product(4, false, |_, _| true);
        assert_eq!(zeros, Zeros::default());
        assert_eq!(zeros.forms(F32, None), [Left::dense(None)]);
    }

    #[test]
    fn what_zeros_leave_costs_less() {
        let all = |_: u64, _: u64| true;
        let blocks = |k: u64, n: u64| (k / 16 + n / 32).is_multiple_of(4);
        let scattered = |k: u64, n: u64| (k * 7 + n).is_multiple_of(4);
        // Few rows wait for weights: their bytes count, and behind a ReLU the rows of weights that meet nothing.
        assert!(cycles(1, false, scattered) < 0.65 * cycles(1, false, all));
        assert!(cycles(1, true, all) < 0.75 * cycles(1, false, all));
        // Many rows wait for products: blocks save them, scattered zeros and single rows do not.
        assert!(cycles(4096, false, blocks) < 0.6 * cycles(4096, false, all));
        assert!(cycles(4096, false, scattered) > 0.9 * cycles(4096, false, all));
        assert_eq!(cycles(4096, true, all), cycles(4096, false, all));
    }
}

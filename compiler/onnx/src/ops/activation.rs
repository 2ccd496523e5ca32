//! Activation functions that recurrent layers name in attributes.

use lacuna_ir::Value;
use lacuna_ir::op::{BinaryOp, CompareOp, UnaryOp};

use super::elementwise::{exp_minus_one, hard_sigmoid_of, softplus_of};
use crate::call::Call;
use crate::context::{Ctx, invalid};
use crate::diagnostic::Fail;

/// A function with its parameters.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Activation {
    function: Function,
    alpha: f64,
    beta: f64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Function {
    Relu,
    Tanh,
    Sigmoid,
    Affine,
    LeakyRelu,
    ThresholdedRelu,
    ScaledTanh,
    HardSigmoid,
    Elu,
    Softsign,
    Softplus,
}

/// Name, function, and the defaults of alpha and beta where the function has them.
const FUNCTIONS: &[(&str, Function, Option<f64>, Option<f64>)] = &[
    ("relu", Function::Relu, None, None),
    ("tanh", Function::Tanh, None, None),
    ("sigmoid", Function::Sigmoid, None, None),
    ("affine", Function::Affine, Some(1.0), Some(0.0)),
    ("leakyrelu", Function::LeakyRelu, Some(0.01), None),
    ("thresholdedrelu", Function::ThresholdedRelu, Some(1.0), None),
    ("scaledtanh", Function::ScaledTanh, Some(1.0), Some(1.0)),
    ("hardsigmoid", Function::HardSigmoid, Some(0.2), Some(0.5)),
    ("elu", Function::Elu, Some(1.0), None),
    ("softsign", Function::Softsign, None, None),
    ("softplus", Function::Softplus, None, None),
];

/// The attributes `activations`, `activation_alpha` and `activation_beta`: `count` functions.
///
/// Each list of parameters is used up in the order of the functions that have the parameter.
pub(super) fn activations(
    n: &Call<'_>,
    count: usize,
    defaults: &[&'static str],
) -> Result<Vec<Activation>, Fail> {
    let names = match n.strings("activations")? {
        Some(names) => names,
        None => defaults.iter().copied().cycle().take(count).collect(),
    };
    if names.len() != count {
        return Err(invalid(format!("activations are {names:?} where {count} are needed")));
    }
    let mut alphas = n.floats("activation_alpha")?.unwrap_or(&[]).iter();
    let mut betas = n.floats("activation_beta")?.unwrap_or(&[]).iter();
    let mut found = Vec::with_capacity(count);
    for name in names {
        let plain = Activation::named(name, None, None)?;
        let row = FUNCTIONS.iter().find(|row| row.1 == plain.function);
        let (has_alpha, has_beta) = row.map_or((false, false), |row| (row.2.is_some(), row.3.is_some()));
        let next = |has: bool, list: &mut std::slice::Iter<'_, f32>| {
            if has { list.next().map(|&v| f64::from(v)) } else { None }
        };
        let (alpha, beta) = (next(has_alpha, &mut alphas), next(has_beta, &mut betas));
        found.push(Activation::named(name, alpha, beta)?);
    }
    Ok(found)
}

impl Activation {
    /// The function of a name, whatever its case, with the parameters that it has.
    pub fn named(name: &str, alpha: Option<f64>, beta: Option<f64>) -> Result<Activation, Fail> {
        let lower = name.to_ascii_lowercase();
        let row = FUNCTIONS.iter().find(|row| row.0 == lower);
        let &(_, function, own_alpha, own_beta) =
            row.ok_or_else(|| invalid(format!("activation {name:?}")))?;
        let alpha = own_alpha.map_or(0.0, |default| alpha.unwrap_or(default));
        let beta = own_beta.map_or(0.0, |default| beta.unwrap_or(default));
        Ok(Activation { function, alpha, beta })
    }

    /// The function of `x`, element by element.
    pub fn apply(&self, c: &mut Ctx<'_>, x: Value) -> Result<Value, Fail> {
        match self.function {
            Function::Relu => c.binary_splat(BinaryOp::Max, x, 0.0),
            Function::Tanh => c.unary(UnaryOp::Tanh, x),
            Function::Sigmoid => c.unary(UnaryOp::Sigmoid, x),
            Function::Affine => {
                let y = c.binary_splat(BinaryOp::Mul, x, self.alpha)?;
                c.binary_splat(BinaryOp::Add, y, self.beta)
            }
            Function::LeakyRelu => {
                let y = c.binary_splat(BinaryOp::Mul, x, self.alpha)?;
                below_zero(c, x, y)
            }
            Function::ThresholdedRelu => {
                let alpha = c.splat_like(x, self.alpha)?;
                let above = c.compare(CompareOp::Lt, alpha, x)?;
                let zero = c.splat_like(x, 0.0)?;
                c.select(above, x, zero)
            }
            Function::ScaledTanh => {
                let y = c.binary_splat(BinaryOp::Mul, x, self.beta)?;
                let y = c.unary(UnaryOp::Tanh, y)?;
                c.binary_splat(BinaryOp::Mul, y, self.alpha)
            }
            Function::HardSigmoid => hard_sigmoid_of(c, x, self.alpha, self.beta),
            Function::Elu => {
                let y = exp_minus_one(c, x, self.alpha)?;
                below_zero(c, x, y)
            }
            Function::Softsign => {
                let magnitude = c.unary(UnaryOp::Abs, x)?;
                let d = c.binary_splat(BinaryOp::Add, magnitude, 1.0)?;
                c.binary(BinaryOp::Div, x, d)
            }
            Function::Softplus => softplus_of(c, x),
        }
    }
}

fn below_zero(c: &mut Ctx<'_>, x: Value, negative: Value) -> Result<Value, Fail> {
    let below = c.compare_splat(CompareOp::Lt, x, 0.0)?;
    c.select(below, negative, x)
}

//! Operators of classical machine learning.

use lacuna_ir::op::CompareOp;
use lacuna_ir::{Op, Value};

use super::indexing::non_negative;
use crate::call::Call;
use crate::context::{Ctx, invalid};
use crate::diagnostic::Fail;

type Results = Result<Vec<Value>, Fail>;

/// 1 where the operand is greater than the threshold, else 0.
pub(super) fn binarizer(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let x = n.input(0)?;
    let threshold = c.splat_like(x, n.float("threshold", 0.0)?)?;
    let above = c.compare(CompareOp::Lt, threshold, x)?;
    Ok(vec![c.cast(above, c.elem(x))?])
}

/// Elements along the last dimension; a vector counts as a matrix of one row.
pub(super) fn array_feature_extractor(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let (x, index) = (n.input(0)?, n.input(1)?);
    let shape = c.shape(x);
    let Some((&last, outer)) = shape.split_last() else {
        return Err(invalid(format!("ArrayFeatureExtractor of {}", c.b.ty(x))));
    };
    let count = c.shape(index).elements();
    let index = c.reshape(index, vec![count])?;
    let index = non_negative(c, index, &[last])?;
    let y = c.emit(Op::Gather { axis: outer.len() as u8, batch: 0 }, &[x, index])?;
    let rows = if outer.is_empty() { &[1] } else { outer };
    Ok(vec![c.reshape(y, [rows, &[count]].concat())?])
}

//! One ONNX node as its lowering sees it: operands, attributes, operator set version.

use lacuna_ir::Value;

use crate::codes;
use crate::diagnostic::Fail;
use crate::proto::{AttributeProto, GraphProto, NodeProto, TensorProto, attribute_type};

/// A node with its operands resolved: tensors, or (for operators on more than tensors) slots.
pub(crate) struct Call<'a, T = Value> {
    pub node: &'a NodeProto,
    /// Attributes, those of a calling function's node substituted.
    pub attributes: &'a [AttributeProto],
    /// Version of the operator set `ai.onnx`.
    pub opset: i64,
    /// Operands; `None` where an optional one is left out.
    pub inputs: Vec<Option<T>>,
}

impl Call<'_> {
    /// A required operand.
    pub fn input(&self, i: usize) -> Result<Value, Fail> {
        self.opt(i).ok_or_else(|| Fail::new(codes::INVALID_NODE, format!("operand {i} is missing")))
    }

    /// An optional operand.
    pub fn opt(&self, i: usize) -> Option<Value> {
        self.inputs.get(i).copied().flatten()
    }

    /// Every operand of a variadic operator: at least one.
    pub fn all(&self) -> Result<Vec<Value>, Fail> {
        self.input(0)?;
        (0..self.inputs.len()).map(|i| self.input(i)).collect()
    }
}

impl<'a, T> Call<'a, T> {
    /// Whether the model uses result `i`.
    pub fn wants(&self, i: usize) -> bool {
        self.node.output.get(i).is_some_and(|name| !name.is_empty())
    }

    fn attr(&self, name: &str, kind: i32) -> Result<Option<&'a AttributeProto>, Fail> {
        let Some(attr) = self.attributes.iter().find(|a| a.name == name) else { return Ok(None) };
        if attr.r#type != kind && attr.r#type != 0 {
            let reason = format!("attribute `{name}` has kind {} where {kind} is needed", attr.r#type);
            return Err(Fail::new(codes::INVALID_NODE, reason));
        }
        Ok(Some(attr))
    }

    /// Whether the attribute is given.
    pub fn has(&self, name: &str) -> bool {
        self.attributes.iter().any(|a| a.name == name)
    }

    pub fn int(&self, name: &str, default: i64) -> Result<i64, Fail> {
        Ok(self.attr(name, attribute_type::INT)?.map_or(default, |a| a.i))
    }

    pub fn flag(&self, name: &str, default: bool) -> Result<bool, Fail> {
        Ok(self.int(name, default.into())? != 0)
    }

    pub fn float(&self, name: &str, default: f32) -> Result<f64, Fail> {
        Ok(self.attr(name, attribute_type::FLOAT)?.map_or(default, |a| a.f).into())
    }

    pub fn string(&self, name: &str, default: &'a str) -> Result<&'a str, Fail> {
        match self.attr(name, attribute_type::STRING)? {
            None => Ok(default),
            Some(a) => std::str::from_utf8(&a.s)
                .map_err(|_| Fail::new(codes::INVALID_NODE, format!("attribute `{name}` is not UTF-8"))),
        }
    }

    pub fn ints(&self, name: &str) -> Result<Option<&'a [i64]>, Fail> {
        Ok(self.attr(name, attribute_type::INTS)?.map(|a| a.ints.as_slice()))
    }

    pub fn floats(&self, name: &str) -> Result<Option<&'a [f32]>, Fail> {
        Ok(self.attr(name, attribute_type::FLOATS)?.map(|a| a.floats.as_slice()))
    }

    /// The subgraph of an attribute.
    pub fn graph(&self, name: &str) -> Result<Option<&'a GraphProto>, Fail> {
        Ok(self.attr(name, attribute_type::GRAPH)?.and_then(|a| a.g.as_ref()))
    }

    pub fn tensor(&self, name: &str) -> Result<Option<&'a TensorProto>, Fail> {
        Ok(self.attr(name, attribute_type::TENSOR)?.and_then(|a| a.t.as_ref()))
    }

    /// Sizes of the attribute (positive, below 2^20): `n` of them, `default` each when it is not given.
    pub fn sizes(&self, name: &str, n: usize, default: u64) -> Result<Vec<u64>, Fail> {
        let Some(ints) = self.ints(name)? else { return Ok(vec![default; n]) };
        let sizes: Option<Vec<u64>> =
            ints.iter().map(|&i| u64::try_from(i).ok().filter(|i| (1..1 << 20).contains(i))).collect();
        sizes.filter(|s| s.len() == n).ok_or_else(|| {
            Fail::new(codes::INVALID_NODE, format!("attribute `{name}` is {ints:?}, not {n} positive sizes"))
        })
    }
}

/// A dimension number of `rank` dimensions; negative ones count from the end.
pub(crate) fn axis(axis: i64, rank: usize) -> Result<usize, Fail> {
    let positive = if axis < 0 { axis.saturating_add(rank as i64) } else { axis };
    usize::try_from(positive)
        .ok()
        .filter(|&a| a < rank)
        .ok_or_else(|| Fail::new(codes::INVALID_NODE, format!("axis {axis} is not in rank {rank}")))
}

/// Dimension numbers without repetition, in the given order.
pub(crate) fn axes(list: &[i64], rank: usize) -> Result<Vec<u8>, Fail> {
    let mut found = Vec::new();
    for &a in list {
        let a = axis(a, rank)? as u8;
        if found.contains(&a) {
            return Err(Fail::new(codes::INVALID_NODE, format!("axis {a} is given twice")));
        }
        found.push(a);
    }
    Ok(found)
}

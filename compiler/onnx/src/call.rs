//! One ONNX node as its lowering sees it: operands, attributes, operator set version.
//!
//! What a lowering asks for is noted, and what it never asked for is refused once it is done: an attribute or operand of
//! a newer version, or one that is misspelt, would change what the model means without a trace. What has no effect on
//! the results is passed over by name.

use std::cell::Cell;
use std::rc::Rc;

use lacuna_ir::Value;
use lacuna_isa::format::ScalarType;

use crate::codes;
use crate::diagnostic::Fail;
use crate::proto::{AttributeProto, GraphProto, NodeProto, TensorProto, attribute_type};
use crate::tensor::scalar_type;

/// A node with its operands resolved: tensors, or (for operators on more than tensors) slots.
pub(crate) struct Call<'a, T = Value> {
    pub node: &'a NodeProto,
    /// Version of the operator set `ai.onnx`.
    pub opset: i64,
    /// Attributes, those of a calling function's node substituted.
    attributes: &'a [AttributeProto],
    /// Operands; `None` where an optional one is left out.
    operands: Vec<Option<T>>,
    read_attributes: Reads,
    read_operands: Reads,
}

/// Which entries of a list a lowering asked for. Clones are of one record.
#[derive(Clone)]
struct Reads(Rc<[Cell<bool>]>);

impl Reads {
    fn new(count: usize) -> Reads {
        Reads((0..count).map(|_| Cell::new(false)).collect())
    }

    fn mark(&self, i: usize) {
        if let Some(read) = self.0.get(i) {
            read.set(true);
        }
    }

    fn has(&self, i: usize) -> bool {
        self.0.get(i).is_some_and(Cell::get)
    }
}

impl Call<'_> {
    /// A required operand.
    pub fn input(&self, i: usize) -> Result<Value, Fail> {
        self.opt(i).ok_or_else(|| Fail::new(codes::INVALID_NODE, format!("operand {i} is missing")))
    }

    /// An optional operand.
    pub fn opt(&self, i: usize) -> Option<Value> {
        self.operand(i).copied()
    }

    /// Every operand of a variadic operator: at least one.
    pub fn all(&self) -> Result<Vec<Value>, Fail> {
        self.input(0)?;
        (0..self.n_operands()).map(|i| self.input(i)).collect()
    }
}

impl<'a, T> Call<'a, T> {
    pub fn new(
        node: &'a NodeProto,
        attributes: &'a [AttributeProto],
        opset: i64,
        operands: Vec<Option<T>>,
    ) -> Call<'a, T> {
        let (read_attributes, read_operands) = (Reads::new(attributes.len()), Reads::new(operands.len()));
        Call { node, opset, attributes, operands, read_attributes, read_operands }
    }

    /// The call with other operands in the places of its own: what is read of either is read of both.
    pub fn with<U>(&self, operands: Vec<Option<U>>) -> Call<'a, U> {
        Call {
            node: self.node,
            opset: self.opset,
            attributes: self.attributes,
            operands,
            read_attributes: self.read_attributes.clone(),
            read_operands: self.read_operands.clone(),
        }
    }

    /// The call on operands that are no longer the node's: only attributes are still noted as read.
    pub fn on<U>(&self, operands: Vec<Option<U>>) -> Call<'a, U> {
        let read_operands = Reads::new(operands.len());
        Call { read_operands, ..self.with(operands) }
    }

    /// An operand, noted as read.
    pub fn operand(&self, i: usize) -> Option<&T> {
        self.read_operands.mark(i);
        self.unread_operand(i)
    }

    /// An operand that is only looked at.
    pub fn unread_operand(&self, i: usize) -> Option<&T> {
        self.operands.get(i).and_then(Option::as_ref)
    }

    /// All operands, only looked at.
    pub fn operands(&self) -> &[Option<T>] {
        &self.operands
    }

    /// The number of operands, with those left out before the last.
    pub fn n_operands(&self) -> usize {
        self.operands.len()
    }

    /// Passes over attributes that cannot change the results of this node.
    pub fn pass_over(&self, names: &[&str]) {
        for name in names {
            self.find(name);
        }
    }

    /// Passes over an operand that cannot change the results of this node.
    pub fn pass_over_operand(&self, i: usize) {
        self.read_operands.mark(i);
    }

    /// Checks that the lowering has read all that the node says.
    ///
    /// # Errors
    /// Names the attributes and operands that it has not.
    pub fn check_all_read(&self) -> Result<(), Fail> {
        let attributes = self.attributes.iter().enumerate();
        let attributes = attributes.filter(|(i, a)| !self.read_attributes.has(*i) && !is_remark(&a.name));
        let attributes: Vec<String> = attributes.map(|(_, a)| format!("`{}`", a.name)).collect();
        let unread = |i: &usize| self.operands[*i].is_some() && !self.read_operands.has(*i);
        let operands: Vec<String> =
            (0..self.operands.len()).filter(unread).map(|i| self.operand_name(i)).collect();
        let (what, names, way_out) = match (attributes.is_empty(), operands.is_empty()) {
            (true, true) => return Ok(()),
            (false, _) => ("attribute", attributes, "remove the attribute"),
            (true, false) => ("operand", operands, "leave the operand out"),
        };
        let plural = if names.len() > 1 { "s" } else { "" };
        let reason = format!(
            "{what}{plural} {} would be ignored: {} does not read {} here",
            names.join(", "),
            self.node.op_type,
            if names.len() > 1 { "them" } else { "it" },
        );
        let hint = format!("{way_out} if the results do not depend on it, else export without it");
        Err(Fail::new(codes::ATTRIBUTE, reason).hint(hint))
    }

    fn operand_name(&self, i: usize) -> String {
        match self.node.input.get(i) {
            Some(name) => format!("{i} (`{name}`)"),
            None => i.to_string(),
        }
    }

    /// The attribute of a name, noted as read.
    fn find(&self, name: &str) -> Option<&'a AttributeProto> {
        let i = self.attributes.iter().position(|a| a.name == name)?;
        self.read_attributes.mark(i);
        Some(&self.attributes[i])
    }

    /// Whether the model uses result `i`.
    pub fn wants(&self, i: usize) -> bool {
        self.node.output.get(i).is_some_and(|name| !name.is_empty())
    }

    fn attr(&self, name: &str, kind: i32) -> Result<Option<&'a AttributeProto>, Fail> {
        let Some(attr) = self.find(name) else { return Ok(None) };
        if attr.r#type != kind && attr.r#type != 0 {
            let reason = format!("attribute `{name}` has kind {} where {kind} is needed", attr.r#type);
            return Err(Fail::new(codes::INVALID_NODE, reason));
        }
        Ok(Some(attr))
    }

    /// Whether the attribute is given.
    pub fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    pub fn int(&self, name: &str, default: i64) -> Result<i64, Fail> {
        Ok(self.attr(name, attribute_type::INT)?.map_or(default, |a| a.i))
    }

    /// The element type whose data type code an attribute is; `None` where it is 0 or not given.
    pub fn data_type(&self, name: &str) -> Result<Option<ScalarType>, Fail> {
        let code = self.int(name, 0)?;
        if code == 0 {
            return Ok(None);
        }
        let known = scalar_type(i32::try_from(code).unwrap_or(-1));
        known.map(Some).map_err(|r| Fail::new(codes::ELEMENT_TYPE, format!("attribute `{name}`: {r}")))
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

    /// One of the values that the specification names, the first by default.
    pub fn choice(&self, name: &str, values: &[&'static str]) -> Result<&'static str, Fail> {
        let given = self.string(name, values[0])?;
        values.iter().find(|v| **v == given).copied().ok_or_else(|| {
            let reason = format!("attribute `{name}` is {given:?}, not one of {}", values.join(", "));
            Fail::new(codes::INVALID_NODE, reason)
        })
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

    pub fn strings(&self, name: &str) -> Result<Option<Vec<&'a str>>, Fail> {
        let Some(attr) = self.attr(name, attribute_type::STRINGS)? else { return Ok(None) };
        let texts: Result<Vec<&str>, _> = attr.strings.iter().map(|s| std::str::from_utf8(s)).collect();
        texts
            .map(Some)
            .map_err(|_| Fail::new(codes::INVALID_NODE, format!("attribute `{name}` is not UTF-8")))
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

/// Whether an attribute is a remark on the node that no operator reads: names that start with two underscores are left
/// to tools, and `consumed_inputs` told the first operator sets which operands may be overwritten.
fn is_remark(name: &str) -> bool {
    name.starts_with("__") || name == "consumed_inputs"
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

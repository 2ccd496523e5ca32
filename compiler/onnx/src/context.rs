//! What lowerings emit with: checked nodes, constants, NumPy broadcasting, and operands known at import.

use std::collections::{BTreeSet, HashMap};

use cranelift_entity::SecondaryMap;
use lacuna_ir::eval::{Tensor, eval_splats};
use lacuna_ir::op::{BinaryOp, CompareOp, ContractMap, ReduceOp, UnaryOp};
use lacuna_ir::{
    Constant, ConstantData, ElemType, FunctionBuilder, Module, Op, Origin, OriginId, Shape, TensorType, Value,
};
use lacuna_isa::format::ScalarType;

use crate::codes;
use crate::diagnostic::Fail;
use crate::limits;
use crate::{ExternalData, Literal};

/// The function being built, with what is known about its values.
pub(crate) struct Ctx<'m> {
    pub b: FunctionBuilder<'m>,
    pub external: &'m dyn ExternalData,
    /// Values of non-constant nodes that were computed on demand.
    pub(crate) memo: HashMap<Value, Constant>,
    /// Constants that were computed of others, so that each is once: steps of a loop ask for the same.
    folded: HashMap<(Op, Vec<Value>), Value>,
    /// How many conditions are computed at run time and decide whether what is emitted now will be used.
    pub(crate) n_doubtful: u32,
    /// Which values depend on constants only, of the nodes counted below.
    pub(crate) fixed: SecondaryMap<Value, bool>,
    /// Nodes for which that has been asked.
    pub(crate) n_classified: usize,
    origins: HashMap<(String, String), OriginId>,
}

pub(crate) fn invalid(reason: impl Into<String>) -> Fail {
    Fail::new(codes::INVALID_NODE, reason)
}

pub(crate) fn unsupported(reason: impl Into<String>) -> Fail {
    Fail::new(codes::ATTRIBUTE, reason)
}

/// The shape that operands of these shapes broadcast to, last dimensions aligned.
pub(crate) fn broadcast_shape(shapes: &[Shape]) -> Result<Shape, Fail> {
    let rank = shapes.iter().map(|s| s.rank()).max().unwrap_or(0);
    let mut out = vec![1; rank];
    for shape in shapes {
        for (size, &d) in out[rank - shape.rank()..].iter_mut().zip(shape.iter()) {
            match (*size, d) {
                (a, b) if a == b || b == 1 => {}
                (1, b) => *size = b,
                _ => return Err(invalid(format!("shapes {} and {shape} do not broadcast", shapes[0]))),
            }
        }
    }
    Ok(Shape(out))
}

impl<'m> Ctx<'m> {
    pub fn new(module: &'m mut Module, name: &str, external: &'m dyn ExternalData) -> Ctx<'m> {
        Ctx {
            b: FunctionBuilder::new(module, name),
            external,
            memo: HashMap::new(),
            folded: HashMap::new(),
            n_doubtful: 0,
            fixed: SecondaryMap::new(),
            n_classified: 0,
            origins: HashMap::new(),
        }
    }

    /// Sets the ONNX node that the following IR nodes implement.
    pub fn set_origin(&mut self, node: &str, op: &str) {
        let key = (node.to_owned(), op.to_owned());
        // A node of a loop's body is expanded many times.
        let module = &mut self.b.module;
        let origin = *self.origins.entry(key).or_insert_with_key(|(node, op)| {
            module.origins.push(Origin { node: node.clone(), op: op.clone() })
        });
        self.b.set_origins(vec![origin]);
    }

    pub fn shape(&self, v: Value) -> Shape {
        self.b.ty(v).shape.clone()
    }

    pub fn rank(&self, v: Value) -> usize {
        self.b.ty(v).shape.rank()
    }

    pub fn elem(&self, v: Value) -> ScalarType {
        match self.b.ty(v).elem {
            ElemType::Scalar(elem) => elem,
            ElemType::Grouped { format, .. } => format.element,
        }
    }

    /// Appends a node; small integer nodes of constants become constants.
    pub fn emit(&mut self, op: Op, args: &[Value]) -> Result<Value, Fail> {
        let limit = |shape: &Shape| limits::check_shape(shape).map_err(|r| Fail::new(codes::TOO_LARGE, r));
        match &op {
            Op::Reshape { shape }
            | Op::Broadcast { shape, .. }
            | Op::Iota { shape, .. }
            | Op::Slice { shape, .. } => limit(shape)?,
            Op::Pad { low, high } if low.iter().chain(high).any(|&n| n > limits::MAX_ELEMENTS) => {
                return Err(Fail::new(codes::TOO_LARGE, "a pad amount is above 2^40"));
            }
            _ => {}
        }
        // Indices of a branch that is not taken may be anything, and must not trap.
        if let Op::Gather { axis, .. } = op
            && self.n_doubtful > 0
            && let Some(args) = self.clamped_indices(axis, args)?
        {
            return self.emit_as_is(op, &args);
        }
        self.emit_as_is(op, args)
    }

    fn emit_as_is(&mut self, op: Op, args: &[Value]) -> Result<Value, Fail> {
        let limit = |shape: &Shape| limits::check_shape(shape).map_err(|r| Fail::new(codes::TOO_LARGE, r));
        let fixed = args.iter().all(|&a| self.b.func().as_const(a).is_some());
        let key = fixed.then(|| (op.clone(), args.to_vec()));
        if let Some(&known) = key.as_ref().and_then(|key| self.folded.get(key)) {
            return Ok(known);
        }
        let folded = match self.splat_of(&op, args) {
            Some(constant) => constant,
            None => {
                let value = self.b.emit(op, args).map_err(|e| invalid(e.to_string()))?;
                limit(&self.shape(value))?;
                match self.fold(value) {
                    Some(constant) => constant,
                    None => return Ok(value),
                }
            }
        };
        let value = self.constant(folded)?;
        self.folded.extend(key.map(|key| (key, value)));
        Ok(value)
    }

    /// Operands of a gather with its indices brought into the table; `None` for indices known at import.
    fn clamped_indices(&mut self, axis: u8, args: &[Value]) -> Result<Option<[Value; 2]>, Fail> {
        let &[table, indices] = args else { return Ok(None) };
        let extent = self.shape(table).get(usize::from(axis)).copied().unwrap_or(0);
        if extent == 0 || self.b.func().as_const(indices).is_some() {
            return Ok(None);
        }
        let low = self.binary_splat(BinaryOp::Max, indices, 0.0)?;
        let inside = self.binary_splat(BinaryOp::Min, low, (extent - 1) as f64)?;
        Ok(Some([table, inside]))
    }

    /// The result of a movement or a function of constants whose elements are all equal, which is again such a constant.
    fn splat_of(&self, op: &Op, args: &[Value]) -> Option<Constant> {
        if op.is_elementwise() {
            let constants = args.iter().map(|&a| Some(&self.b.module.constants[self.b.func().as_const(a)?]));
            return eval_splats(self.b.module, op, &constants.collect::<Option<Vec<_>>>()?);
        }
        let shape = match op {
            Op::Reshape { shape } | Op::Broadcast { shape, .. } | Op::Slice { shape, .. } => shape.clone(),
            _ => return None,
        };
        let constant = &self.b.module.constants[self.b.func().as_const(args[0])?];
        let code = match &constant.data {
            ConstantData::Splat(code) => *code,
            ConstantData::Dense(blob) => {
                let one = constant.ty.shape.elements() == 1 && matches!(op, Op::Broadcast { .. });
                if !one || blob.bytes().len() > 8 {
                    return None;
                }
                blob.bytes().iter().rev().fold(0, |code, &b| code << 8 | u64::from(b))
            }
        };
        // The operator's own rule must hold before it is skipped.
        lacuna_ir::infer::infer(self.b.module, op, &[&constant.ty]).ok()?;
        let ty = TensorType { elem: constant.ty.elem, shape };
        Some(Constant::new(ty, ConstantData::Splat(code), constant.name.clone()))
    }

    pub fn constant(&mut self, constant: Constant) -> Result<Value, Fail> {
        self.b.constant(constant).map_err(|e| invalid(e.to_string()))
    }

    pub fn literal(&mut self, literal: Literal, name: &str) -> Result<Value, Fail> {
        self.constant(Constant::new(literal.ty, ConstantData::Dense(literal.data), name))
    }

    /// A constant with every element `value`.
    pub fn splat(&mut self, elem: ScalarType, shape: &Shape, value: f64) -> Result<Value, Fail> {
        limits::check_shape(shape).map_err(|r| Fail::new(codes::TOO_LARGE, r))?;
        let ty = TensorType::new(elem, shape.clone());
        self.constant(Constant::new(ty, ConstantData::Splat(elem.encode(value)), ""))
    }

    /// A constant like `x` in type and shape with every element `value`.
    pub fn splat_like(&mut self, x: Value, value: f64) -> Result<Value, Fail> {
        let (elem, shape) = (self.elem(x), self.shape(x));
        self.splat(elem, &shape, value)
    }

    pub fn ints(&mut self, shape: impl Into<Shape>, values: &[i64]) -> Result<Value, Fail> {
        let ty = TensorType::new(ScalarType::I64, shape);
        self.constant(Constant::dense(ty, bytemuck::cast_slice(values).to_vec(), ""))
    }

    /// A constant of f32 or f64.
    pub fn floats(
        &mut self,
        elem: ScalarType,
        shape: impl Into<Shape>,
        values: &[f64],
    ) -> Result<Value, Fail> {
        let bytes = match elem {
            ScalarType::F64 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            _ => values.iter().flat_map(|v| (*v as f32).to_le_bytes()).collect(),
        };
        let elem = if elem == ScalarType::F64 { elem } else { ScalarType::F32 };
        self.constant(Constant::dense(TensorType::new(elem, shape), bytes, ""))
    }

    pub fn unary(&mut self, op: UnaryOp, x: Value) -> Result<Value, Fail> {
        self.emit(Op::Unary { op }, &[x])
    }

    /// A function of two operands that broadcast to each other.
    pub fn binary(&mut self, op: BinaryOp, a: Value, b: Value) -> Result<Value, Fail> {
        let (a, b) = self.broadcast_pair(a, b)?;
        self.emit(Op::Binary { op }, &[a, b])
    }

    /// A function of `x` and a number.
    pub fn binary_splat(&mut self, op: BinaryOp, x: Value, value: f64) -> Result<Value, Fail> {
        let value = self.splat_like(x, value)?;
        self.emit(Op::Binary { op }, &[x, value])
    }

    /// A relation of two operands that broadcast to each other.
    pub fn compare(&mut self, op: CompareOp, a: Value, b: Value) -> Result<Value, Fail> {
        let (a, b) = self.broadcast_pair(a, b)?;
        self.emit(Op::Compare { op }, &[a, b])
    }

    /// A relation of `x` and a number.
    pub fn compare_splat(&mut self, op: CompareOp, x: Value, value: f64) -> Result<Value, Fail> {
        let value = self.splat_like(x, value)?;
        self.emit(Op::Compare { op }, &[x, value])
    }

    /// `select` of operands that broadcast to each other.
    pub fn select(&mut self, condition: Value, yes: Value, no: Value) -> Result<Value, Fail> {
        let shape = broadcast_shape(&[self.shape(condition), self.shape(yes), self.shape(no)])?;
        let args = [condition, yes, no];
        let args: Vec<Value> =
            args.iter().map(|&v| self.broadcast_to(v, &shape)).collect::<Result<_, Fail>>()?;
        self.emit(Op::Select {}, &args)
    }

    /// Conversion; the operand itself when it has the type.
    pub fn cast(&mut self, x: Value, to: ScalarType) -> Result<Value, Fail> {
        match self.elem(x) == to {
            true => Ok(x),
            false => self.emit(Op::Cast { to, saturate: true }, &[x]),
        }
    }

    pub fn broadcast_to(&mut self, x: Value, shape: &Shape) -> Result<Value, Fail> {
        let rank = self.rank(x);
        if self.b.ty(x).shape == *shape {
            return Ok(x);
        }
        if rank > shape.rank() {
            return Err(invalid(format!("{} does not broadcast to {shape}", self.b.ty(x))));
        }
        let dims = (shape.rank() - rank..shape.rank()).map(|d| d as u8).collect();
        self.emit(Op::Broadcast { dims, shape: shape.clone() }, &[x])
    }

    /// A vector along dimension `dim` of `shape`.
    pub fn broadcast_along(&mut self, x: Value, dim: usize, shape: &Shape) -> Result<Value, Fail> {
        self.emit(Op::Broadcast { dims: vec![dim as u8], shape: shape.clone() }, &[x])
    }

    fn broadcast_pair(&mut self, a: Value, b: Value) -> Result<(Value, Value), Fail> {
        let shape = broadcast_shape(&[self.shape(a), self.shape(b)])?;
        Ok((self.broadcast_to(a, &shape)?, self.broadcast_to(b, &shape)?))
    }

    /// `x` under another shape; `x` itself when it has that shape.
    pub fn reshape(&mut self, x: Value, shape: impl Into<Shape>) -> Result<Value, Fail> {
        let shape = shape.into();
        match self.b.ty(x).shape == shape {
            true => Ok(x),
            false => self.emit(Op::Reshape { shape }, &[x]),
        }
    }

    /// `x` with dimensions in another order; `x` itself for the identity.
    pub fn permute(&mut self, x: Value, perm: Vec<u8>) -> Result<Value, Fail> {
        match perm.iter().enumerate().all(|(i, &p)| i == p as usize) && perm.len() == self.rank(x) {
            true => Ok(x),
            false => self.emit(Op::Permute { perm }, &[x]),
        }
    }

    /// Elements `start..start + size` of one dimension.
    pub fn slice_axis(&mut self, x: Value, axis: usize, start: u64, size: u64) -> Result<Value, Fail> {
        let mut shape = self.shape(x);
        if start == 0 && shape[axis] == size {
            return Ok(x);
        }
        let rank = shape.rank();
        let mut starts = vec![0; rank];
        starts[axis] = start as i64;
        shape.0[axis] = size;
        self.emit(Op::Slice { starts, shape, steps: vec![1; rank] }, &[x])
    }

    pub fn concat(&mut self, parts: &[Value], axis: usize) -> Result<Value, Fail> {
        match parts {
            [one] => Ok(*one),
            many if many.len() > limits::MAX_PARTS => {
                let joined: Result<Vec<Value>, Fail> =
                    many.chunks(limits::MAX_PARTS).map(|some| self.concat(some, axis)).collect();
                self.concat(&joined?, axis)
            }
            _ => self.emit(Op::Concat { axis: axis as u8 }, parts),
        }
    }

    pub fn iota(&mut self, elem: ScalarType, shape: &Shape, axis: usize) -> Result<Value, Fail> {
        self.emit(Op::Iota { elem, shape: shape.clone(), axis: axis as u8 }, &[])
    }

    /// A reduction; with `keep`, reduced dimensions stay with size 1.
    pub fn reduce(&mut self, op: ReduceOp, x: Value, axes: &[u8], keep: bool) -> Result<Value, Fail> {
        let mut shape = self.shape(x);
        let reduced = match axes.is_empty() {
            true => x,
            false => self.emit(Op::Reduce { op, axes: axes.to_vec() }, &[x])?,
        };
        for &a in axes {
            shape.0[a as usize] = 1;
        }
        if keep { self.reshape(reduced, shape) } else { Ok(reduced) }
    }

    pub fn contract(&mut self, map: ContractMap, a: Value, b: Value) -> Result<Value, Fail> {
        let elem = self.elem(a);
        self.contract_to(map, elem, a, b)
    }

    /// A contraction of operands of one type whose sums are rounded to `elem`.
    pub fn contract_to(
        &mut self,
        map: ContractMap,
        elem: ScalarType,
        a: Value,
        b: Value,
    ) -> Result<Value, Fail> {
        if self.elem(a) != self.elem(b) {
            return Err(invalid(format!("operands {} and {} differ in type", self.b.ty(a), self.b.ty(b))));
        }
        self.emit(Op::Contract { map, elem }, &[a, b])
    }

    /// The sum of products of a map like `"bk,nk->bn"`, computed and given in type `elem`.
    pub fn contract_as(&mut self, map: &str, a: Value, b: Value, elem: ScalarType) -> Result<Value, Fail> {
        let map = ContractMap::parse(map).ok_or_else(|| invalid(format!("the map {map}")))?;
        self.emit(Op::Contract { map, elem }, &[a, b])
    }

    /// Elements of an operand that must be a constant of integers.
    pub fn const_ints(&mut self, v: Value, what: &str) -> Result<Vec<i64>, Fail> {
        self.known_ints(v).ok_or_else(|| self.not_constant(v, what))
    }

    /// The failure of an operand that is not known, with the graph inputs that it depends on.
    pub fn not_constant(&self, v: Value, what: &str) -> Fail {
        let inputs = self.inputs_of(v);
        let names: Vec<String> = inputs.iter().map(|name| format!("`{name}`")).collect();
        match inputs.first() {
            Some(first) => {
                let reason = format!("{what} is computed at run time from input {}", names.join(", "));
                let hint = format!("bind the input: --bind {first}=FILE");
                let inputs = inputs.iter().map(|&name| name.to_owned()).collect();
                Fail { inputs, ..Fail::new(codes::NOT_CONSTANT, reason).hint(hint) }
            }
            None => {
                Fail::new(codes::NOT_CONSTANT, format!("{what} ({}) is not known at import", self.b.ty(v)))
            }
        }
    }

    /// Names of the parameters that a value depends on.
    fn inputs_of(&self, v: Value) -> Vec<&str> {
        let func = self.b.func();
        let (mut seen, mut open) = (BTreeSet::from([v]), vec![v]);
        while let Some(v) = open.pop() {
            let args = func.def(v).map(|node| func.nodes[node].args.as_slice());
            open.extend(args.unwrap_or_default().iter().filter(|&&a| seen.insert(a)));
        }
        func.params.iter().filter(|p| seen.contains(p)).map(|&p| func.values[p].name.as_str()).collect()
    }

    /// Elements of an operand of integers or `bool`, if known.
    pub fn known_ints(&mut self, v: Value) -> Option<Vec<i64>> {
        let elem = self.elem(v);
        let constant = self.known(v)?;
        let n = usize::try_from(constant.ty.shape.elements()).ok()?;
        if elem.bits() < 8 || !(elem.is_int() || elem == ScalarType::Bool) {
            return None;
        }
        let width = elem.bits() as usize / 8;
        let signed = matches!(elem, ScalarType::I8 | ScalarType::I16 | ScalarType::I32 | ScalarType::I64);
        let extend = |code: u64| {
            let shift = 64 - elem.bits();
            if signed { (code << shift) as i64 >> shift } else { code as i64 }
        };
        match &constant.data {
            ConstantData::Splat(code) => (n <= FOLD_ELEMENTS).then(|| vec![extend(*code); n]),
            ConstantData::Dense(blob) => Some(
                blob.bytes()
                    .chunks_exact(width)
                    .map(|c| extend(c.iter().rev().fold(0, |code, &b| code << 8 | u64::from(b))))
                    .collect(),
            ),
        }
    }

    /// Elements of an operand that must be a constant of floats.
    pub fn const_floats(&mut self, v: Value, what: &str) -> Result<Vec<f64>, Fail> {
        let wide = self.cast(v, ScalarType::F64)?;
        let constant = self.known(wide).ok_or_else(|| self.not_constant(v, what))?;
        let tensor = Tensor::from_constant(&constant).map_err(|e| invalid(e.to_string()))?;
        Ok(tensor.to_f64().to_vec())
    }

    /// The one element of an operand that must be a constant of floats or integers.
    pub fn const_scalar(&mut self, v: Value, what: &str) -> Result<f64, Fail> {
        if self.shape(v).elements() != 1 {
            return Err(invalid(format!("{what} is {}, not one number", self.b.ty(v))));
        }
        if !self.elem(v).is_float() {
            return Ok(self.const_ints(v, what)?[0] as f64);
        }
        let wide = self.cast(v, ScalarType::F64)?;
        let constant = self.known(wide).ok_or_else(|| self.not_constant(v, what))?;
        let bits = match &constant.data {
            ConstantData::Splat(code) => *code,
            ConstantData::Dense(blob) => {
                blob.bytes().iter().take(8).rev().fold(0, |code, &b| code << 8 | u64::from(b))
            }
        };
        Ok(f64::from_bits(bits))
    }
}

/// The greatest number of elements that importing computes for one value.
pub(crate) const FOLD_ELEMENTS: usize = 1 << 24;

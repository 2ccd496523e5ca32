//! Making functions: each emitted node's result types are inferred and checked at once.

use lacuna_isa::format::ScalarType;

use crate::infer::{TypeError, infer};
use crate::module::{Constant, FuncId, Function, Module, NodeData, OriginId, Value, ValueData, ValueDef};
use crate::op::{BinaryOp, Op, UnaryOp};
use crate::types::{Shape, TensorType};

/// Appends nodes to one function of a module.
pub struct FunctionBuilder<'m> {
    /// The module, for its constant pool and called functions.
    pub module: &'m mut Module,
    func: FuncId,
    origins: Vec<OriginId>,
}

impl<'m> FunctionBuilder<'m> {
    /// Adds an empty function to the module.
    pub fn new(module: &'m mut Module, name: impl Into<String>) -> FunctionBuilder<'m> {
        let func = module.functions.push(Function { name: name.into(), ..Function::default() });
        FunctionBuilder { module, func, origins: Vec::new() }
    }

    /// The function being built.
    pub fn id(&self) -> FuncId {
        self.func
    }

    /// The function being built.
    pub fn func(&self) -> &Function {
        &self.module.functions[self.func]
    }

    /// The function being built.
    pub fn func_mut(&mut self) -> &mut Function {
        &mut self.module.functions[self.func]
    }

    /// Type of a value.
    pub fn ty(&self, value: Value) -> &TensorType {
        self.func().ty(value)
    }

    /// Sets the provenance that nodes get from now on.
    pub fn set_origins(&mut self, mut origins: Vec<OriginId>) {
        origins.sort_unstable();
        origins.dedup();
        self.origins = origins;
    }

    /// Adds a parameter.
    pub fn param(&mut self, ty: TensorType, name: impl Into<String>) -> Value {
        let func = self.func_mut();
        let number = func.params.len() as u32;
        let value = func.values.push(ValueData { ty, def: ValueDef::Param(number), name: name.into() });
        func.params.push(value);
        value
    }

    /// Sets the results.
    pub fn results(&mut self, values: &[Value]) {
        self.func_mut().results = values.to_vec();
    }

    /// Appends a node and returns its results.
    ///
    /// # Errors
    /// When the operands do not fit the operator.
    pub fn emit_all(&mut self, op: Op, args: &[Value]) -> Result<Vec<Value>, TypeError> {
        let types: Vec<&TensorType> = args.iter().map(|&a| self.ty(a)).collect();
        let result_types = infer(self.module, &op, &types)?;
        let origins = self.origins.clone();
        let func = self.func_mut();
        let node = func.nodes.push(NodeData { op, args: args.to_vec(), results: Vec::new(), origins });
        let results: Vec<Value> = result_types
            .into_iter()
            .enumerate()
            .map(|(i, ty)| {
                func.values.push(ValueData { ty, def: ValueDef::Result(node, i as u32), name: String::new() })
            })
            .collect();
        func.nodes[node].results.clone_from(&results);
        Ok(results)
    }

    /// Appends a node with one result.
    ///
    /// # Errors
    /// When the operands do not fit the operator.
    pub fn emit(&mut self, op: Op, args: &[Value]) -> Result<Value, TypeError> {
        let results = self.emit_all(op, args)?;
        match results[..] {
            [result] => Ok(result),
            _ => Err(TypeError(format!("the operator has {} results where one is used", results.len()))),
        }
    }

    /// A constant of the pool as a value.
    ///
    /// # Errors
    /// Never for a well-formed constant.
    pub fn constant(&mut self, constant: Constant) -> Result<Value, TypeError> {
        let value = self.module.constants.push(constant);
        self.emit(Op::Const { value }, &[])
    }

    /// An f32 constant.
    ///
    /// # Errors
    /// When `values` has not the shape's number of elements.
    pub fn const_f32(&mut self, shape: impl Into<Shape>, values: &[f32]) -> Result<Value, TypeError> {
        let ty = TensorType::new(ScalarType::F32, shape);
        if ty.shape.elements() != values.len() as u64 {
            return Err(TypeError(format!("{} elements given for {ty}", values.len())));
        }
        self.constant(Constant::dense(ty, bytemuck::cast_slice(values).to_vec(), ""))
    }

    /// An element-wise function.
    ///
    /// # Errors
    /// When the operand's type does not fit.
    pub fn unary(&mut self, op: UnaryOp, x: Value) -> Result<Value, TypeError> {
        self.emit(Op::Unary { op }, &[x])
    }

    /// An element-wise function of two operands of equal type.
    ///
    /// # Errors
    /// When the operands' types differ or do not fit.
    pub fn binary(&mut self, op: BinaryOp, a: Value, b: Value) -> Result<Value, TypeError> {
        self.emit(Op::Binary { op }, &[a, b])
    }

    /// Broadcasts `x` to `shape` aligning last dimensions, as NumPy does; `x` itself when it has that shape.
    ///
    /// # Errors
    /// When the shapes are not compatible.
    pub fn broadcast_to(&mut self, x: Value, shape: &Shape) -> Result<Value, TypeError> {
        let rank = self.ty(x).shape.rank();
        if self.ty(x).shape == *shape {
            return Ok(x);
        }
        if rank > shape.rank() {
            return Err(TypeError(format!("{} does not broadcast to {shape}", self.ty(x))));
        }
        let dims = (shape.rank() - rank..shape.rank()).map(|d| d as u8).collect();
        self.emit(Op::Broadcast { dims, shape: shape.clone() }, &[x])
    }
}

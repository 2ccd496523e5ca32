//! Making functions anew while the module stays readable.

use lacuna_ir::infer::{TypeError, infer};
use lacuna_ir::{Function, Module, NodeData, Op, OriginId, Value, ValueData, ValueDef};

/// A function under construction that has the name and the parameters of another.
pub struct Emitter {
    func: Function,
    /// The parameters.
    pub params: Vec<Value>,
    /// The results, to be set.
    pub results: Vec<Value>,
}

impl Emitter {
    /// A function without nodes.
    pub fn new(like: &Function) -> Emitter {
        let mut func = Function { name: like.name.clone(), ..Function::default() };
        let params: Vec<Value> = like
            .params
            .iter()
            .enumerate()
            .map(|(i, &p)| {
                let name = like.values[p].name.clone();
                func.values.push(ValueData { ty: like.ty(p).clone(), def: ValueDef::Param(i as u32), name })
            })
            .collect();
        func.params.clone_from(&params);
        Emitter { func, params, results: Vec::new() }
    }

    /// The function so far.
    pub fn func(&self) -> &Function {
        &self.func
    }

    /// Appends a node.
    ///
    /// # Errors
    /// When the operands do not fit the operator.
    pub fn emit_all(
        &mut self,
        module: &Module,
        op: Op,
        args: &[Value],
        origins: &[OriginId],
    ) -> Result<Vec<Value>, TypeError> {
        let types: Vec<_> = args.iter().map(|&a| self.func.ty(a)).collect();
        let types = infer(module, &op, &types)?;
        let data = NodeData { op, args: args.to_vec(), results: Vec::new(), origins: origins.to_vec() };
        let node = self.func.nodes.push(data);
        let results: Vec<Value> = types
            .into_iter()
            .enumerate()
            .map(|(i, ty)| {
                let def = ValueDef::Result(node, i as u32);
                self.func.values.push(ValueData { ty, def, name: String::new() })
            })
            .collect();
        self.func.nodes[node].results.clone_from(&results);
        Ok(results)
    }

    /// Names a value that has no name yet.
    pub fn name(&mut self, value: Value, name: &str) {
        let own = &mut self.func.values[value].name;
        if own.is_empty() {
            *own = name.to_string();
        }
    }

    /// The function.
    pub fn finish(mut self) -> Function {
        self.func.results = self.results;
        self.func
    }
}

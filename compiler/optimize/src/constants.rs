//! Constant recipes become constants of the pool, and constants that nothing uses leave it.
//!
//! A value that only repeats a smaller one stays a `broadcast` of it: the repetition is a view. A reshape shares the
//! bytes of what it reshapes. What the evaluator cannot compute, or what would be large without need, stays a node.

use std::collections::BTreeSet;

use cranelift_entity::SecondaryMap;
use indexmap::IndexMap;
use lacuna_ir::dead::unused_constants;
use lacuna_ir::eval::{Mode, Tensor, eval_op};
use lacuna_ir::{Blob, ConstId, Constant, Function, Module, Node, NodeData, Op, OriginId, Value};
use lacuna_isa::format::ScalarType;

use crate::blocks::Pieces;
use crate::emit::Emitter;
use crate::error::{Broken, Error};
use crate::module::functions;

/// Recipes up to this many bytes are always computed; larger ones only if they are at most twice what they are made
/// from.
const SMALL_BYTES: u64 = 64 << 20;

/// Computes the constant recipes of all functions, and drops unused constants from the pool.
pub fn fold(module: &mut Module) -> Result<(), Error> {
    for func in functions(module) {
        let source = module.functions[func].clone();
        let folded = fold_function(module, &source)
            .map_err(|message| Error::Constant { function: source.name.clone(), message })?;
        module.functions[func] = folded;
    }
    unused_constants(module);
    Ok(())
}

/// Which values of a function depend on no parameter.
pub fn constant_values(func: &Function) -> SecondaryMap<Value, bool> {
    let mut constant = SecondaryMap::new();
    for node in func.nodes.values() {
        let fixed = !matches!(node.op, Op::Call { .. }) && node.args.iter().all(|&a| constant[a]);
        for &result in &node.results {
            constant[result] = fixed;
        }
    }
    constant
}

/// Which operands of a product are weights, where `constant` says which values are constant: those, and matrices that are picked from a
/// constant table.
pub fn weight_operands(func: &Function, node: &NodeData, constant: &SecondaryMap<Value, bool>) -> [bool; 2] {
    let picked = func.picked(node).filter(|picked| constant[picked.table]);
    [0, 1].map(|i| constant[node.args[i]] || picked.as_ref().is_some_and(|picked| picked.operand == i))
}

struct Folder<'a> {
    module: &'a mut Module,
    source: &'a Function,
    out: Emitter,
    values: SecondaryMap<Value, Option<Value>>,
    constants: IndexMap<ConstId, Value>,
    /// Operands of products that stay codes.
    blocked: IndexMap<Value, Value>,
}

fn fold_function(module: &mut Module, source: &Function) -> Result<Function, Broken> {
    let constant = constant_values(source);
    let mut folder = Folder {
        module,
        out: Emitter::new(source),
        source,
        values: SecondaryMap::new(),
        constants: IndexMap::new(),
        blocked: IndexMap::new(),
    };
    for (&old, new) in source.params.iter().zip(folder.out.params.clone()) {
        folder.values[old] = Some(new);
    }
    for node in source.nodes.values() {
        // A recipe appears where something computed needs it.
        if node.results.iter().any(|&r| !constant[r]) || matches!(node.op, Op::Call { .. }) {
            let demand = |&a: &Value| if node.op.is_product() { folder.operand(a) } else { folder.demand(a) };
            let args = node.args.iter().map(demand).collect::<Result<Vec<_>, _>>()?;
            folder.copy(node.op.clone(), &args, &node.origins, &node.results)?;
        }
    }
    let results = source.results.iter().map(|&r| folder.demand(r)).collect::<Result<_, _>>()?;
    folder.out.results = results;
    Ok(folder.out.finish())
}

impl Folder<'_> {
    fn copy(&mut self, op: Op, args: &[Value], origins: &[OriginId], old: &[Value]) -> Result<(), Broken> {
        let new = self.out.emit_all(self.module, op, args, origins)?;
        for (&old, &new) in old.iter().zip(&new) {
            self.values[old] = Some(new);
            self.out.name(new, &self.source.values[old].name);
        }
        Ok(())
    }

    /// The new value for an old one that is a parameter, has been copied, or is a recipe.
    fn demand(&mut self, old: Value) -> Result<Value, Broken> {
        if let Some(new) = self.values[old] {
            return Ok(new);
        }
        let node = self.source.def(old).ok_or(Broken::Missing("a parameter is missing".into()))?;
        let data = &self.source.nodes[node];
        let ty = self.source.ty(old);
        let larger =
            data.args.first().is_some_and(|&a| self.source.ty(a).shape.elements() < ty.shape.elements());
        let view = matches!(data.op, Op::Broadcast { .. }) && larger;
        let constant = if view {
            None
        } else if let Op::Const { value } = data.op {
            Some(value)
        } else {
            let reshaped = if matches!(data.op, Op::Reshape { .. }) { self.reshaped(node)? } else { None };
            match reshaped {
                Some(constant) => Some(constant),
                None => self.computed(node)?,
            }
        };
        let (op, args) = match constant {
            Some(value) => {
                if let Some(&new) = self.constants.get(&value) {
                    self.values[old] = Some(new);
                    return Ok(new);
                }
                (Op::Const { value }, Vec::new())
            }
            None => {
                let args = data.args.iter().map(|&a| self.demand(a)).collect::<Result<Vec<_>, _>>()?;
                (data.op.clone(), args)
            }
        };
        self.copy(op, &args, &data.origins, &[old])?;
        let new = self.values[old].ok_or(Broken::Missing("a recipe has no result".into()))?;
        if let Some(value) = constant {
            self.constants.insert(value, new);
        }
        Ok(new)
    }

    /// The new value for an operand of a product: codes with scales stay what they are.
    fn operand(&mut self, old: Value) -> Result<Value, Broken> {
        if let Some(&new) = self.blocked.get(&old) {
            return Ok(new);
        }
        let Some(pieces) = self.pieces(old)? else { return self.demand(old) };
        let origins = self.source.def(old).map_or(Vec::new(), |n| self.source.nodes[n].origins.clone());
        let args =
            pieces.args.iter().map(|&id| self.constant(id, &origins)).collect::<Result<Vec<_>, _>>()?;
        let mut new = None;
        for (i, &to) in pieces.rounds.iter().enumerate() {
            let (op, args) = match (i, new) {
                (1.., Some(new)) => (Op::Cast { to, saturate: true }, vec![new]),
                _ => (Op::Dequantize { blocks: pieces.blocks.clone(), to }, args.clone()),
            };
            let emitted = self.out.emit_all(self.module, op, &args, &origins)?;
            new = emitted.first().copied();
        }
        let new = new.ok_or(Broken::Missing("a dequantize without a type".into()))?;
        self.out.name(new, &self.source.values[old].name);
        self.blocked.insert(old, new);
        Ok(new)
    }

    /// A constant of the pool as a value.
    fn constant(&mut self, id: ConstId, origins: &[OriginId]) -> Result<Value, Broken> {
        if let Some(&known) = self.constants.get(&id) {
            return Ok(known);
        }
        let op = Op::Const { value: id };
        let new = self.out.emit_all(self.module, op, &[], origins)?[0];
        self.constants.insert(id, new);
        Ok(new)
    }

    /// What a constant value is in codes, if it is a `dequantize` behind nothing but casts and movement.
    fn pieces(&mut self, old: Value) -> Result<Option<Pieces>, Broken> {
        let Some(node) = self.source.def(old) else { return Ok(None) };
        let data = &self.source.nodes[node];
        match &data.op {
            Op::Dequantize { blocks, to } => {
                let args =
                    data.args.iter().map(|&a| self.pooled(a)).collect::<Result<Option<Vec<_>>, _>>()?;
                let whole = |args| Pieces { args, blocks: blocks.clone(), rounds: vec![*to] };
                Ok(args.map(whole))
            }
            &Op::Cast { to: to @ (ScalarType::F32 | ScalarType::F16 | ScalarType::Bf16), .. } => {
                let inner = self.pieces(data.args[0])?;
                Ok(inner.map(|mut inner| {
                    inner.rounds.push(to);
                    inner
                }))
            }
            Op::Permute { perm } => {
                let inner = self.pieces(data.args[0])?;
                Ok(inner.and_then(|inner| inner.permuted(self.module, perm)))
            }
            Op::Concat { axis } => {
                let parts =
                    data.args.iter().map(|&a| self.pieces(a)).collect::<Result<Option<Vec<_>>, _>>()?;
                Ok(parts.and_then(|parts| Pieces::concatenated(self.module, &parts, usize::from(*axis))))
            }
            _ => Ok(None),
        }
    }

    /// The constant of the pool that a recipe is or becomes.
    fn pooled(&mut self, old: Value) -> Result<Option<ConstId>, Broken> {
        let Some(node) = self.source.def(old) else { return Ok(None) };
        let data = &self.source.nodes[node];
        if let Op::Const { value } = data.op {
            return Ok(Some(value));
        }
        if let (Op::Reshape { .. }, Some(inner)) = (&data.op, data.args.first()) {
            let Some(inner) = self.pooled(*inner)? else { return Ok(None) };
            let inner = &self.module.constants[inner];
            let ty = self.source.ty(old).clone();
            let constant = Constant::new(ty, inner.data.clone(), inner.name.clone());
            return Ok(Some(self.module.constants.push(constant)));
        }
        self.computed(node)
    }

    /// The constant that a reshape of a constant is: the same bytes under another type.
    fn reshaped(&mut self, node: Node) -> Result<Option<ConstId>, Broken> {
        let data = &self.source.nodes[node];
        let arg = self.demand(data.args[0])?;
        let Some(inner) = self.out.func().as_const(arg) else { return Ok(None) };
        let inner = &self.module.constants[inner];
        let ty = self.source.ty(data.results[0]).clone();
        let constant = Constant::new(ty, inner.data.clone(), inner.name.clone());
        Ok(Some(self.module.constants.push(constant)))
    }

    /// The constant that a recipe computes; `None` if it should or must stay a recipe.
    fn computed(&mut self, node: Node) -> Result<Option<ConstId>, Broken> {
        let result = self.source.nodes[node].results[0];
        let bytes = self.source.ty(result).bytes();
        let program = self.source.nodes_behind(result, |_| false);
        let read = |&n: &Node| match self.source.nodes[n].op {
            Op::Const { value } => Some(value),
            _ => None,
        };
        let from: Vec<ConstId> = program.iter().filter_map(read).collect();
        let from_bytes: u64 = from.iter().map(|&c| self.module.constants[c].ty.bytes()).sum();
        if bytes > SMALL_BYTES && bytes / 2 > from_bytes {
            return Ok(None);
        }
        let bytes = match crate::folding::bytes(self.module, self.source, result) {
            Some(bytes) => bytes,
            None => match self.tensor(result, &program) {
                Some(tensor) => Blob::new(tensor.to_bytes()),
                None => return Ok(None),
            },
        };
        let largest = from.iter().max_by_key(|&&c| self.module.constants[c].ty.bytes());
        let name = largest.map_or_else(String::new, |&c| self.module.constants[c].name.clone());
        let ty = self.source.ty(result).clone();
        Ok(Some(self.module.constants.push(Constant::computed(ty, bytes, name))))
    }

    /// The value of a recipe, whose nodes are in their order.
    fn tensor(&self, value: Value, program: &BTreeSet<Node>) -> Option<Tensor> {
        let mut known: IndexMap<Value, Tensor> = IndexMap::new();
        for &node in program {
            let data = &self.source.nodes[node];
            let args: Vec<&Tensor> = data.args.iter().map(|a| known.get(a)).collect::<Option<_>>()?;
            let results = eval_op(self.module, &data.op, &args, Mode::Typed).ok()?;
            known.extend(data.results.iter().copied().zip(results));
        }
        known.swap_remove(&value)
    }
}

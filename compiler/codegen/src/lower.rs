//! From a selected function to kernels and launches, node by node.

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use cranelift_entity::{PrimaryMap, SecondaryMap};
use indexmap::IndexSet;
use lacuna_ir::{ConstId, ConstantData, ElemType, Function, Module, Node, Op, OriginId, Value};
use lacuna_isa::format::{Format, GroupFormat, ScalarType};
use lacuna_isa::inst::Fill;
use lacuna_isa::object::Kernel;
use lacuna_isa::target::Target;

use crate::expr::{Expr, ExprNode, Leaf};
use crate::fuse::{Fusion, is_wide};
use crate::place::{
    Packing, Panels, Place, State, Storage, StorageId, StorageKind, order_of, reshape_strides,
    strides_in_order,
};
use crate::refusal::{Lowered, Refusal};
use crate::sinks::{GroupedSink, Quantised, Sinks};
use crate::zeros::{ProductZeros, Survey};

mod expressions;

use expressions::kernel_name;

/// A node that cannot become instructions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unsupported {
    /// The IR node's operator.
    pub op: &'static str,
    /// The ONNX nodes that it implements.
    pub origins: Vec<OriginId>,
    /// Why not.
    pub reason: Refusal,
}

/// One kernel launch before addresses are known.
#[derive(Clone, Debug)]
pub struct LaunchDraft {
    /// Number of the kernel.
    pub kernel: usize,
    /// Storage and byte offset of each base register.
    pub bases: Vec<(StorageId, u64)>,
    /// Multiply-accumulates of the products of the IR that it computes, padding aside.
    pub macs: u64,
    /// Provenance.
    pub origins: Vec<OriginId>,
}

/// The state of lowering one function.
pub struct Lowering<'a> {
    /// The module.
    pub module: &'a Module,
    /// The entry's function.
    pub func: &'a Function,
    /// The target.
    pub target: &'a Target,
    /// What is known of the zeros of products.
    pub zeros: &'a SecondaryMap<Node, ProductZeros>,
    /// All allocations.
    pub storages: PrimaryMap<StorageId, Storage>,
    /// Storages of constants and outputs by what they hold.
    stored: HashMap<StorageKind, StorageId>,
    /// Places of materialised and relabelled values.
    pub places: SecondaryMap<Value, Option<Place>>,
    /// Distinct kernels.
    pub kernels: IndexSet<Kernel>,
    /// Launches in order.
    pub launches: Vec<LaunchDraft>,
    /// What could not be lowered.
    pub unsupported: Vec<Unsupported>,
    /// The zeros of the constant that was last looked at.
    pub surveyed: Option<((ConstId, Panels), Rc<Survey>)>,
    /// Types that constants are stored in, by constant.
    pub narrowest: SecondaryMap<ConstId, Option<Option<ScalarType>>>,
    pub(crate) fusion: Fusion,
    pub(crate) quantised: Quantised,
    preferred: SecondaryMap<Value, Option<Vec<usize>>>,
    /// The output in whose place a value is computed, and the value's strides there.
    pub(crate) outputs: SecondaryMap<Value, Option<(usize, Vec<i64>)>>,
    /// Inputs and outputs that are one tensor.
    pub(crate) states: &'a [State],
    /// Outputs of states that kernels have updated in place.
    pub(crate) updated: Vec<usize>,
}

impl<'a> Lowering<'a> {
    /// Prepares to lower the function.
    pub fn new(
        module: &'a Module,
        func: &'a Function,
        target: &'a Target,
        zeros: &'a SecondaryMap<Node, ProductZeros>,
        states: &'a [State],
    ) -> Lowering<'a> {
        let mut lowering = Lowering {
            module,
            func,
            target,
            zeros,
            storages: PrimaryMap::new(),
            stored: HashMap::new(),
            places: SecondaryMap::new(),
            kernels: IndexSet::new(),
            launches: Vec::new(),
            unsupported: Vec::new(),
            surveyed: None,
            narrowest: SecondaryMap::new(),
            fusion: Fusion::of(module, func),
            quantised: Quantised::of(func),
            preferred: SecondaryMap::new(),
            outputs: SecondaryMap::new(),
            states,
            updated: Vec::new(),
        };
        lowering.prefer_orders();
        lowering
    }

    /// Lowers every node; afterwards `unsupported` lists all that could not be.
    pub fn run(&mut self) {
        for (i, &param) in self.func.params.iter().enumerate() {
            let ty = self.func.ty(param);
            let storage = self.storages.push(Storage::dense(
                StorageKind::Input(i),
                ty.elem.format(),
                ty.shape.elements(),
            ));
            self.places[param] = Some(self.row_major(param, storage));
        }
        // A value computed by the function is stored where the first result lies that is it, or is it behind views.
        let mut stored = vec![false; self.func.results.len()];
        for behind in [false, true] {
            for (i, &result) in self.func.results.iter().enumerate() {
                let Some((value, strides)) = self.computed(result).filter(|(v, _)| (*v != result) == behind)
                else {
                    continue;
                };
                if self.outputs[value].is_none() {
                    self.outputs[value] = Some((i, strides));
                    stored[i] = true;
                }
            }
        }
        for (node, data) in &self.func.nodes {
            if self.fusion.inlined[node] {
                continue;
            }
            let origins = self.group_origins(node);
            let first_launch = self.launches.len();
            if let Err(reason) = self.node(node) {
                self.unsupported.push(Unsupported { op: data.op.name(), origins: origins.clone(), reason });
                // Users of the failed value are still checked.
                for &result in &data.results {
                    self.places[result] = Some(self.allocate(result));
                }
            }
            for launch in &mut self.launches[first_launch..] {
                launch.origins.clone_from(&origins);
            }
        }
        for (i, &result) in self.func.results.iter().enumerate() {
            if stored[i] {
                continue;
            }
            let first_launch = self.launches.len();
            if let Err(reason) = self.copy_to_output(result, i) {
                self.unsupported.push(Unsupported { op: "copy", origins: Vec::new(), reason });
            }
            let origins = self.func.def(result).map_or(Vec::new(), |n| self.func.nodes[n].origins.clone());
            for launch in &mut self.launches[first_launch..] {
                launch.origins.clone_from(&origins);
            }
        }
    }

    /// The value that a result is, behind permutations and reshapes, and the strides with which it lies in the result's place; `None`
    /// where nothing computes it, or it has no such strides.
    fn computed(&self, result: Value) -> Option<(Value, Vec<i64>)> {
        let mut value = result;
        let mut strides = self.func.ty(result).shape.strides().iter().map(|&s| s as i64).collect::<Vec<_>>();
        loop {
            let data = &self.func.nodes[self.func.def(value)?];
            let shape = &self.func.ty(value).shape;
            match &data.op {
                Op::Permute { perm } => {
                    let mut inner = vec![0; strides.len()];
                    perm.iter().zip(&strides).for_each(|(&p, &s)| inner[usize::from(p)] = s);
                    strides = inner;
                }
                Op::Reshape { .. } => {
                    strides = reshape_strides(shape, &strides, &self.func.ty(data.args[0]).shape)?;
                }
                op if op.is_movement() => return None,
                Op::Const { .. } => return None,
                _ => {
                    let plain = value == result
                        || (self.func.blocked(value).is_none()
                            && self.func.ty(value).elem.scalar().is_some());
                    return plain.then_some((value, strides));
                }
            }
            value = data.args[0];
        }
    }

    /// Provenance of a node and of what is inlined into its kernel.
    fn group_origins(&self, node: Node) -> Vec<OriginId> {
        let mut all = BTreeSet::new();
        let mut seen = BTreeSet::new();
        let mut work = vec![node];
        while let Some(node) = work.pop() {
            if !seen.insert(node) {
                continue;
            }
            all.extend(self.func.nodes[node].origins.iter().copied());
            for &arg in &self.func.nodes[node].args {
                work.extend(self.func.def(arg).filter(|&d| self.fusion.inlined[d]));
            }
        }
        all.into_iter().collect()
    }

    /// Physical orders that spare later copies: channels last around convolutions, and the order of a permuted view that
    /// is then reshaped.
    fn prefer_orders(&mut self) {
        for (_, data) in &self.func.nodes {
            match &data.op {
                Op::Conv { attrs, .. } => {
                    let last = |dims: &[u8]| -> Vec<usize> {
                        [dims[0]].iter().chain(&dims[2..]).chain([&dims[1]]).map(|&d| d as usize).collect()
                    };
                    self.preferred[data.results[0]] = Some(last(&attrs.out));
                    if self.preferred[data.args[0]].is_none() {
                        self.preferred[data.args[0]] = Some(last(&attrs.x));
                    }
                }
                Op::Reshape { .. } => {
                    let Some(def) = self.func.def(data.args[0]) else { continue };
                    let from = &self.func.nodes[def];
                    if let Op::Permute { perm } = &from.op {
                        self.preferred[from.args[0]] = Some(perm.iter().map(|&p| p as usize).collect());
                    }
                }
                _ => {}
            }
        }
    }

    fn row_major(&self, value: Value, storage: StorageId) -> Place {
        let shape = &self.func.ty(value).shape;
        let order: Vec<usize> = (0..shape.rank()).collect();
        Place { storage, offset: 0, strides: strides_in_order(shape, &order) }
    }

    /// Allocates a value in its preferred physical order.
    pub fn allocate(&mut self, value: Value) -> Place {
        self.allocate_in(value, None)
    }

    /// Allocates a value; without a preference of its own it takes `order`.
    pub fn allocate_in(&mut self, value: Value, order: Option<Vec<usize>>) -> Place {
        let ty = self.func.ty(value).clone();
        if let Some((i, strides)) = self.outputs[value].clone() {
            // A kernel that could not be emitted may have asked before.
            let kind = StorageKind::Output(i);
            let storage = self.one_storage(Storage::dense(kind, ty.elem.format(), ty.shape.elements()));
            return Place { storage, offset: 0, strides };
        }
        let rank = ty.shape.rank();
        let mut order = self.preferred[value].clone().or(order).unwrap_or_else(|| (0..rank).collect());
        let mut sizes = ty.shape.0.clone();
        if let ElemType::Grouped { format, axis } = ty.elem {
            order.retain(|&d| d != axis as usize);
            order.push(axis as usize);
            sizes[axis as usize] = sizes[axis as usize].next_multiple_of(u64::from(format.size));
        }
        let storage =
            self.storages.push(Storage::dense(StorageKind::Temp, ty.elem.format(), sizes.iter().product()));
        Place { storage, offset: 0, strides: strides_in_order(&sizes, &order) }
    }

    /// The one storage of its kind: a constant in a packing, or an output.
    pub fn one_storage(&mut self, storage: Storage) -> StorageId {
        let kind = storage.kind.clone();
        *self.stored.entry(kind).or_insert_with(|| self.storages.push(storage))
    }

    /// Place of a value that is materialised or relabelled.
    pub fn place(&mut self, value: Value) -> Lowered<Place> {
        if let Some(place) = &self.places[value] {
            return Ok(place.clone());
        }
        let place = match (self.func.as_const(value), self.func.blocked(value)) {
            (Some(id), _) => self.const_place(id)?,
            (None, Some(blocked)) => self.widened(value, &blocked)?,
            (None, None) => {
                return Err(Refusal::Contradiction(format!("operand {value} has no place in memory")));
            }
        };
        self.places[value] = Some(place.clone());
        Ok(place)
    }

    /// Place of a constant as it is.
    pub fn const_place(&mut self, id: ConstId) -> Lowered<Place> {
        let ty = &self.module.constants[id].ty;
        if ty.elem.scalar().is_none() {
            return Err(Refusal::Grouped(format!(
                "a grouped constant {ty} is only possible as the second operand of a product"
            )));
        }
        let splat = matches!(self.module.constants[id].data, ConstantData::Splat(_));
        // One element stands for all of a splat.
        let elements = if splat { 1 } else { ty.shape.elements() };
        let kind = StorageKind::Const(id, Packing::Plain);
        let storage = self.one_storage(Storage::dense(kind, ty.elem.format(), elements));
        let order: Vec<usize> = (0..ty.shape.rank()).collect();
        let mut place = Place { storage, offset: 0, strides: strides_in_order(&ty.shape, &order) };
        if splat {
            place.strides.fill(0);
        }
        Ok(place)
    }

    /// Adds a kernel's launch.
    pub fn launch(&mut self, kernel: Kernel, bases: Vec<StorageId>) {
        self.launch_at(kernel, bases.into_iter().map(|s| (s, 0)).collect());
    }

    /// Adds a kernel's launch with byte offsets on the base registers.
    pub fn launch_at(&mut self, kernel: Kernel, bases: Vec<(StorageId, u64)>) {
        let (kernel, _) = self.kernels.insert_full(kernel);
        self.launches.push(LaunchDraft { kernel, bases, macs: 0, origins: Vec::new() });
    }

    fn node(&mut self, node: Node) -> Lowered {
        let data = &self.func.nodes[node];
        let result = *data.results.first().ok_or(Refusal::Contradiction("a node without results".into()))?;
        if self.func.ty(result).shape.elements() == 0 {
            self.places[result] = Some(self.allocate(result));
            return Ok(());
        }
        match &data.op {
            Op::Const { .. } => Ok(()),
            // Whoever reads it widens it.
            Op::Dequantize { .. } | Op::Cast { .. } if self.func.blocked(result).is_some() => Ok(()),
            op if op.is_movement() && self.is_stored_quantised(result) => Ok(()),
            Op::Pad { .. } | Op::Window { .. } if self.is_pooled(result) => Ok(()),
            op if op.is_movement() => self.movement(node, result),
            Op::Contract { map, elem } if is_wide(*elem) && !self.is_over_nothing(node) => {
                self.dot(node, result, map, *elem)
            }
            Op::Select {} if self.update_row(node, result)? => Ok(()),
            op if op.is_elementwise() && self.fusion.cut[node].is_some() => self.map_parts(node, result),
            op if op.is_elementwise() || op.is_product() => {
                let (expr, hero) = self.expression(result)?;
                let order = self.result_order(&expr, hero);
                let mut sinks = self.sinks(result, order);
                match hero {
                    Some(hero) => match self.product(hero, &expr, &mut sinks) {
                        Err(refusal @ Refusal::Limit(_)) => {
                            self.product_apart(hero, &expr, &mut sinks, refusal)?;
                        }
                        emitted => emitted?,
                    },
                    None if sinks.grouped.is_empty() => {
                        self.map(kernel_name(&expr), &expr, &sinks.plain)?;
                    }
                    None => self.map_rows(&expr, &mut sinks)?,
                }
                self.take_places(result, sinks);
                Ok(())
            }
            Op::Iota { elem, shape, axis } => {
                let mut expr = Expr::new(shape.clone());
                expr.add(ExprNode::Iota(*axis as usize), *elem);
                let place = self.allocate(result);
                self.map("iota", &expr, &place)?;
                self.places[result] = Some(place);
                Ok(())
            }
            Op::BitCast { to } => {
                let from = self.place(data.args[0])?;
                let shape = self.func.ty(result).shape.clone();
                let (storage, format) = (from.storage, Format::Scalar(*to));
                let (stored, slot) = (self.storages[storage].format, self.storages[storage].slot);
                if stored.element().bits() != to.bits() {
                    return Err(Refusal::Contradiction(format!(
                        "{} is stored in {stored}, another width",
                        data.args[0]
                    )));
                }
                let place = self.allocate_in(result, Some(order_of(&from.strides)));
                // For this one kernel the operand's bytes are of the result's type.
                (self.storages[storage].format, self.storages[storage].slot) = (format, format);
                let copied = self.copy(&shape, *to, from, &place);
                (self.storages[storage].format, self.storages[storage].slot) = (stored, slot);
                self.places[result] = Some(place);
                copied
            }
            Op::Pad { .. } => self.pad(node),
            Op::Concat { axis } => {
                let place = self.allocate(result);
                let parts = data.args.iter().map(|&arg| self.operand_expression(arg));
                let parts = parts.collect::<Lowered<Vec<Expr>>>()?;
                self.store_parts(usize::from(*axis), &parts, &place)?;
                self.places[result] = Some(place);
                Ok(())
            }
            Op::Gather { axis, batch } => {
                self.gather(result, data.args[0], data.args[1], *axis as usize, *batch as usize)
            }
            Op::Reduce { op, axes } => match self.pooling(node) {
                Some(pooling) => self.pool(result, *op, pooling),
                None => self.reduce(result, data.args[0], *op, axes),
            },
            Op::ArgReduce { max, axis, last } => self.arg_reduce(result, data.args[0], *max, *axis, *last),
            Op::Sort { k, descending } => self.sort(result, data.args[0], *k, *descending),
            Op::Scatter { combine } => {
                self.scatter(result, [data.args[0], data.args[1], data.args[2]], *combine)
            }
            Op::Cumulate { op, axis, exclusive, reverse } => {
                self.cumulate(result, data.args[0], *op, *axis, (*exclusive, *reverse))
            }
            Op::Softmax { axis, log } => self.softmax(result, data.args[0], *axis, *log),
            Op::Norm { axes, centre, eps } => self.norm(node, result, axes, *centre, eps.0),
            // The kernel of the operand may have quantised it already.
            Op::MxQuantize { .. } if self.places[result].is_some() => Ok(()),
            Op::Attention { .. } => self.attention(node, result),
            Op::MxQuantize { mode, .. } => self.quantize(result, data.args[0], *mode),
            Op::MxDecode { .. } => Err(Refusal::Unimplemented(
                "decoding a grouped value outside a product is not implemented".into(),
            )),
            Op::Call { .. } => {
                Err(Refusal::Unimplemented("calls must be inlined before code generation".into()))
            }
            op => Err(Refusal::Unimplemented(format!("`{}` is not implemented", op.name()))),
        }
    }

    /// Emits a padding.
    pub(crate) fn pad(&mut self, node: Node) -> Lowered {
        let data = &self.func.nodes[node];
        let Op::Pad { low, .. } = &data.op else {
            return Err(Refusal::Contradiction("a padding of something else".into()));
        };
        let (result, x, value) = (data.results[0], data.args[0], data.args[1]);
        let fill = match self.fill_of(value)? {
            Some(fill) if self.func.ty(x).shape.elements() > 0 => fill,
            _ => return self.pad_by_value(result, x, value, low),
        };
        let from = self.place(x)?;
        let ty = self.func.ty(result).clone();
        let shape = &self.func.ty(x).shape;
        let elem = ty.elem.scalar().ok_or(Refusal::Grouped("padding a grouped value".into()))?;
        let order = order_of(&from.strides);
        let pad = Some((low.iter().map(|&l| -(l as i64)).collect(), shape.0.clone(), fill));
        let mut expr = Expr::new(ty.shape.clone());
        expr.leaf(Leaf { place: from, elem, pad });
        let place = self.allocate_in(result, Some(order));
        self.map("pad", &expr, &place)?;
        self.places[result] = Some(place);
        Ok(())
    }

    /// Gives a relabelled value its place, or copies where no strides can express it.
    pub(crate) fn movement(&mut self, node: Node, result: Value) -> Lowered {
        let data = &self.func.nodes[node];
        let x = data.args[0];
        let from = self.place(x)?;
        let shape = self.func.ty(x).shape.clone();
        let strides = match &data.op {
            Op::Permute { perm } => perm.iter().map(|&p| from.strides[p as usize]).collect(),
            Op::Broadcast { dims, shape: to } => {
                let mut strides = vec![0; to.rank()];
                for (i, &d) in dims.iter().enumerate() {
                    strides[d as usize] = if shape[i] == 1 { 0 } else { from.strides[i] };
                }
                strides
            }
            Op::Slice { starts, steps, .. } => {
                let offset =
                    from.offset + starts.iter().zip(&from.strides).map(|(&s, &d)| s * d).sum::<i64>();
                let strides = steps.iter().zip(&from.strides).map(|(&s, &d)| s * d).collect();
                self.places[result] = Some(Place { storage: from.storage, offset, strides });
                return Ok(());
            }
            Op::Window { axes, strides, dilations, .. } => {
                let mut all = from.strides.clone();
                for (i, &a) in axes.iter().enumerate() {
                    all.push(from.strides[a as usize] * dilations[i] as i64);
                    all[a as usize] *= strides[i] as i64;
                }
                all
            }
            Op::Reshape { shape: to } => match reshape_strides(&shape, &from.strides, to) {
                Some(strides) => strides,
                None => {
                    let (expr, _) = self.copy_of(x)?;
                    let storage = self.storages.push(Storage::dense(
                        StorageKind::Temp,
                        self.func.ty(x).elem.format(),
                        shape.elements(),
                    ));
                    let dense = self.row_major(x, storage);
                    self.map("copy", &expr, &dense)?;
                    self.places[result] = Some(self.row_major(result, storage));
                    return Ok(());
                }
            },
            op => return Err(Refusal::Unimplemented(format!("`{}` is not a movement", op.name()))),
        };
        self.places[result] = Some(Place { storage: from.storage, offset: from.offset, strides });
        Ok(())
    }

    fn copy_to_output(&mut self, result: Value, i: usize) -> Lowered {
        let (expr, _) = self.copy_of(result)?;
        let storage = self.storages.push(Storage::dense(
            StorageKind::Output(i),
            self.func.ty(result).elem.format(),
            expr.shape.elements(),
        ));
        let place = self.row_major(result, storage);
        if expr.shape.elements() == 0 {
            return Ok(());
        }
        self.map("copy", &expr, &place)
    }

    /// Copies an output from its storage to the place of parameter number `param`, of the same type.
    pub(crate) fn store_state(&mut self, output: StorageId, param: usize) -> Lowered {
        let param = self.func.params[param];
        let ty = self.func.ty(param).clone();
        let elem = ty.elem.scalar().ok_or(Refusal::Grouped("a grouped state".into()))?;
        let (from, to) = (self.row_major(param, output), self.place(param)?);
        if ty.shape.elements() == 0 {
            return Ok(());
        }
        self.copy(&ty.shape, elem, from, &to)
    }

    /// Whether a value is stored where a result of the entry lies.
    pub fn is_output(&self, value: Value) -> bool {
        self.outputs[value].is_some()
    }

    /// Whether it is stored there in row-major order.
    pub fn is_row_major_output(&self, value: Value) -> bool {
        let order: Vec<usize> = (0..self.func.ty(value).shape.rank()).collect();
        let row_major = strides_in_order(&self.func.ty(value).shape, &order);
        self.outputs[value].as_ref().is_some_and(|(_, strides)| *strides == row_major)
    }

    /// What the fabric interface fills with for a value, if it can.
    pub(crate) fn fill_of(&self, value: Value) -> Lowered<Option<Fill>> {
        let elem =
            self.func.ty(value).elem.scalar().ok_or(Refusal::Grouped("a grouped fill value".into()))?;
        let Some(code) = self.scalar_const(value) else { return Ok(None) };
        let value = elem.decode(code);
        let lowest = if elem.is_float() { elem.encode(f64::NEG_INFINITY) } else { elem.encode(f64::MIN) };
        let highest = if elem.is_float() { elem.encode(f64::INFINITY) } else { elem.encode(f64::MAX) };
        Ok(if code == 0 {
            Some(Fill::Zero)
        } else if code == lowest {
            Some(Fill::Least)
        } else if code == highest {
            Some(Fill::Greatest)
        } else if value == 1.0 {
            Some(Fill::One)
        } else {
            None
        })
    }

    /// Places for a kernel's result and for those quantised copies whose elements lie in the same order.
    pub fn sinks(&mut self, result: Value, order: Option<Vec<usize>>) -> Sinks {
        let grouping = self.quantised.grouping(self.func, result);
        let order = match grouping {
            None => order,
            Some((_, axis)) => {
                let mut order = self.preferred[result]
                    .clone()
                    .or(order)
                    .unwrap_or_else(|| (0..self.func.ty(result).shape.rank()).collect());
                order.retain(|&d| d != axis);
                order.push(axis);
                self.preferred[result] = Some(order.clone());
                Some(order)
            }
        };
        let mut sinks = Sinks::plain(self.allocate_in(result, order.clone()));
        let Some((_, axis)) = grouping else { return sinks };
        sinks.keeps_plain = self.quantised.is_read[result];
        for value in self.quantised.copies[result].clone() {
            let same_axis = match self.func.ty(value).elem {
                ElemType::Grouped { format, axis: other } if usize::from(other) == axis => Some(format),
                ElemType::Grouped { .. } | ElemType::Scalar(_) => None,
            };
            let mode = self.func.def(value).and_then(|n| match self.func.nodes[n].op {
                Op::MxQuantize { mode, .. } => Some(mode),
                _ => None,
            });
            let whole =
                |format: GroupFormat| self.func.ty(result).shape[axis].is_multiple_of(u64::from(format.size));
            if let (Some(format), Some(mode)) = (same_axis.filter(|f| whole(*f)), mode) {
                let place = self.allocate_in(value, order.clone());
                sinks.grouped.push(GroupedSink { value, place, format, mode, axis });
            } else {
                sinks.keeps_plain = true;
            }
        }
        let strides = sinks.plain.strides.clone();
        sinks.retain(|g| g.place.strides == strides);
        sinks
    }

    /// The quantised copy in whose place a value can lie that is computed at `plain` in rows of whole groups: nobody else reads
    /// it, and it does so through views that keep the order of elements.
    pub fn quantised_behind_views(&mut self, value: Value, plain: &Place) -> Option<GroupedSink> {
        let path = self.quantised.behind_views(self.func, value)?;
        let (&last, views) = path.split_last()?;
        let (mut shape, mut strides) = (self.func.ty(value).shape.clone(), plain.strides.clone());
        for &view in views {
            let to = &self.func.ty(self.func.nodes[view].results[0]).shape;
            strides = match &self.func.nodes[view].op {
                Op::Permute { perm } => perm.iter().map(|&p| strides[usize::from(p)]).collect(),
                _ => reshape_strides(&shape, &strides, to)?,
            };
            shape = to.clone();
        }
        let Op::MxQuantize { format, axis, mode } = self.func.nodes[last].op else { return None };
        let quantised = self.func.nodes[last].results[0];
        let size = i64::from(format.size);
        let row = self.func.ty(value).shape.len() - 1;
        let long = |d: &usize| self.func.ty(value).shape[*d] > 1;
        let whole = self.func.ty(value).elem == ElemType::Scalar(ScalarType::F32)
            && plain.offset == 0
            && plain.strides[row] == 1
            && strides[usize::from(axis)] == 1
            && self.func.ty(value).shape[row].is_multiple_of(size.unsigned_abs())
            && (0..row).filter(long).all(|d| plain.strides[d] % size == 0);
        if !whole {
            return None;
        }
        let place = self.allocate_in(quantised, Some(order_of(&strides)));
        let same = |d: usize| shape[d] == 1 || place.strides[d] == strides[d];
        (0..shape.len()).all(same).then_some(GroupedSink { value: quantised, place, format, mode, axis: row })
    }

    /// Whether all that is read of a value is its quantised copy, which has been stored.
    fn is_stored_quantised(&self, value: Value) -> bool {
        let last = self.quantised.behind_views(self.func, value).and_then(|path| path.last().copied());
        last.is_some_and(|last| self.places[self.func.nodes[last].results[0]].is_some())
    }

    /// Remembers where a kernel stored its result.
    pub fn take_places(&mut self, result: Value, sinks: Sinks) {
        if sinks.keeps_plain {
            self.places[result] = Some(sinks.plain);
        }
        for sink in sinks.grouped {
            self.places[sink.value] = Some(sink.place);
        }
    }
}

/// The scalar type behind a format, for formats that are not grouped.
pub fn scalar_of(format: Format) -> Lowered<ScalarType> {
    match format {
        Format::Scalar(s) => Ok(s),
        Format::Grouped(g) => Err(Refusal::Grouped(format!("{g} where a scalar format is needed"))),
    }
}

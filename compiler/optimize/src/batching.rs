//! Products with picked matrices, batched by matrix.
//!
//! Where every token picks matrices of its own (experts), a product that loads a matrix for each index loads most of them many
//! times. With many indices the rows that meet the same matrix are put together: in tiles of `m` rows, each with one matrix. The rows of a
//! matrix fill one tile after the other; at most the last one is not full.
//!
//! ```text
//! index     2 0 2 1 2          tile   0   1   2   3
//! rank      0 0 1 0 2          matrix 0   1   2   2        (m = 2)
//! place     4 0 5 2 6          rows   1 - 3 - 0 2 4 -
//! ```
//!
//! What is computed element by element of a result stays in tiles for the next product; what stands in places that no row has is
//! never read. Every element of the result is the same sum as before, so its bits stay. An index out of range has a place out of range, and
//! still traps.

use indexmap::IndexMap;
use lacuna_ir::op::{BinaryOp, CompareOp, ContractMap, Dims, ReduceOp};
use lacuna_ir::{
    Constant, ConstantData, Function, Module, NodeData, Op, OriginId, Picked, Shape, TensorType, Value,
};
use lacuna_isa::format::ScalarType;

use crate::emit::Emitter;
use crate::error::{Broken, Error};
use crate::module::functions;

/// Elements of matrices that must be saved before it pays: finding the tiles takes about ten small kernels.
const WORTHWHILE: u64 = 1 << 25;
/// Rows of a tile that cost no more than its matrix does: about as many as a target multiplies by an element while it loads the next.
const FREE_ROWS: u64 = 64;
/// Most comparisons of places with places: who stands where is looked up in a table.
const MOST_COMPARISONS: u64 = 1 << 31;

/// Batches the products of a module where that saves loads of matrices.
///
/// # Errors
/// When a node cannot be made, never for a verified module.
pub fn batch(module: &mut Module) -> Result<(), Error> {
    for func in functions(module) {
        let source = module.functions[func].clone();
        if !source.nodes.values().any(|node| Plan::of(&source, node).is_some()) {
            continue;
        }
        let batched = Batcher::new(module, &source).all();
        let broken = |message| Error::Contradiction { function: source.name.clone(), message };
        module.functions[func] = batched.map_err(broken)?;
    }
    Ok(())
}

/// A product to batch.
struct Plan {
    picked: Picked,
    /// Matrices of the table.
    matrices: u64,
    /// Indices.
    indices: u64,
    /// Rows of a tile, and tiles.
    rows: u64,
    tiles: u64,
    /// The other operand's labels: those of leading dimensions of the indices, in their order, then those that are summed.
    row_labels: Dims,
    summed: Dims,
    /// Labels of the indices, in their order.
    index_labels: Dims,
}

impl Plan {
    fn of(func: &Function, node: &NodeData) -> Option<Plan> {
        let picked = func.picked(node)?;
        let Op::Contract { map, .. } = &node.op else { return None };
        let (labels, other) = if picked.operand == 0 { (&map.a, &map.b) } else { (&map.b, &map.a) };
        let index_labels: Dims = labels[picked.axis..picked.axis + picked.n_dims].to_vec();
        let summed: Dims = other.iter().copied().filter(|l| !map.out.contains(l)).collect();
        let row_labels: Dims = index_labels.iter().copied().filter(|l| other.contains(l)).collect();
        let known = row_labels.len() + summed.len() == other.len();
        if !known || !index_labels.starts_with(&row_labels) {
            return None;
        }
        let indices = func.ty(picked.indices).shape.elements();
        let table = &func.ty(picked.table).shape;
        let matrices = table[picked.axis];
        let rows = FREE_ROWS.min(indices.max(1).next_power_of_two());
        // Every matrix that is picked may have a tile with one row.
        let tiles = (indices + matrices.min(indices) * (rows - 1)) / rows;
        let saved = indices.saturating_sub(tiles).saturating_mul(table.elements() / matrices.max(1));
        let comparisons = (rows * tiles).saturating_mul(indices);
        let plan = Plan { picked, matrices, indices, rows, tiles, row_labels, summed, index_labels };
        (saved >= WORTHWHILE && comparisons <= MOST_COMPARISONS).then_some(plan)
    }
}

/// Where the rows of tiles come from, and where they go.
#[derive(Clone, Copy)]
struct Places {
    /// `[tiles]`: the matrix of each tile.
    matrix: Value,
    /// `[tiles * rows]`: the index, by its number, whose row stands there; 0 where none does.
    source: Value,
    /// `[indices]`: where the row of each index stands.
    place: Value,
}

/// What places follow from: indices, matrices, and rows of a tile.
type Key = (Value, u64, u64);

/// A value with a row for each index, with its rows in their places: `[places, rest]`.
#[derive(Clone)]
struct Tiled {
    key: Key,
    /// Indices.
    indices: u64,
    value: Value,
    rest: Vec<u64>,
}

impl Tiled {
    /// Whether a shape is that of the rows in the order of their indices.
    fn is_of(&self, shape: &[u64]) -> bool {
        let leading = shape.strip_suffix(&self.rest[..]);
        leading.is_some_and(|leading| leading.iter().product::<u64>() == self.indices)
    }
}

/// A function on its way to batched products.
struct Batcher<'a> {
    module: &'a mut Module,
    source: &'a Function,
    out: Emitter,
    values: IndexMap<Value, Value>,
    places: IndexMap<Key, Places>,
    /// Values of the source as they stand in tiles.
    tiled: IndexMap<Value, Tiled>,
    origins: Vec<OriginId>,
}

impl<'a> Batcher<'a> {
    fn new(module: &'a mut Module, source: &'a Function) -> Batcher<'a> {
        let out = Emitter::new(source);
        let values = source.params.iter().copied().zip(out.params.clone()).collect();
        Batcher {
            module,
            source,
            out,
            values,
            places: IndexMap::new(),
            tiled: IndexMap::new(),
            origins: Vec::new(),
        }
    }

    fn all(mut self) -> Result<Function, Broken> {
        let source = self.source;
        for node in source.nodes.values() {
            self.origins.clone_from(&node.origins);
            let args =
                node.args.iter().map(|&arg| self.known(arg)).collect::<Result<Vec<Value>, Broken>>()?;
            let results = match Plan::of(source, node) {
                Some(plan) => vec![self.product(node, &plan)?],
                None => {
                    self.follow(node)?;
                    self.out.emit_all(self.module, node.op.clone(), &args, &node.origins)?
                }
            };
            for (&old, new) in node.results.iter().zip(results) {
                self.out.name(new, &source.values[old].name);
                self.values.insert(old, new);
            }
        }
        let results =
            source.results.iter().map(|&v| self.known(v)).collect::<Result<Vec<Value>, Broken>>()?;
        let mut func = self.out.finish();
        func.results = results;
        lacuna_ir::dead::dead_nodes(&mut func);
        Ok(func)
    }

    fn known(&self, value: Value) -> Result<Value, Broken> {
        let missing = || Broken::Missing(format!("{value} is used before its definition"));
        self.values.get(&value).copied().ok_or_else(missing)
    }

    /// Keeps what a node makes of rows in tiles there too: the next product may take them as they stand.
    fn follow(&mut self, node: &NodeData) -> Result<(), Broken> {
        let (&[result], Some(first)) = (&node.results[..], node.args.iter().find_map(|a| self.tiled.get(a)))
        else {
            return Ok(());
        };
        let (first, ty) = (first.clone(), self.source.ty(result).clone());
        let n_places = self.out.func().ty(first.value).shape[0];
        let (value, rest) = match &node.op {
            Op::Reshape { .. } if first.is_of(&ty.shape) => (first.value, first.rest.clone()),
            Op::Slice { starts, steps, .. } => {
                let from = &self.source.ty(node.args[0]).shape;
                let leading = from.rank() - first.rest.len();
                if from[..leading] != ty.shape[..leading] || steps[..leading].iter().any(|&s| s != 1) {
                    return Ok(());
                }
                let rest = ty.shape[leading..].to_vec();
                let starts = [&[0], &starts[leading..]].concat();
                let steps = [&[1], &steps[leading..]].concat();
                let shape = Shape([&[n_places], &rest[..]].concat());
                (self.emit(Op::Slice { starts, shape, steps }, &[first.value])?, rest)
            }
            op if op.is_elementwise() => {
                let shape = [&[n_places], &first.rest[..]].concat();
                let mut args = Vec::new();
                for &arg in &node.args {
                    match (self.tiled.get(&arg), self.splat(arg)) {
                        (Some(tiled), _) if tiled.key == first.key && tiled.rest == first.rest => {
                            args.push(tiled.value);
                        }
                        (None, Some((elem, code))) => {
                            let ty = TensorType::new(elem, Shape(shape.clone()));
                            args.push(self.constant(Constant::new(ty, ConstantData::Splat(code), ""))?);
                        }
                        _ => return Ok(()),
                    }
                }
                (self.emit(op.clone(), &args)?, first.rest.clone())
            }
            _ => return Ok(()),
        };
        self.tiled.insert(result, Tiled { value, rest, ..first });
        Ok(())
    }

    /// The bits of all elements of a value that repeats one.
    fn splat(&self, value: Value) -> Option<(ScalarType, u64)> {
        let data = &self.source.nodes[self.source.def(value)?];
        match data.op {
            Op::Broadcast { .. } | Op::Reshape { .. } => self.splat(data.args[0]),
            Op::Const { value } => match self.module.constants[value].data {
                ConstantData::Splat(code) => Some((self.module.constants[value].ty.elem.scalar()?, code)),
                ConstantData::Dense(_) => None,
            },
            _ => None,
        }
    }

    /// The rows of the other operand in tiles, `[tiles, rows, summed]`.
    fn rows(&mut self, plan: &Plan, other: (Value, &Dims), places: Places) -> Result<Value, Broken> {
        let (source, labels) = other;
        let shape =
            |summed: &[u64]| Op::Reshape { shape: Shape([&[plan.tiles, plan.rows], summed].concat()) };
        let in_order: Dims = plan.index_labels.iter().chain(&plan.summed).copied().collect();
        if let Some(tiled) = self.tiled.get(&source)
            && tiled.key == self.key(plan)
            && in_order == *labels
            && tiled.rest.len() == plan.summed.len()
        {
            let tiled = tiled.clone();
            return self.emit(shape(&tiled.rest), &[tiled.value]);
        }
        let x = self.known(source)?;
        let position = |l: &u8| labels.iter().position(|o| o == l).unwrap_or(0) as u8;
        let perm: Dims = plan.row_labels.iter().chain(&plan.summed).map(position).collect();
        let x = self.emit(Op::Permute { perm }, &[x])?;
        let from = self.out.func().ty(x).shape.clone();
        let (leading, summed) = from.split_at(plan.row_labels.len());
        let n_rows: u64 = leading.iter().product();
        let x = self.emit(Op::Reshape { shape: Shape([&[n_rows], summed].concat()) }, &[x])?;
        // The first of the indices' dimensions say which row it is.
        let each = self.i32s(&[plan.tiles * plan.rows], (plan.indices / n_rows.max(1)) as i32)?;
        let row = self.emit(Op::Binary { op: BinaryOp::Div }, &[places.source, each])?;
        let x = self.emit(Op::Gather { axis: 0, batch: 0 }, &[x, row])?;
        self.emit(shape(summed), &[x])
    }

    /// The product of tiles with their matrices, each row back in its place.
    fn product(&mut self, node: &NodeData, plan: &Plan) -> Result<Value, Broken> {
        let Op::Contract { map, elem } = &node.op else {
            return Err(Broken::Form("only contractions are batched".into()));
        };
        let picked = &plan.picked;
        let places = self.places(plan)?;
        let (labels, other) = if picked.operand == 0 { (&map.a, &map.b) } else { (&map.b, &map.a) };
        let gather = |axis: usize| Op::Gather { axis: axis as u8, batch: 0 };

        let x = self.rows(plan, (node.args[1 - picked.operand], other), places)?;
        let table = self.known(picked.table)?;
        let w = self.emit(gather(picked.axis), &[table, places.matrix])?;
        let free = (0..26).filter(|l| !labels.contains(l) && !other.contains(l)).take(2).collect::<Dims>();
        let &[tile, row] = &free[..] else { return Err(Broken::Form("no label is free".into())) };
        let w_labels: Dims = (labels[..picked.axis].iter().copied().chain([tile]))
            .chain(labels[picked.axis + picked.n_dims..].iter().copied())
            .collect();
        let x_labels: Dims = [tile, row].into_iter().chain(plan.summed.iter().copied()).collect();
        let columns: Dims = (map.out.iter().copied()).filter(|l| !plan.index_labels.contains(l)).collect();
        let out: Dims = [tile, row].into_iter().chain(columns.iter().copied()).collect();
        let (map_of, operands) = match picked.operand {
            0 => (ContractMap { a: w_labels, b: x_labels, out }, [w, x]),
            _ => (ContractMap { a: x_labels, b: w_labels, out }, [x, w]),
        };
        let y = self.emit(Op::Contract { map: map_of, elem: *elem }, &operands)?;

        // [places, columns], then [indices, columns] in the result's order.
        let rest = self.out.func().ty(y).shape[2..].to_vec();
        let with = |first: &[u64]| Op::Reshape { shape: Shape([first, &rest].concat()) };
        let y = self.emit(with(&[plan.tiles * plan.rows]), &[y])?;
        let all: Dims = plan.index_labels.iter().chain(&columns).copied().collect();
        if all == map.out {
            let (key, indices) = (self.key(plan), plan.indices);
            self.tiled.insert(node.results[0], Tiled { key, indices, value: y, rest: rest.clone() });
        }
        let y = self.emit(gather(0), &[y, places.place])?;
        let y = self.emit(with(&self.source.ty(picked.indices).shape), &[y])?;
        let at = |l: &u8| all.iter().position(|a| a == l).unwrap_or(0) as u8;
        self.emit(Op::Permute { perm: map.out.iter().map(at).collect() }, &[y])
    }

    fn key(&self, plan: &Plan) -> Key {
        (self.behind_reshapes(plan.picked.indices), plan.matrices, plan.rows)
    }

    /// The places of the indices of a product; products with the same indices share them.
    fn places(&mut self, plan: &Plan) -> Result<Places, Broken> {
        let key = self.key(plan);
        if let Some(&known) = self.places.get(&key) {
            return Ok(known);
        }
        let (n, matrices) = (plan.indices, plan.matrices);
        let indices = self.known(plan.picked.indices)?;
        let elem = self.source.ty(plan.picked.indices).elem.scalar();
        let elem = elem.ok_or_else(|| Broken::Form("indices are grouped".into()))?;
        let indices = self.emit(Op::Reshape { shape: Shape(vec![n]) }, &[indices])?;

        // Which matrix each index picks, and how many picked it before.
        let each = [n, matrices];
        let wide = self.along(indices, 0, &each)?;
        let number = self.numbers(elem, 1, &each)?;
        let hit = self.emit(Op::Compare { op: CompareOp::Eq }, &[wide, number])?;
        let hit = self.emit(Op::Cast { to: ScalarType::I32, saturate: true }, &[hit])?;
        let running = Op::Cumulate { op: ReduceOp::Sum, axis: 0, exclusive: true, reverse: false };
        let before = self.emit(running, &[hit])?;
        let rank = self.sum_where(hit, before)?;
        let valid = self.reduce(ReduceOp::Sum, 1, hit)?;

        // The tiles of each matrix.
        let count = self.reduce(ReduceOp::Sum, 0, hit)?;
        let (rows, last) = (plan.rows as i32, self.i32s(&[matrices], plan.rows as i32 - 1)?);
        let filled = self.emit(Op::Binary { op: BinaryOp::Add }, &[count, last])?;
        let rows_of_tile = self.i32s(&[matrices], rows)?;
        let tiles = self.emit(Op::Binary { op: BinaryOp::Div }, &[filled, rows_of_tile])?;
        let running = Op::Cumulate { op: ReduceOp::Sum, axis: 0, exclusive: false, reverse: false };
        let end = self.emit(running, &[tiles])?;
        let first = self.emit(Op::Binary { op: BinaryOp::Sub }, &[end, tiles])?;
        let first = self.emit(Op::Binary { op: BinaryOp::Mul }, &[first, rows_of_tile])?;
        let first = self.along(first, 1, &each)?;
        let start = self.sum_where(hit, first)?;
        let place = self.emit(Op::Binary { op: BinaryOp::Add }, &[start, rank])?;
        // An index that is no matrix's has a negative place.
        let one = self.i32s(&[n], 1)?;
        let valid = self.emit(Op::Binary { op: BinaryOp::Sub }, &[valid, one])?;
        let far = self.i32s(&[n], i32::MAX)?;
        let valid = self.emit(Op::Binary { op: BinaryOp::Mul }, &[valid, far])?;
        let place = self.emit(Op::Binary { op: BinaryOp::Add }, &[place, valid])?;

        let matrix = self.matrices(plan, end)?;
        let source = self.sources(plan, place)?;
        let places = Places { matrix, source, place };
        self.places.insert(key, places);
        Ok(places)
    }

    /// What a value of the source is under another shape.
    fn behind_reshapes(&self, mut value: Value) -> Value {
        while let Some(data) = self.source.def(value).map(|node| &self.source.nodes[node])
            && let Op::Reshape { .. } = data.op
        {
            value = data.args[0];
        }
        value
    }

    /// The matrix of each tile: as many matrices end before it. Tiles that nobody needs have the last one.
    fn matrices(&mut self, plan: &Plan, end: Value) -> Result<Value, Broken> {
        let each = [plan.tiles, plan.matrices];
        let end = self.along(end, 1, &each)?;
        let i32s = ScalarType::I32;
        let number = self.numbers(i32s, 0, &each)?;
        let ended = self.emit(Op::Compare { op: CompareOp::Le }, &[end, number])?;
        let ended = self.emit(Op::Cast { to: i32s, saturate: true }, &[ended])?;
        let matrix = self.reduce(ReduceOp::Sum, 1, ended)?;
        let last = self.i32s(&[plan.tiles], plan.matrices as i32 - 1)?;
        self.emit(Op::Binary { op: BinaryOp::Min }, &[matrix, last])
    }

    /// The index whose row stands at each place.
    fn sources(&mut self, plan: &Plan, place: Value) -> Result<Value, Broken> {
        let each = [plan.tiles * plan.rows, plan.indices];
        let place = self.along(place, 1, &each)?;
        let at = self.numbers(ScalarType::I32, 0, &each)?;
        let index = self.numbers(ScalarType::I32, 1, &each)?;
        let here = self.emit(Op::Compare { op: CompareOp::Eq }, &[place, at])?;
        let none = self.i32s(&each, 0)?;
        let index = self.emit(Op::Select {}, &[here, index, none])?;
        self.reduce(ReduceOp::Max, 1, index)
    }

    fn emit(&mut self, op: Op, args: &[Value]) -> Result<Value, Broken> {
        Ok(self.out.emit_all(self.module, op, args, &self.origins)?[0])
    }

    /// A vector repeated in `shape`, along whose dimension `dim` it lies.
    fn along(&mut self, x: Value, dim: u8, shape: &[u64]) -> Result<Value, Broken> {
        self.emit(Op::Broadcast { dims: vec![dim], shape: Shape(shape.to_vec()) }, &[x])
    }

    /// The coordinate along dimension `dim` of `shape`: of a vector, which stays small as a constant.
    fn numbers(&mut self, elem: ScalarType, dim: u8, shape: &[u64]) -> Result<Value, Broken> {
        let vector = Shape(vec![shape[usize::from(dim)]]);
        let numbers = self.emit(Op::Iota { elem, shape: vector, axis: 0 }, &[])?;
        self.along(numbers, dim, shape)
    }

    fn reduce(&mut self, op: ReduceOp, axis: u8, x: Value) -> Result<Value, Broken> {
        self.emit(Op::Reduce { op, axes: vec![axis] }, &[x])
    }

    /// For each index the sum of `x` over the matrices that it hits.
    fn sum_where(&mut self, hit: Value, x: Value) -> Result<Value, Broken> {
        let x = self.emit(Op::Binary { op: BinaryOp::Mul }, &[hit, x])?;
        self.reduce(ReduceOp::Sum, 1, x)
    }

    /// A constant that repeats a number.
    fn i32s(&mut self, shape: &[u64], value: i32) -> Result<Value, Broken> {
        let ty = TensorType::new(ScalarType::I32, Shape(shape.to_vec()));
        self.constant(Constant::new(ty, ConstantData::Splat(u64::from(value as u32)), ""))
    }

    fn constant(&mut self, constant: Constant) -> Result<Value, Broken> {
        let value = self.module.constants.push(constant);
        self.emit(Op::Const { value }, &[])
    }
}

#[cfg(test)]
mod tests {
    use lacuna_ir::eval::{Mode, Tensor, eval};
    use lacuna_ir::op::UnaryOp;
    use lacuna_ir::{Entry, FunctionBuilder};

    use super::*;

    const WIDTH: u64 = 448;

    /// Two layers of experts with something element by element between them, and the inputs: rows and indices.
    fn experts(pairs: [u64; 2]) -> (Module, Vec<Tensor>) {
        let mut module = Module::default();
        let mut b = FunctionBuilder::new(&mut module, "main");
        let floats = |shape: &[u64]| TensorType::new(ScalarType::F32, shape);
        let numbers = |n: u64, seed: u64| (0..n).map(move |i| ((i * 37 + seed) % 101) as f32 / 64.0 - 0.75);
        let x = b.param(floats(&[pairs[0], WIDTH]), "x");
        let indices = b.param(TensorType::new(ScalarType::I64, &pairs[..]), "indices");
        let table = [8, WIDTH, WIDTH];
        let mut y = x;
        for (layer, map) in ["tk,tjnk->tjn", "tjk,tjnk->tjn"].into_iter().enumerate() {
            let values: Vec<f32> = numbers(table.iter().product(), layer as u64).collect();
            let w = b.const_f32(&table[..], &values).expect("a table");
            let w = b.emit(Op::Gather { axis: 0, batch: 0 }, &[w, indices]).expect("a gather");
            let map = ContractMap::parse(map).expect("a map");
            y = b.emit(Op::Contract { map, elem: ScalarType::F32 }, &[y, w]).expect("a product");
            let sigmoid = b.unary(UnaryOp::Sigmoid, y).expect("a sigmoid");
            y = b.binary(BinaryOp::Mul, y, sigmoid).expect("a product");
        }
        b.results(&[y]);
        let func = b.id();
        let inputs = vec!["x".into(), "indices".into()];
        module.entries.push(Entry { name: "main".into(), func, inputs, outputs: vec!["y".into()] });
        let rows: Vec<f64> = numbers(pairs[0] * WIDTH, 7).map(f64::from).collect();
        let picked: Vec<f64> = (0..pairs[0] * pairs[1]).map(|i| ((i * i + 3 * i) % 7) as f64).collect();
        let x = Tensor::from_f64(ScalarType::F32, &[pairs[0], WIDTH][..], &rows).expect("rows");
        let indices = Tensor::from_f64(ScalarType::I64, &pairs[..], &picked).expect("indices");
        (module, vec![x, indices])
    }

    fn count(module: &Module, name: &str) -> usize {
        module.functions.values().flat_map(|f| f.nodes.values()).filter(|n| n.op.name() == name).count()
    }

    #[test]
    fn batched_products_have_the_same_bits() {
        let (module, inputs) = experts([96, 2]);
        let mut batched = module.clone();
        batch(&mut batched).expect("it is batched");
        // Both tables, the rows of the first product, and the result of the last.
        assert_eq!((count(&batched, "gather"), count(&batched, "cumulate")), (4, 2), "{batched}");
        let outputs = [&module, &batched].map(|module| {
            eval(module, module.entries[0].func, &inputs, Mode::Typed).expect("evaluates").remove(0)
        });
        assert_eq!(outputs[0], outputs[1]);
    }

    #[test]
    fn few_indices_are_left_alone() {
        let (module, _) = experts([8, 2]);
        let mut batched = module.clone();
        batch(&mut batched).expect("it is left");
        assert_eq!(batched.to_string(), module.to_string());
    }
}

//! From a contraction to its normal form.

use lacuna_ir::op::ContractMap;
use lacuna_ir::{Node, Picked, TensorType, Value};
use lacuna_isa::inst::Order;
use lacuna_isa::view::VIEW_DIMS;

use super::problem::{BlockFlags, Pick, Problem, ResultDim, Role, Second, SummedDim, Widen};
use super::problem_dims::{cut, form_fits, merge_summed, pad_to_blocks, roles, stored_terms, whole_groups};
use super::space::{SpaceDim, coalesce};
use super::sparse::Form;
use crate::expr::Expr;
use crate::lower::Lowering;
use crate::place::{PANEL, Place, order_of};
use crate::refusal::{Lowered, Refusal};

/// A contraction whose second operand is what is picked, or a constant, if it has one. Labels are those of `map`.
struct Contraction<'e> {
    map: ContractMap,
    expr: &'e Expr,
    out: &'e Place,
    form: Form,
    a: Place,
    a_ty: TensorType,
    b_ty: TensorType,
    picked: Option<Picked>,
    /// Where the indices lie that pick the second operand.
    indices: Option<Place>,
    /// The second operand, or the table that it is picked from.
    table: Value,
    table_ty: TensorType,
    /// Elements of the shortest run along a summed dimension that is whole groups.
    group: u64,
    /// Summed labels, and their sizes in whole groups.
    summed: Vec<u8>,
    sizes: Vec<u64>,
    /// Labels of the columns of one matrix of the second operand, and of its matrices: those of the batch, and columns that merge with no
    /// other.
    columns: Vec<u8>,
    leading: Vec<u8>,
}

impl Contraction<'_> {
    fn a_dim(&self, label: u8) -> Option<usize> {
        self.map.a.iter().position(|&l| l == label)
    }

    fn b_dim(&self, label: u8) -> Option<usize> {
        self.map.b.iter().position(|&l| l == label)
    }

    /// The dimension of the table, or of the second operand itself, that a label is.
    fn table_dim(&self, label: u8) -> Option<usize> {
        match &self.picked {
            Some(picked) => self.b_dim(label).and_then(|d| picked.table_dim(d)),
            None => self.b_dim(label),
        }
    }

    fn index_dim(&self, label: u8) -> Option<usize> {
        self.picked.as_ref()?.index_dim(self.b_dim(label)?)
    }

    /// Elements of the second operand along labels.
    fn extent(&self, labels: &[u8]) -> u64 {
        labels.iter().filter_map(|&l| self.b_dim(l)).map(|d| self.b_ty.shape[d]).product()
    }

    /// Elements of a matrix of the second operand in panels.
    fn matrix(&self) -> i64 {
        (self.extent(&self.columns) * self.sizes.iter().product::<u64>()) as i64
    }

    /// Whether a constant has panels: each of its matrices has some of its own, and a box of them fits a view.
    fn packs(&self, dims: &[ResultDim]) -> bool {
        let is_picked = self.picked.is_some();
        let moved = |d: &&ResultDim| {
            let moves = d.space.walks.last().is_some_and(|walk| walk.stride != 0);
            d.role == Role::Batch && moves && (d.apart || !is_picked)
        };
        let matrices = dims.iter().filter(moved).count() + usize::from(is_picked);
        // Besides, a box has panels, what is summed, and the columns of a panel.
        let fits = matrices + self.summed.len() + 2 <= VIEW_DIMS;
        matrices == 0 || (fits && self.extent(&self.columns).is_multiple_of(PANEL))
    }

    /// How the second operand, or its indices, moves along a label: as it lies, or else in panels, where columns merge freely and matrices
    /// lie one after the other.
    fn second_stride(&self, label: u8, b_place: Option<&Place>) -> i64 {
        if let (Some(d), Some(indices)) = (self.index_dim(label), &self.indices) {
            return indices.strides[d];
        }
        match (b_place, self.table_dim(label)) {
            (Some(place), Some(d)) => place.strides[d],
            (None, Some(_)) if self.leading.contains(&label) => {
                let inner = self.leading.iter().skip_while(|&&l| l != label).skip(1);
                self.extent(&inner.copied().collect::<Vec<u8>>()) as i64 * self.matrix()
            }
            _ => 0,
        }
    }

    /// Result dimensions by role, in the result's physical order.
    fn dims(&self, b_place: Option<&Place>) -> Vec<ResultDim> {
        let order = order_of(&self.out.strides);
        let dim = |d: usize| -> SpaceDim {
            let label = self.map.out[d];
            let a = self.a_dim(label).map_or(0, |d| self.a.strides[d]);
            Lowering::result_dim(self.expr, self.out, d, a, self.second_stride(label, b_place))
        };
        let by_role = |is: &dyn Fn(u8) -> bool| -> Vec<SpaceDim> {
            let dims = order.iter().filter(|&&d| is(self.map.out[d])).map(|&d| dim(d)).collect();
            coalesce(dims, self.expr.leaves.len() + 3)
        };
        let (in_a, in_b) = (|l| self.a_dim(l).is_some(), |l| self.b_dim(l).is_some());
        let is_batch = |l| in_b(l) && (in_a(l) || self.index_dim(l).is_some());
        let batch = by_role(&is_batch).into_iter().filter(|d| d.size > 1).collect();
        roles(batch, by_role(&|l| !in_b(l)), by_role(&|l| in_b(l) && !is_batch(l)))
    }

    /// The labels of the columns that merge, in order, behind those of size 1, which are part of every layout.
    fn merged(&self, dims: &[ResultDim]) -> Vec<u8> {
        let units = self.columns.iter().copied().filter(|&l| self.extent(&[l]) == 1);
        let last = dims.iter().rfind(|d| d.role == Role::Column);
        let merged = last.iter().flat_map(|d| &d.space.logical).map(|&d| self.map.out[d]);
        units.chain(merged).collect()
    }

    /// The dimensions of a constant's panels: matrices and columns, and summed ones.
    fn axes(&self, merged: &[u8]) -> [Vec<u8>; 2] {
        let dims = |labels: &[u8]| -> Vec<u8> {
            labels.iter().filter_map(|&l| self.table_dim(l)).map(|d| d as u8).collect()
        };
        let picked = self.picked.iter().map(|picked| picked.axis as u8);
        let columns = dims(&self.leading).into_iter().chain(dims(merged));
        [picked.chain(columns).collect(), dims(&self.summed)]
    }

    fn summed_dims(&self, b_strides: &[i64]) -> Vec<SummedDim> {
        let all = self.summed.iter().zip(&self.sizes).zip(b_strides);
        let dim = |((&label, &size), &b): ((&u8, &u64), &i64)| {
            let (stride, terms) = match self.a_dim(label) {
                Some(d) => (self.a.strides[d], self.a_ty.shape[d]),
                None => (0, 1),
            };
            let a_bound = stored_terms(&self.a_ty.elem, terms).min(size);
            SummedDim { size, a: stride, b, a_bound, b_bound: size, window: false }
        };
        all.map(dim).collect()
    }

    /// What picks the second operand.
    fn pick(&self, second: &Second) -> Option<Pick> {
        let (picked, indices) = (self.picked.as_ref()?, self.indices.as_ref()?);
        let stride = match second {
            Second::Panels(_) => self.extent(&self.leading) as i64 * self.matrix(),
            Second::Dense(place, _) => place.strides[picked.axis],
        };
        let bound = self.table_ty.shape[picked.axis];
        Some(Pick { storage: indices.storage, offset: indices.offset, stride, bound })
    }
}

/// The second operand as it lies, and what follows from that.
struct Laid {
    dims: Vec<ResultDim>,
    second: Second,
    /// Strides of the summed dimensions.
    strides: Vec<i64>,
    flags: Option<BlockFlags>,
    widen: Option<Widen>,
}

impl Lowering<'_> {
    /// The problem of a contraction.
    pub(super) fn contract_problem(
        &mut self,
        hero: Node,
        map: &ContractMap,
        expr: &Expr,
        out: &Place,
        form: Form,
    ) -> Lowered<Problem> {
        let mut contraction = self.contraction(hero, map, (expr, out), form)?;
        let Laid { dims, second, strides, flags, widen } = self.lay_second(&mut contraction)?;
        let mut summed = contraction.summed_dims(&strides);
        let step = pad_to_blocks(&mut summed, widen.as_ref());
        if widen.is_none() {
            merge_summed(&mut summed);
        }
        if summed.len() > 3 {
            return Err(Refusal::Limit("a product over more than three dimensions that do not merge".into()));
        }
        form_fits(form, &summed)?;
        let longest = (0..summed.len()).max_by_key(|&i| (summed[i].size, i)).unwrap_or(0);
        let chunk = if step > 1 { summed.len() - 1 } else { longest };
        Ok(Problem {
            dims,
            summed,
            pick: contraction.pick(&second),
            a: contraction.a,
            a_format: contraction.a_ty.elem.format(),
            b: second,
            b_format: contraction.b_ty.elem.format(),
            widen,
            form,
            flags,
            chunk: (chunk, cut(contraction.group, form).max(step)),
        })
    }

    fn contraction<'e>(
        &mut self,
        hero: Node,
        map: &ContractMap,
        (expr, out): (&'e Expr, &'e Place),
        form: Form,
    ) -> Lowered<Contraction<'e>> {
        let args = self.func.nodes[hero].args.clone();
        let (a, b, map) = if self.swaps(hero) {
            (args[1], args[0], ContractMap { a: map.b.clone(), b: map.a.clone(), out: map.out.clone() })
        } else {
            (args[0], args[1], map.clone())
        };
        let (a_ty, b_ty) = (self.func.ty(a).clone(), self.func.ty(b).clone());
        let a = self.operand_place(a)?;
        let picked = self.picked(hero);
        let indices = picked.as_ref().map(|picked| self.operand_place(picked.indices)).transpose()?;
        let table = picked.as_ref().map_or(b, |picked| picked.table);
        let group = whole_groups([&a_ty.elem, &b_ty.elem], form);
        let a_dim = |label: u8| map.a.iter().position(|&l| l == label);
        let mut summed = map.summed();
        summed.sort_by_key(|&l| std::cmp::Reverse(a_dim(l).map_or(0, |d| a.strides[d].unsigned_abs())));
        if group > 1 && summed.len() > 1 {
            return Err(Refusal::Unimplemented(
                "grouped or N:M operands with several summed dimensions are not implemented".into(),
            ));
        }
        let size = |&l: &u8| a_dim(l).map_or(1, |d| a_ty.shape[d]).next_multiple_of(group);
        let sizes = summed.iter().map(size).collect();
        let table_ty = self.func.ty(table).clone();
        let mut contraction = Contraction {
            expr,
            out,
            form,
            a,
            a_ty,
            b_ty,
            picked,
            indices,
            table,
            table_ty,
            group,
            summed,
            sizes,
            columns: map.columns(),
            leading: map.batch(),
            map,
        };
        let by_index = |labels: &[u8]| -> Vec<u8> {
            labels.iter().copied().filter(|&l| contraction.index_dim(l).is_none()).collect()
        };
        let (columns, leading) = (by_index(&contraction.columns), by_index(&contraction.leading));
        (contraction.columns, contraction.leading) = (columns, leading);
        Ok(contraction)
    }

    /// Lays the second operand out: a constant in panels, if its columns merge or a matrix for each that does not.
    fn lay_second(&mut self, c: &mut Contraction<'_>) -> Lowered<Laid> {
        let constant = self.func.as_const(c.table);
        let plain = c.picked.is_none() && c.leading.is_empty() && c.form == Form::Dense;
        let blocked = self.func.blocked(c.table).filter(|_| plain);
        if constant.is_some() || blocked.is_some() {
            let mut dims = c.dims(None);
            let mut merged = c.merged(&dims);
            if constant.is_some() && c.form == Form::Dense && merged.len() < c.columns.len() {
                let apart = c.columns.iter().copied().filter(|l| !merged.contains(l));
                c.leading.extend(apart.collect::<Vec<u8>>());
                c.columns.retain(|l| merged.contains(l));
                dims = c.dims(None);
                merged = c.merged(&dims);
            }
            let fits = merged.len() == c.columns.len() && c.packs(&dims);
            let axes = c.axes(&merged);
            let n: u64 = axes[0].iter().map(|&d| c.table_ty.shape[usize::from(d)]).product();
            if let Some(blocked) = blocked.filter(|_| fits)
                && let Some((second, strides, widen)) = self.code_panels(&blocked, axes.clone(), n)?
            {
                return Ok(Laid { dims, second, strides, flags: None, widen: Some(widen) });
            }
            if let Some(id) = constant.filter(|_| fits) {
                let (second, strides, flags) =
                    self.panels(id, axes, c.b_ty.elem.format(), n, &c.sizes, c.form)?;
                return Ok(Laid { dims, second, strides, flags, widen: None });
            }
        }
        if c.form != Form::Dense || (constant.is_some() && c.b_ty.elem.scalar().is_none()) {
            return Err(Refusal::Unimplemented(
                "packed weights whose columns do not merge are not implemented".into(),
            ));
        }
        let place = self.operand_place(c.table)?;
        let strides: Vec<i64> =
            c.summed.iter().map(|&l| c.table_dim(l).map_or(0, |d| place.strides[d])).collect();
        let dims = c.dims(Some(&place));
        let column = dims.iter().rfind(|d| d.role == Role::Column);
        let column = column.and_then(|d| d.space.walks.last()).map_or(0, |w| w.stride);
        let k_step = strides.last().copied().unwrap_or(0);
        let order = if k_step == 1 && column != 1 { Order::Nk } else { Order::Kn };
        let order = if c.b_ty.elem.scalar().is_none() { Order::Nk } else { order };
        Ok(Laid { dims, second: Second::Dense(place, order), strides, flags: None, widen: None })
    }
}

//! From a contraction or a convolution to its normal form.

use lacuna_ir::op::{ContractMap, ConvAttrs};
use lacuna_ir::{ConstId, Node, Op, Value};
use lacuna_isa::format::{Format, ScalarType};
use lacuna_isa::inst::Order;
use lacuna_isa::timing::flag_elements;

use super::problem::{BlockFlags, Problem, ResultDim, Role, Second, SummedDim, Window};
use super::problem_dims::{
    cut, form_fits, merge_summed, pad_to_blocks, roles, split_groups, stored_terms, whole_groups,
};
use super::space::{SpaceDim, Walk, coalesce};
use crate::expr::Expr;
use crate::lower::Lowering;
use crate::place::{PANEL, Packing, Panels, Place, Storage, StorageKind, order_of};
use crate::refusal::{Lowered, Refusal};
use crate::weights;
use crate::zeros::Form;

impl Lowering<'_> {
    /// Walks of the result and of the epilogue's loads along logical dimension `d` of the result, then of both operands.
    fn result_dim(expr: &Expr, out: &Place, d: usize, a: i64, b: i64) -> SpaceDim {
        let size = expr.shape[d];
        let mut walks = vec![Walk { stride: out.strides[d], origin: 0, bound: size }];
        walks.extend(expr.leaves.iter().map(|l| Walk { stride: l.place.strides[d], origin: 0, bound: size }));
        walks.extend([a, b].map(|stride| Walk { stride, origin: 0, bound: size }));
        SpaceDim { size, walks, logical: vec![d], apart: false }
    }

    /// The problem of a contraction.
    pub(super) fn contract_problem(
        &mut self,
        hero: Node,
        map: &ContractMap,
        expr: &Expr,
        out: &Place,
        form: Form,
    ) -> Lowered<Problem> {
        let args = self.func.nodes[hero].args.clone();
        let swap = self.swaps(&args);
        let (a, b, map) = if swap {
            (args[1], args[0], ContractMap { a: map.b.clone(), b: map.a.clone(), out: map.out.clone() })
        } else {
            (args[0], args[1], map.clone())
        };
        let a_place = self.operand_place(a)?;
        let a_ty = self.func.ty(a).clone();
        let b_ty = self.func.ty(b).clone();
        let a_dim = |label: u8| map.a.iter().position(|&l| l == label);
        let b_dim = |label: u8| map.b.iter().position(|&l| l == label);
        let columns = map.columns();
        let mut summed = map.summed();
        summed.sort_by_key(|&l| std::cmp::Reverse(a_dim(l).map_or(0, |d| a_place.strides[d].unsigned_abs())));
        let constant = self.func.as_const(b).filter(|_| map.batch().is_empty());
        let blocked = self.func.blocked(b).filter(|_| map.batch().is_empty() && form == Form::Dense);
        let is_constant = constant.is_some() || blocked.is_some();
        let k_of = |l: u8| a_dim(l).map_or(1, |d| a_ty.shape[d]);
        let order = order_of(&out.strides);

        // Result dimensions by role, in the result's physical order, as the second operand lies; where it has no place, a
        // constant's columns merge freely.
        let dims_of = |b_place: Option<&Place>| -> Vec<ResultDim> {
            let dim = |label: u8, d: usize| -> SpaceDim {
                let a = a_dim(label).map_or(0, |d| a_place.strides[d]);
                let b = match (b_place, b_dim(label)) {
                    (Some(place), Some(d)) => place.strides[d],
                    _ => 0,
                };
                Self::result_dim(expr, out, d, a, b)
            };
            let by_role = |labels: &[u8]| -> Vec<SpaceDim> {
                let dims = order
                    .iter()
                    .filter(|&&d| labels.contains(&map.out[d]))
                    .map(|&d| dim(map.out[d], d))
                    .collect();
                coalesce(dims, expr.leaves.len() + 3)
            };
            let batch: Vec<SpaceDim> = by_role(&map.batch()).into_iter().filter(|d| d.size > 1).collect();
            roles(batch, by_role(&map.rows()), by_role(&columns))
        };
        let b_place = if is_constant { None } else { Some(self.operand_place(b)?) };
        let mut dims = dims_of(b_place.as_ref());

        let group = whole_groups([&a_ty.elem, &b_ty.elem], form);
        if group > 1 && summed.len() > 1 {
            return Err(Refusal::Unimplemented(
                "grouped or N:M operands with several summed dimensions are not implemented".into(),
            ));
        }
        let sizes: Vec<u64> = summed.iter().map(|&l| k_of(l).next_multiple_of(group)).collect();
        let a_bounds: Vec<u64> = summed
            .iter()
            .zip(&sizes)
            .map(|(&l, &padded)| stored_terms(&a_ty.elem, k_of(l)).min(padded))
            .collect();
        let one_column = dims.iter().filter(|d| d.role == Role::Column).count() == 1
            && !dims
                .iter()
                .any(|d| d.role == Role::Batch && d.space.walks.last().is_some_and(|w| w.stride != 0));
        let merged =
            dims.iter().rfind(|d| d.role == Role::Column).map_or(Vec::new(), |d| d.space.logical.clone());
        // Columns of size 1 are part of every layout, and of no merged dimension.
        let (units, wide): (Vec<u8>, Vec<u8>) =
            columns.iter().partition(|&&l| b_dim(l).is_none_or(|d| b_ty.shape[d] == 1));
        let fits = one_column && merged.len() == wide.len();
        let axes =
            |labels: &[u8]| labels.iter().filter_map(|&l| b_dim(l)).map(|d| d as u8).collect::<Vec<u8>>();
        let column_labels: Vec<u8> = units.into_iter().chain(merged.iter().map(|&d| map.out[d])).collect();
        let n: u64 = merged.iter().map(|&d| expr.shape[d]).product();
        let axes = [axes(&column_labels), axes(&summed)];
        let coded = match blocked.filter(|_| fits) {
            Some(blocked) => self.code_panels(&blocked, axes.clone(), n)?,
            None => None,
        };
        let mut widen = None;
        let (second, b_strides, flags) = match (constant.filter(|_| fits), coded) {
            (_, Some((second, strides, how))) => {
                widen = Some(how);
                (second, strides, None)
            }
            (Some(id), None) => self.panels(id, axes, b_ty.elem.format(), n, &sizes, form)?,
            (None, None) => {
                if form != Form::Dense || (constant.is_some() && b_ty.elem.scalar().is_none()) {
                    return Err(Refusal::Unimplemented(
                        "packed weights whose columns do not merge are not implemented".into(),
                    ));
                }
                let place = self.operand_place(b)?;
                let strides: Vec<i64> =
                    summed.iter().map(|&l| b_dim(l).map_or(0, |d| place.strides[d])).collect();
                if is_constant {
                    dims = dims_of(Some(&place));
                }
                let column = dims.iter().rfind(|d| d.role == Role::Column);
                let column = column.and_then(|d| d.space.walks.last()).map_or(0, |w| w.stride);
                let k_step = strides.last().copied().unwrap_or(0);
                let order = if k_step == 1 && column != 1 { Order::Nk } else { Order::Kn };
                let order = if b_ty.elem.scalar().is_none() { Order::Nk } else { order };
                (Second::Dense(place, order), strides, None)
            }
        };
        let mut summed: Vec<SummedDim> = (0..sizes.len())
            .map(|i| SummedDim {
                size: sizes[i],
                a: a_dim(summed[i]).map_or(0, |d| a_place.strides[d]),
                b: b_strides[i],
                a_bound: a_bounds[i],
                b_bound: sizes[i],
                window: false,
            })
            .collect();
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
            a: a_place,
            a_format: a_ty.elem.format(),
            b: second,
            b_format: b_ty.elem.format(),
            widen,
            form,
            flags,
            chunk: (chunk, cut(group, form).max(step)),
        })
    }

    /// The problem of a convolution.
    pub(super) fn conv_problem(
        &mut self,
        hero: Node,
        attrs: &ConvAttrs,
        expr: &Expr,
        out: &Place,
        form: Form,
    ) -> Lowered<Problem> {
        let args = self.func.nodes[hero].args.clone();
        let (x, w) = (args[0], args[1]);
        let n_spatial = attrs.strides.len();
        if n_spatial > 2 {
            return Err(Refusal::Unimplemented(format!(
                "convolution over {n_spatial} spatial axes is not implemented"
            )));
        }
        let (a_place, x_shape) = self.spread(x, attrs)?;
        let x_ty = self.func.ty(x).clone();
        let w_ty = self.func.ty(w).clone();
        let xs = |i: usize| a_place.strides[attrs.x[i] as usize];
        let w_dim = |i: usize| w_ty.shape[attrs.w[i] as usize];
        let group = whole_groups([&x_ty.elem, &w_ty.elem], form);
        let channels = w_dim(1);
        if attrs.groups > 1 && (group > 1 || out.strides.is_empty()) {
            return Err(Refusal::Unimplemented(
                "grouped convolution in a grouped format is not implemented".into(),
            ));
        }
        let constant = self.func.as_const(w).filter(|_| attrs.groups == 1);
        let blocked = self.func.blocked(w).filter(|_| attrs.groups == 1 && form == Form::Dense);
        let c_padded = channels.next_multiple_of(group);

        // Taps, then channels: the order in which weights are packed and windows are walked.
        let mut sizes: Vec<u64> = (0..n_spatial).map(|i| w_dim(i + 2)).collect();
        sizes.push(c_padded);
        let out_dim = |i: usize| attrs.out[i] as usize;
        let axes = [vec![attrs.w[0]], attrs.w[2..].iter().chain([&attrs.w[1]]).copied().collect()];
        let coded = match blocked {
            Some(blocked) => self.code_panels(&blocked, axes.clone(), w_dim(0))?,
            None => None,
        };
        let mut widen = None;
        let (second, b_strides, flags, w_strides) = match (constant, coded) {
            (_, Some((second, strides, how))) => {
                widen = Some(how);
                (second, strides, None, (0, 0))
            }
            (Some(id), None) => {
                let (second, strides, flags) =
                    self.panels(id, axes, w_ty.elem.format(), w_dim(0), &sizes, form)?;
                (second, strides, flags, (0, 0))
            }
            (None, None) if form != Form::Dense => {
                return Err(Refusal::Form("weights that are no panels".into()));
            }
            (None, None) => {
                let place = self.operand_place(w)?;
                let ws = |i: usize| place.strides[attrs.w[i] as usize];
                let mut strides: Vec<i64> = (0..n_spatial).map(|i| ws(i + 2)).collect();
                strides.push(ws(1));
                let per_group = (w_dim(0) / attrs.groups) as i64;
                let column = ws(0);
                (Second::Dense(place, Order::Nk), strides, None, (column, column * per_group))
            }
        };
        let mut summed: Vec<SummedDim> = (0..=n_spatial)
            .map(|i| SummedDim {
                size: sizes[i],
                a: if i < n_spatial { xs(i + 2) * attrs.dilations[i] as i64 } else { xs(1) },
                b: b_strides[i],
                a_bound: if i == n_spatial {
                    stored_terms(&x_ty.elem, channels).min(sizes[i])
                } else {
                    sizes[i]
                },
                b_bound: sizes[i],
                window: i < n_spatial,
            })
            .collect();
        let step = pad_to_blocks(&mut summed, widen.as_ref());

        let mut batch =
            coalesce(vec![Self::result_dim(expr, out, out_dim(0), xs(0), 0)], expr.leaves.len() + 3);
        batch.retain(|d| d.size > 1);
        let mut rows = Vec::new();
        let mut windows = Vec::new();
        for i in 0..n_spatial {
            let window = Window {
                step: attrs.strides[i] as i64,
                dilation: attrs.dilations[i] as i64,
                taps: w_dim(i + 2),
                low: attrs.low[i],
                extent: x_shape[attrs.x[i + 2] as usize],
                k: i,
            };
            rows.push(Self::result_dim(expr, out, out_dim(i + 2), xs(i + 2), 0));
            windows.push(window);
        }
        let pointwise =
            windows.iter().all(|w| w.taps == 1 && w.low == 0) && attrs.high.iter().all(|&h| h <= 0);
        let column = Self::result_dim(expr, out, out_dim(1), 0, w_strides.0);
        let mut dims;
        if pointwise {
            // A kernel of one tap is a contraction over channels: rows merge as far as strides allow.
            let n_operands = expr.leaves.len() + 3;
            for (row, window) in rows.iter_mut().zip(&windows) {
                row.walks[n_operands - 2].stride *= window.step;
            }
            let all: Vec<SpaceDim> = batch.drain(..).chain(rows).collect();
            dims = roles(Vec::new(), coalesce(all, n_operands), vec![column]);
            summed.drain(..n_spatial);
            widen.iter_mut().for_each(|widen| widen.drop_outermost(n_spatial));
        } else {
            dims = roles(batch, rows, vec![column]);
            let rows = dims.iter_mut().filter(|d| d.role == Role::Row);
            for (dim, window) in rows.zip(windows) {
                dim.window = Some(window);
            }
        }
        if attrs.groups > 1 {
            split_groups(&mut dims, attrs.groups, xs(1) * channels as i64, w_strides.1, w_dim(0));
        }
        form_fits(form, &summed)?;
        let chunk = summed.len() - 1;
        Ok(Problem {
            dims,
            summed,
            a: a_place,
            a_format: x_ty.elem.format(),
            b: second,
            b_format: w_ty.elem.format(),
            widen,
            form,
            flags,
            chunk: (chunk, cut(group, form).max(step)),
        })
    }

    /// The packed storage of a constant second operand whose columns and summed dimensions are `axes`, the strides of its
    /// summed dimensions, and the flags of its blocks where they are used.
    pub(super) fn panels(
        &mut self,
        id: ConstId,
        [columns, summed]: [Vec<u8>; 2],
        slot: Format,
        n: u64,
        sizes: &[u64],
        form: Form,
    ) -> Lowered<(Second, Vec<i64>, Option<BlockFlags>)> {
        let k: u64 = sizes.iter().product();
        let (pattern, narrow) = (form.pattern(), self.narrowest(id));
        let k_inner = sizes.last().copied().unwrap_or(1);
        let panels = Panels { columns, summed, k_inner, pattern, narrow, code: None };
        let dense = Storage {
            pattern,
            k_stride: PANEL,
            slot,
            ..Storage::dense(
                StorageKind::Const(id, Packing::Panels(panels.clone())),
                narrow.map_or(slot, Format::Scalar),
                n.next_multiple_of(PANEL) * k,
            )
        };
        let flags = match form {
            Form::Blocks => Some(self.block_flags(id, &panels, k, flag_elements(slot))?),
            Form::Dense | Form::Pattern(_) | Form::Compressed | Form::Active => None,
        };
        let storage = match form {
            Form::Compressed => self.compress(id, &panels, dense)?,
            // Blocks are laid out for the tiles that are chosen.
            Form::Dense | Form::Pattern(_) | Form::Blocks | Form::Active => dense,
        };
        let storage = self.constant(storage);
        let mut strides = vec![PANEL as i64; sizes.len()];
        for i in (0..sizes.len().saturating_sub(1)).rev() {
            strides[i] = strides[i + 1] * sizes[i + 1] as i64;
        }
        let place = Place { storage, offset: 0, strides: vec![(k * PANEL) as i64] };
        Ok((Second::Panels(place), strides, flags))
    }

    /// Whether the operands of a contraction change places: a constant is the second.
    fn swaps(&self, args: &[Value]) -> bool {
        let constant = |v: Value| self.func.as_const(v).is_some() || self.func.blocked(v).is_some();
        constant(args[0]) && !constant(args[1])
    }

    /// The constant that is a product's second operand, and whether it stands first in the node.
    pub(super) fn second_constant(&self, hero: Node) -> Option<(ConstId, bool)> {
        let data = &self.func.nodes[hero];
        match &data.op {
            Op::Contract { map, .. } if map.batch().is_empty() => {
                let swap = self.swaps(&data.args);
                Some((self.func.as_const(data.args[usize::from(!swap)])?, swap))
            }
            Op::Conv { attrs, .. } if attrs.groups == 1 => Some((self.func.as_const(data.args[1])?, false)),
            _ => None,
        }
    }

    /// The narrower type that a constant is stored in, looked for once.
    fn narrowest(&mut self, id: ConstId) -> Option<ScalarType> {
        let constant = &self.module.constants[id];
        *self.narrowest[id].get_or_insert_with(|| weights::narrowest(constant))
    }

    /// Place of an operand of a product, which may be grouped.
    fn operand_place(&mut self, value: Value) -> Lowered<Place> {
        self.place(value)
    }
}

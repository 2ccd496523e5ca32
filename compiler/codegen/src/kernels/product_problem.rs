//! From a convolution to its normal form, and what it shares with a contraction: the layout of weights.

use lacuna_ir::op::ConvAttrs;
use lacuna_ir::{ConstId, Node, Op, Picked, Value};
use lacuna_isa::format::{Format, ScalarType};
use lacuna_isa::inst::Order;
use lacuna_isa::timing::flag_elements;

use super::problem::{BlockFlags, Problem, Role, Second, SummedDim, Window};
use super::problem_dims::{cut, form_fits, pad_to_blocks, roles, split_groups, stored_terms, whole_groups};
use super::space::{SpaceDim, Walk, coalesce};
use crate::expr::Expr;
use crate::lower::Lowering;
use crate::place::{PANEL, Packing, Panels, Place, Storage, StorageKind};
use crate::refusal::{Lowered, Refusal};
use crate::weights;
use crate::zeros::Form;

impl Lowering<'_> {
    /// Walks of the result and of the epilogue's loads along logical dimension `d` of the result, then of both operands.
    pub(super) fn result_dim(expr: &Expr, out: &Place, d: usize, a: i64, b: i64) -> SpaceDim {
        let size = expr.shape[d];
        let mut walks = vec![Walk { stride: out.strides[d], origin: 0, bound: size }];
        walks.extend(expr.leaves.iter().map(|l| Walk { stride: l.place.strides[d], origin: 0, bound: size }));
        walks.extend([a, b].map(|stride| Walk { stride, origin: 0, bound: size }));
        SpaceDim { size, walks, logical: vec![d], apart: false }
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
        let [x, w] = [0, 1].map(|i| self.func.nodes[hero].args[i]);
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
            pick: None,
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
        let storage = self.one_storage(storage);
        let mut strides = vec![PANEL as i64; sizes.len()];
        for i in (0..sizes.len().saturating_sub(1)).rev() {
            strides[i] = strides[i + 1] * sizes[i + 1] as i64;
        }
        let place = Place { storage, offset: 0, strides: vec![(k * PANEL) as i64] };
        Ok((Second::Panels(place), strides, flags))
    }

    /// The operand of a contraction that its kernel picks from a table.
    pub(super) fn picked(&self, hero: Node) -> Option<Picked> {
        let picked = self.func.picked(&self.func.nodes[hero])?;
        self.fusion.inlined[picked.gather].then_some(picked)
    }

    /// Whether the operands of a contraction change places: what is picked, or else a constant, is the second.
    pub(super) fn swaps(&self, hero: Node) -> bool {
        let args = &self.func.nodes[hero].args;
        let constant = |v: Value| self.func.as_const(v).is_some() || self.func.blocked(v).is_some();
        match self.picked(hero) {
            Some(picked) => picked.operand == 0,
            None => constant(args[0]) && !constant(args[1]),
        }
    }

    /// The constant that is a product's second operand, and whether it stands first in the node.
    pub(super) fn second_constant(&self, hero: Node) -> Option<(ConstId, bool)> {
        let data = &self.func.nodes[hero];
        match &data.op {
            Op::Contract { map, .. } if map.batch().is_empty() => {
                let swap = self.swaps(hero);
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
    pub(super) fn operand_place(&mut self, value: Value) -> Lowered<Place> {
        self.place(value)
    }
}

//! The dimensions of a product in normal form: roles, whole groups and blocks, what merges.

use lacuna_ir::ElemType;
use lacuna_isa::format::Format;
use lacuna_isa::sparse::BLOCK;
use lacuna_isa::timing::flag_elements;
use lacuna_isa::view::PlaneMap;

use super::problem::{ResultDim, Role, SummedDim, Widen};
use super::space::SpaceDim;
use super::sparse::Form;
use crate::place::PANEL;
use crate::refusal::{Lowered, Refusal};

/// Assigns roles: rows beyond two and columns beyond one become batch dimensions.
pub(super) fn roles(batch: Vec<SpaceDim>, rows: Vec<SpaceDim>, cols: Vec<SpaceDim>) -> Vec<ResultDim> {
    let extra_rows = rows.len().saturating_sub(2);
    let extra_cols = cols.len().saturating_sub(1);
    let mut dims = Vec::new();
    let mut add = |role: Role, apart: bool, spaces: &[SpaceDim]| {
        dims.extend(spaces.iter().map(|s| ResultDim { role, space: s.clone(), apart, window: None }));
    };
    add(Role::Batch, false, &batch);
    add(Role::Batch, false, &rows[..extra_rows]);
    add(Role::Batch, true, &cols[..extra_cols]);
    add(Role::Row, false, &rows[extra_rows..]);
    add(Role::Column, false, &cols[extra_cols..]);
    dims
}

/// Splits the columns of a grouped convolution into a batch dimension of groups and the columns of one group.
pub(super) fn split_groups(dims: &mut Vec<ResultDim>, groups: u64, a_step: i64, b_step: i64, columns: u64) {
    let Some(at) = dims.iter().rposition(|d| d.role == Role::Column) else { return };
    let per_group = columns / groups;
    let mut group = dims[at].clone();
    let n = group.space.walks.len();
    group.role = Role::Batch;
    group.space.size = groups;
    for (i, walk) in group.space.walks.iter_mut().enumerate() {
        walk.bound = groups;
        walk.stride *= per_group as i64;
        if i == n - 2 {
            walk.stride = a_step;
        } else if i == n - 1 {
            walk.stride = b_step;
        }
    }
    let column = &mut dims[at].space;
    column.size = per_group;
    for walk in &mut column.walks {
        walk.bound = per_group;
    }
    dims.insert(0, group);
}

/// Elements along the summed dimension of the shortest run that is whole groups of both operands of the pattern, and of blocks
/// with flags.
pub(super) fn whole_groups(elems: [&ElemType; 2], form: Form) -> u64 {
    let unit = |format: Format, pattern| PlaneMap { format, pattern, k_stride: 1 }.unit();
    let [a, b] = elems.map(|elem| elem.format());
    let flags = if form == Form::Blocks { flag_elements(b) } else { 1 };
    let units = [unit(a, None), unit(b, form.pattern()), flags];
    let largest = units.into_iter().max().unwrap_or(1);
    let multiple = (1..=units.iter().product()).map(|i| i * largest);
    multiple.into_iter().find(|n| units.iter().all(|&u| n.is_multiple_of(u))).unwrap_or(largest)
}

/// In multiples of what the summed dimension is cut: whole groups, and whole records of a compressed operand.
pub(super) fn cut(group: u64, form: Form) -> u64 {
    let records = match form {
        Form::Compressed => BLOCK as u64 / PANEL,
        Form::Dense | Form::Pattern(_) | Form::Blocks | Form::Active => 1,
    };
    if records.is_multiple_of(group) { records } else { group.next_multiple_of(records) }
}

/// Elements along the summed dimension that an operand has in memory: whole groups.
pub(super) fn stored_terms(elem: &ElemType, size: u64) -> u64 {
    size.next_multiple_of(u64::from(elem.format().group_size()))
}

/// Rows of weights are left out along one dimension (`ldmask`), and flags of a chunk are those of that dimension.
pub(super) fn form_fits(form: Form, summed: &[SummedDim]) -> Lowered {
    if form == Form::Active && summed.iter().filter(|dim| dim.size > 1).count() > 1 {
        return Err(Refusal::Form("rows that meet zeros in a sum over more than one dimension".into()));
    }
    Ok(())
}

/// Rounds the last summed dimension up to whole blocks of codes that share scales, which are its steps.
pub(super) fn pad_to_blocks(summed: &mut [SummedDim], widen: Option<&Widen>) -> u64 {
    let (Some(last), Some(widen)) = (summed.last_mut(), widen) else { return 1 };
    let step = widen.step(last.size);
    last.size = last.size.next_multiple_of(step);
    step
}

/// Joins neighbouring summed dimensions that both operands walk alike.
pub(super) fn merge_summed(dims: &mut Vec<SummedDim>) {
    let mut i = 1;
    while i < dims.len() {
        let (outer, inner) = (dims[i - 1], dims[i]);
        let size = inner.size as i64;
        let whole = inner.a_bound == inner.size && outer.a_bound == outer.size;
        if outer.size == 1 || (whole && outer.a == inner.a * size && outer.b == inner.b * size) {
            dims[i - 1] = SummedDim {
                size: outer.size * inner.size,
                a_bound: outer.a_bound * inner.a_bound,
                b_bound: outer.b_bound * inner.b_bound,
                ..inner
            };
            dims.remove(i);
        } else {
            i += 1;
        }
    }
}

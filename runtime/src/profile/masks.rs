//! The masks of products in the machine model, which has no data: exact where the flags are constants, by recorded or
//! declared activity elsewhere.

use std::collections::VecDeque;

use lacuna_isa::format::{Format, ScalarType};
use lacuna_isa::inst::{Action, InstKind, Operand, Order};
use lacuna_isa::object::{Address, Kernel, MemSpace};
use lacuna_isa::timing::DpeActions;
use lacuna_isa::view::{Position, Space, VIEW_DIMS, View};

use super::walk::SlotUse;
use crate::matmul::actions::{LoadRecord, ProductRecord};
use crate::matmul::mask::{Chosen, Flags, Grain, check, second_dims, whole};

/// What is known of a launch besides its stream.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    /// Its base registers.
    pub bases: &'a [Address],
    /// For each of them, the launch before whose end accesses wait for, 0 the last.
    pub held: &'a [Option<u8>],
    /// The object's constants.
    pub weights: &'a [u8],
    /// What its products did in a recorded run; empty where none was recorded.
    pub products: &'a [ProductRecord],
    /// What its masked loads brought in a recorded run; empty where none was recorded.
    pub loads: &'a [LoadRecord],
    /// The share of flags that is taken to be set where nothing is known of them.
    pub activity: f64,
    /// What loaded parameters are; the greatest value in their range unless given.
    pub position: Option<i32>,
}

impl<'a> Known<'a> {
    /// Of `bytes` in the box of a masked load at `pc`, those that cross the port.
    pub fn chosen(&self, pc: usize, bytes: u64) -> u64 {
        match self.loads.iter().find(|load| load.pc == pc) {
            Some(load) => {
                let part = u128::from(bytes) * u128::from(load.bytes) / u128::from(load.dense_bytes.max(1));
                u64::try_from(part).unwrap_or(bytes)
            }
            None => (bytes as f64 * self.activity.clamp(0.0, 1.0)).round() as u64,
        }
    }

    /// The bytes of the tensor behind a base register, if it is constant; none of others.
    pub fn constant(&self, register: usize, kernel: &Kernel) -> &'a [u8] {
        let Address { space, offset } = self.bases[register];
        let bytes = match space {
            MemSpace::Weights => {
                let end = offset.saturating_add(kernel.tensors[register].bytes);
                self.weights.get(offset as usize..end as usize)
            }
            MemSpace::Hbm | MemSpace::Sram => None,
        };
        bytes.unwrap_or(&[])
    }
}

/// Where the content of a slot was loaded from, where it is of constant flags.
#[derive(Clone, Copy)]
struct Origin {
    view: u16,
    at: Position,
}

/// The slots of each buffer, oldest first, as far as they hold constant flags.
pub(super) struct Masks<'a> {
    kernel: &'a Kernel,
    known: Known<'a>,
    /// Empty when the kernel has no product with a mask.
    rings: Vec<VecDeque<Option<Origin>>>,
}

impl<'a> Masks<'a> {
    pub fn new(kernel: &'a Kernel, known: Known<'a>) -> Masks<'a> {
        let masked = |kind: InstKind| matches!(kind, InstKind::Mmblk { .. } | InstKind::Mmact { .. });
        let used = kernel.code.iter().any(|inst| masked(inst.kind));
        let rings = if used { vec![VecDeque::new(); kernel.buffers.len()] } else { Vec::new() };
        Masks { kernel, known, rings }
    }

    /// Follows what a dynamic instruction does to the buffers.
    pub fn step(&mut self, kind: InstKind, slots: &[SlotUse], at: &Position) {
        if self.rings.is_empty() {
            return;
        }
        for slot in slots {
            let ring = &mut self.rings[usize::from(slot.buffer)];
            match slot.action {
                Action::Push => ring.push_back(None),
                Action::Pop => drop(ring.pop_front()),
                Action::Update => {
                    if let Some(content) = ring.get_mut(usize::from(slot.delta)) {
                        *content = None;
                    }
                }
                Action::Read => {}
            }
        }
        if let InstKind::Ld { dst, src, .. } = kind
            && let Some(content) = self.rings[usize::from(dst.buffer)].back_mut()
        {
            let constant = match self.kernel.views[usize::from(src)].space {
                Space::Global(register) => self.known.bases[usize::from(register)].space == MemSpace::Weights,
                Space::Local => false,
            };
            let flags = self.kernel.views[usize::from(src)].format == Format::Scalar(ScalarType::Bool);
            *content = (constant && flags).then_some(Origin { view: src, at: *at });
        }
    }

    /// What the DPE does in the product with a mask at `pc`, whose operands take part in `m` rows and `dense` altogether.
    #[expect(clippy::too_many_arguments, reason = "an instruction with its place and its size")]
    pub fn actions(
        &self,
        grain: Grain,
        [a, b, mask]: [Operand; 3],
        order: Order,
        pc: usize,
        at: &Position,
        m: u64,
        dense: DpeActions,
    ) -> DpeActions {
        let view = |operand: Operand| &self.kernel.views[usize::from(operand.view)];
        let ring = &self.rings[usize::from(mask.buffer)];
        let origin = ring.get(usize::from(mask.delta)).copied().flatten();
        let b_view = whole(grain, view(b), view(mask), order).ok();
        let b_view = b_view.filter(|b| check(grain, view(a), b, view(mask), order).is_ok());
        if let (Some(origin), Some(b_view)) = (origin, b_view) {
            let (n_dims, k_dims) = second_dims(order);
            let (a_ranges, b_ranges) = (view(a).clip(at), b_view.clip(at));
            let sizes =
                |dims: &[usize], of: &View| -> Vec<u32> { dims.iter().map(|&d| of.dims[d].size).collect() };
            let inside = |sizes: &[u32], dims: &[usize], ranges: &[(u32, u32); VIEW_DIMS]| -> Vec<bool> {
                let n: usize = sizes.iter().map(|&s| s as usize).product();
                let takes_part = |number: usize| {
                    let mut rest = number;
                    dims.iter().zip(sizes).rev().all(|(&d, &size)| {
                        let i = (rest % size as usize) as u32;
                        rest /= size as usize;
                        i >= ranges[d].0 && i - ranges[d].0 < ranges[d].1
                    })
                };
                (0..n).map(takes_part).collect()
            };
            let a_k = inside(&sizes(&[2, 3, 4], view(a)), &[2, 3, 4], &a_ranges);
            let b_k = inside(&sizes(&k_dims, &b_view), &k_dims, &b_ranges);
            if a_k.len() != b_k.len() {
                return dense;
            }
            let k: Vec<bool> = a_k.iter().zip(&b_k).map(|(a, b)| *a && *b).collect();
            let columns = inside(&sizes(&n_dims, &b_view), &n_dims, &b_ranges);
            let columns: Vec<usize> = (0..columns.len()).filter(|&column| columns[column]).collect();
            let flags = Flags::new(view(mask), at, |element| self.flag(&origin, element));
            let flags = match grain {
                Grain::Blocks { packed: true } => flags.first(view(b).dims[0].size),
                Grain::Blocks { packed: false } | Grain::Active => flags,
            };
            let chosen = Chosen::new(grain, &b_view, order, &flags, &columns, &k);
            return chosen.actions(grain, m, &b_view, &k);
        }
        let n_flags = view(mask).elements();
        let actions = match self.known.products.iter().find(|product| product.pc == pc) {
            Some(product) => dense.scaled(&product.actions, &product.dense),
            None => {
                let share = |n: u64| (n as f64 * self.known.activity.clamp(0.0, 1.0)).round() as u64;
                let part = DpeActions {
                    steps: share(dense.steps),
                    a_reads: share(dense.a_reads),
                    b_reads: share(dense.b_reads),
                    macs: share(dense.macs),
                    ..DpeActions::default()
                };
                dense.scaled(&part, &dense)
            }
        };
        DpeActions { flags: n_flags, ..actions }
    }

    /// Element `element` of a slot that was loaded from constants: its box is dense in row-major order.
    fn flag(&self, origin: &Origin, element: i64) -> bool {
        let view = &self.kernel.views[usize::from(origin.view)];
        let Space::Global(register) = view.space else { return false };
        let (coords, ranges) = (view.base_coords(&origin.at), view.clip(&origin.at));
        let mut rest = element;
        let mut at = view.offset;
        for d in (0..VIEW_DIMS).rev() {
            let size = i64::from(view.dims[d].size.max(1));
            let i = rest % size;
            rest /= size;
            // A load fills what clips with code 0.
            if i < i64::from(ranges[d].0) || i >= i64::from(ranges[d].0) + i64::from(ranges[d].1) {
                return false;
            }
            at += i64::from(view.dims[d].stride) * (coords[d] + i);
        }
        let base = &self.known.bases[usize::from(register)];
        let plane = self.kernel.tensors[usize::from(register)].planes[0];
        let byte = usize::try_from(at).ok().and_then(|at| {
            let start = usize::try_from(base.offset.checked_add(plane)?).ok()?;
            self.known.weights.get(start.checked_add(at)?)
        });
        byte.is_some_and(|&byte| byte != 0)
    }
}

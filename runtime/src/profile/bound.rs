//! The bound of a whole entry: what no program that computes the same with the same formats can be faster than.

use std::collections::BTreeMap;

use lacuna_isa::inst::Engine;
use lacuna_isa::object::{Address, EntryPoint, MemSpace, Object};
use lacuna_isa::target::Target;
use lacuna_isa::timing::Work;

use super::Bound;

/// What must be done and moved.
#[derive(Default)]
pub(super) struct Needs {
    /// Cycles of all DPEs together, no multiplier idle.
    product_cycles: f64,
    /// Cycles of collectives.
    message_cycles: u64,
    /// Bytes read from each constant, once.
    weights: BTreeMap<u64, u64>,
    /// Inputs, outputs and states: where each lies in HBM, and its bytes.
    ports: Vec<(u64, u64)>,
    /// Bytes of each of them that launches touch, by number and address.
    touched: BTreeMap<(usize, u64), u64>,
}

impl Needs {
    /// Nothing yet, of an entry of an object.
    pub fn of(object: &Object, entry: &EntryPoint) -> Needs {
        let ports = entry.inputs.iter().chain(&entry.outputs).chain(&object.states);
        let in_hbm = ports.filter(|port| port.address.space == MemSpace::Hbm);
        let ports = in_hbm.map(|port| (port.address.offset, port.bytes().unwrap_or(0))).collect();
        Needs { ports, ..Needs::default() }
    }

    /// Adds the products of one PE: multiply-accumulates that are not skipped, at the rate of their formats.
    pub fn product(&mut self, work: &Work, macs: u64, pes: u64, target: &Target) {
        let Work::Matmul { m, n, k, a, b, pattern, actions } = *work else { return };
        let (macs, pattern) = if actions.is_some() { (macs, None) } else { (m * n * k, pattern) };
        self.product_cycles += (macs * pes) as f64 / target.product_rate(a, b, pattern);
    }

    /// Adds the products of a launch, of which the model has `share`.
    pub fn products_of(&mut self, launch: &Needs, share: f64) {
        self.product_cycles += launch.product_cycles * share;
    }

    /// Adds the transfers of one launch with the tensor at `base`, of `tensor_bytes`.
    pub fn transfers(&mut self, base: Address, bytes: u64, tensor_bytes: u64) {
        let bytes = bytes.min(tensor_bytes);
        let most = |seen: &mut u64| *seen = (*seen).max(bytes);
        match base.space {
            MemSpace::Weights => most(self.weights.entry(base.offset).or_default()),
            MemSpace::Hbm => {
                let holds = |&(from, bytes): &(u64, u64)| base.offset >= from && base.offset - from < bytes;
                if let Some(port) = self.ports.iter().position(holds) {
                    most(self.touched.entry((port, base.offset)).or_default());
                }
            }
            MemSpace::Sram => {}
        }
    }

    /// Adds a collective.
    pub fn message(&mut self, cycles: u64) {
        self.message_cycles += cycles;
    }

    /// Bytes that cross the HBM port in any case: constants, inputs, outputs and states, once.
    fn bytes(&self) -> u64 {
        let ports = self.ports.iter().enumerate().map(|(number, &(_, bytes))| {
            self.touched
                .range((number, 0)..(number + 1, 0))
                .map(|(_, touched)| touched)
                .sum::<u64>()
                .min(bytes)
        });
        self.weights.values().sum::<u64>() + ports.sum::<u64>()
    }

    /// The greatest of products over the peak, bytes over HBM, collectives, and what one load and one store take.
    pub fn bound(&self, entry: &EntryPoint, target: &Target) -> (u64, Bound) {
        let latency = target.launch_cycles + 2 * target.hbm_latency_cycles;
        let empty = entry.launches.is_empty();
        let bounds = [
            (self.product_cycles / f64::from(target.n_pes().max(1)), Bound::Engine(Engine::Dpe)),
            (self.bytes() as f64 / target.hbm_bytes_per_cycle, Bound::Hbm),
            (self.message_cycles as f64, Bound::Engine(Engine::Me)),
            (if empty { 0.0 } else { latency as f64 }, Bound::Latency),
        ];
        let greatest =
            bounds.into_iter().fold((0.0, Bound::Hbm), |best, b| if b.0 > best.0 { b } else { best });
        (greatest.0.ceil() as u64, greatest.1)
    }
}

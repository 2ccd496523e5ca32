//! The energy of actions: what a target's table says of one piece of work, and what its peak would draw.
//!
//! Actions are the bytes that cross a memory, those of masks and indices (metadata) apart; the multiply-accumulates performed,
//! those that a zero gates and those that sparsity skips; vector operations; and the cycles in which an engine is powered but
//! not busy. The issue of instructions has no published figure and counts nothing.

use std::fmt;

use crate::format::Format;
use crate::inst::Engine;
pub use crate::target::Energy;
use crate::target::Target;
use crate::view::PlaneMap;
pub use crate::work::EnergyByAction;
use crate::work::{Cost, DpeActions, Work};

impl Energy {
    /// A multiply-accumulate of these operand formats: that of the costlier one. A format that is not native is widened
    /// to the costliest.
    pub fn mac(&self, a: Format, b: Format) -> f64 {
        let of = |f: Format| self.mac_pj.iter().find(|(g, _)| *g == f).map(|(_, pj)| *pj);
        match (of(a), of(b)) {
            (Some(a), Some(b)) => a.max(b),
            _ => self.mac_pj.iter().map(|(_, pj)| *pj).fold(0.0, f64::max),
        }
    }

    /// Picojoules that each engine draws in a cycle at its greatest rate on `target`, in the order of [`Engine::ALL`]. The
    /// actions of the command processor and the message engines have no figure and count 0.
    pub fn busy_pj_per_cycle(&self, target: &Target) -> [f64; Engine::ALL.len()] {
        let macs = self.mac_pj.iter().filter_map(|(f, pj)| Some(target.mac_rate(*f, *f)? * pj));
        let streaming = target.local_bytes_per_cycle * self.local_pj_per_byte;
        Engine::ALL.map(|engine| match engine {
            Engine::Cp | Engine::Me => 0.0,
            Engine::FiLoad | Engine::FiStore | Engine::Mlu => streaming,
            Engine::Dpe => macs.clone().fold(0.0, f64::max),
            Engine::Re => 4.0 * target.bank_elements_per_cycle * self.local_pj_per_byte,
            Engine::Se => target.simd_ops_per_cycle * self.simd_op_pj,
        })
    }

    /// Picojoules of a piece of work whose counts are in `cost`.
    ///
    /// A product reads each operand from local memory once, an N:M one with its indices, a masked one with its flags and
    /// only what its mask admits; its sums count as part of the multiply-accumulates. Touching an accumulator counts as four
    /// bytes of local memory, an array of about the same size.
    pub(crate) fn of(&self, work: &Work, cost: &Cost) -> EnergyByAction {
        let local = |bytes: u64| bytes as f64 * self.local_pj_per_byte;
        let none = EnergyByAction::default();
        match *work {
            Work::Control => none,
            Work::Dma { bytes: local_bytes, .. } | Work::Uneven { local_bytes, .. } => EnergyByAction {
                local: local(local_bytes),
                hbm: cost.hbm_bytes as f64 * self.hbm_pj_per_byte,
                sram: cost.sram_bytes as f64 * self.sram_pj_per_byte,
                ..none
            },
            Work::Layout { bytes } | Work::Fill { bytes } => EnergyByAction { local: local(bytes), ..none },
            Work::Matmul { m, n, k, a, b, pattern, actions } => {
                // Stored elements of a pattern stand for `m / n` dense ones, whose planes are known.
                let dense =
                    |stored: u64| pattern.map_or(stored, |p| stored * u64::from(p.m) / u64::from(p.n));
                let DpeActions { a_reads, b_reads, b_gated, gated, flags, .. } =
                    actions.unwrap_or_else(|| DpeActions { b_reads: 0, ..DpeActions::dense(m, n, k) });
                let b_elements = actions.map_or(n * k, |_| dense(b_reads.saturating_sub(b_gated)));
                let [a_codes, a_scales, _] =
                    PlaneMap { format: a, pattern: None, k_stride: 1 }.plane_bytes(a_reads);
                let [b_codes, b_scales, indices] =
                    PlaneMap { format: b, pattern, k_stride: 1 }.plane_bytes(b_elements);
                EnergyByAction {
                    mac: cost.macs.saturating_sub(gated) as f64 * self.mac(a, b),
                    gated: gated as f64 * self.gated_pj,
                    skipped: cost.macs_skipped as f64 * self.skipped_pj,
                    local: local(a_codes + a_scales + b_codes + b_scales),
                    metadata: (indices + flags) as f64 * self.metadata_pj_per_byte,
                    ..none
                }
            }
            Work::Bank { elements } | Work::BankSum { elements } => {
                EnergyByAction { local: local(4 * elements), ..none }
            }
            // The mesh between PEs and the links between chips have no published energy.
            Work::Exchange { sent, received } => EnergyByAction { local: local(sent + received), ..none },
            Work::Message { .. } => EnergyByAction {
                hbm: cost.hbm_bytes as f64 * self.hbm_pj_per_byte,
                sram: cost.sram_bytes as f64 * self.sram_pj_per_byte,
                ..none
            },
            Work::Simd { elements, ops, bytes } => EnergyByAction {
                simd: (elements * ops) as f64 * self.simd_op_pj,
                local: local(bytes),
                ..none
            },
        }
    }
}

/// A target would draw more than it may.
#[derive(Clone, PartialEq, Debug)]
pub struct PowerWarning {
    /// Operand format of the product.
    pub format: Format,
    /// Modelled power in watts.
    pub modelled_w: f64,
    /// Thermal design power in watts.
    pub tdp_w: f64,
    /// Process node of the energy table in nanometres.
    pub node_nm: f64,
}

impl fmt::Display for PowerWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PowerWarning { format, modelled_w, tdp_w, node_nm } = self;
        write!(
            f,
            "at the peak of {format} and full HBM bandwidth the {node_nm} nm energy table gives {modelled_w:.0} W, \
             over the design power of {tdp_w:.0} W: a peak not sustained, or a table of too old a node"
        )
    }
}

impl Target {
    /// Watts of multiply-accumulates in `format` at their peak with the HBM port at full bandwidth; `None` without an
    /// energy table, or when the format is not native. Local memory and SRAM come on top and depend on the tiling.
    pub fn sustained_power_w(&self, format: Format) -> Option<f64> {
        let energy = self.energy.as_ref()?;
        let macs = self.mac_rate(format, format)? * f64::from(self.n_pes()) * energy.mac(format, format);
        let hbm = self.hbm_bytes_per_cycle * energy.hbm_pj_per_byte;
        // Picojoules per cycle times gigacycles per second are milliwatts.
        Some((macs + hbm) * self.clock_ghz * 1e-3)
    }

    /// Every native format whose modelled sustained power exceeds the design power; none without an energy table.
    pub fn power_warnings(&self) -> Vec<PowerWarning> {
        let Some(Energy { node_nm, .. }) = self.energy else { return Vec::new() };
        let power = |&(format, _): &(Format, f64)| Some((format, self.sustained_power_w(format)?));
        let warning = |(format, modelled_w)| PowerWarning { format, modelled_w, tdp_w: self.tdp_w, node_nm };
        let all = self.macs_per_cycle.iter().filter_map(power);
        all.filter(|(_, modelled_w)| *modelled_w > self.tdp_w).map(warning).collect()
    }
}

/// A run, or one launch of it, that draws more on average than the target may.
#[derive(Clone, PartialEq, Debug)]
pub struct AveragePower {
    /// Watts by the table of energies.
    pub modelled_w: f64,
    /// Watts of the target's design power.
    pub tdp_w: f64,
    /// Process node of the energy table in nanometres.
    pub node_nm: f64,
}

impl AveragePower {
    /// Whether it is more than the design power.
    pub fn is_over(&self) -> bool {
        self.modelled_w > self.tdp_w
    }
}

impl fmt::Display for AveragePower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AveragePower { modelled_w, tdp_w, node_nm } = self;
        write!(
            f,
            "the {node_nm} nm energy table gives {modelled_w:.0} W on average, over the design power of {tdp_w:.0} W: \
             cycles that are not sustained, or a table of too old a node"
        )
    }
}

impl Target {
    /// The average power of `energy_pj` spent in `cycles`; `None` without an energy table, or in no time.
    pub fn average_power(&self, energy_pj: f64, cycles: u64) -> Option<AveragePower> {
        let node_nm = self.energy.as_ref()?.node_nm;
        // Picojoules per cycle times gigacycles per second are milliwatts.
        let modelled_w = energy_pj / cycles as f64 * self.clock_ghz * 1e-3;
        (cycles > 0).then_some(AveragePower { modelled_w, tdp_w: self.tdp_w, node_nm })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::ScalarType;
    use crate::object::MemSpace;
    use crate::target_file::target;
    use crate::timing::cost;
    use crate::view::Pattern;

    const BF16: Format = Format::Scalar(ScalarType::Bf16);
    const E4M3: Format = Format::Scalar(ScalarType::E4M3);

    /// MTIA 300 with energies that are easy to add up.
    fn round() -> Target {
        let mut t = target("mtia-300").unwrap();
        t.energy = Some(Energy {
            node_nm: 7.0,
            mac_pj: vec![(E4M3, 1.0), (BF16, 4.0)],
            gated_pj: 0.5,
            skipped_pj: 0.25,
            simd_op_pj: 8.0,
            local_pj_per_byte: 2.0,
            metadata_pj_per_byte: 1.0,
            sram_pj_per_byte: 16.0,
            hbm_pj_per_byte: 32.0,
            idle_pj_per_cycle: [0.0; 8],
        });
        t
    }

    #[test]
    fn actions_add_up() {
        let check = |work: Work, expect: f64| assert_eq!(cost(&work, &round()).energy_pj, expect, "{work:?}");
        let dma = |space, receivers| Work::Dma { bytes: 100, runs: 50, space, receivers };
        let product = |a, b, pattern| Work::Matmul { m: 2, n: 32, k: 8, a, b, pattern, actions: None };
        check(Work::Control, 0.0);
        check(dma(MemSpace::Hbm, 1), 100.0 * (2.0 + 32.0));
        check(dma(MemSpace::Weights, 4), 100.0 * 2.0 + 25.0 * 32.0);
        check(dma(MemSpace::Sram, 1), 100.0 * (2.0 + 16.0));
        let (far_bytes, local_bytes) = (40, 100);
        let space = MemSpace::Weights;
        check(Work::Uneven { far_bytes, local_bytes, runs: 1, space, receivers: 4 }, 200.0 + 10.0 * 32.0);
        check(Work::Layout { bytes: 10 }, 20.0);
        check(Work::Fill { bytes: 10 }, 20.0);
        check(Work::Bank { elements: 10 }, 80.0);
        check(Work::BankSum { elements: 10 }, 80.0);
        check(Work::Exchange { sent: 10, received: 30 }, 80.0);
        check(Work::Message { bytes: 9, steps: 2, hbm_bytes: 4, sram_bytes: 2 }, 4.0 * 32.0 + 2.0 * 16.0);
        check(Work::Simd { elements: 4, ops: 3, bytes: 32 }, 12.0 * 8.0 + 64.0);
        check(product(E4M3, E4M3, None), 512.0 + (16.0 + 256.0) * 2.0);
        // The costlier operand counts, and an operand that is not native takes the costliest.
        check(product(E4M3, BF16, None), 4.0 * 512.0 + (16.0 + 512.0) * 2.0);
        check(product(E4M3, Format::F32, None), 4.0 * 512.0 + (16.0 + 1024.0) * 2.0);
        // Half of the codes, and a two-bit index for each.
        let sparse = 256.0 + 256.0 * 0.25 + (16.0 + 128.0) * 2.0 + 32.0;
        check(product(E4M3, E4M3, Some(Pattern::P2_4)), sparse);
        // A mask that leaves three of eight k, and a zero in one of the six first elements.
        let actions = DpeActions {
            steps: 6,
            a_reads: 6,
            b_reads: 96,
            macs: 192,
            skipped: 320,
            gated: 32,
            b_gated: 0,
            flags: 8,
        };
        let masked =
            Work::Matmul { m: 2, n: 32, k: 8, a: E4M3, b: E4M3, pattern: None, actions: Some(actions) };
        check(masked, 160.0 + 32.0 * 0.5 + 320.0 * 0.25 + (6.0 + 96.0) * 2.0 + 8.0);
        let parts = cost(&masked, &round()).energy;
        assert_eq!((parts.mac, parts.gated, parts.skipped, parts.metadata), (160.0, 16.0, 80.0, 8.0));
    }

    /// An engine that does nothing draws a share of what it draws at its greatest rate.
    #[test]
    fn idle_engines_draw() {
        let t = target("mtia-300").unwrap();
        let energy = t.energy.as_ref().unwrap();
        let busy = energy.busy_pj_per_cycle(&t);
        for (engine, (idle, busy)) in Engine::ALL.into_iter().zip(energy.idle_pj_per_cycle.iter().zip(busy)) {
            assert!((idle - busy / 10.0).abs() <= 1e-9 * busy, "{engine:?}: {idle} of {busy}");
            assert_eq!(busy > 0.0, !matches!(engine, Engine::Cp | Engine::Me), "{engine:?}");
        }
        // All engines of this one at once would draw more than the design power.
        let t = target("mtia-500").unwrap();
        let idle: f64 = t.energy.as_ref().unwrap().idle_pj_per_cycle.iter().sum();
        let watts = idle * f64::from(t.n_pes()) * t.clock_ghz * 1e-3;
        assert!((watts - t.tdp_w / 10.0).abs() < 1e-6, "{watts} W");
    }

    #[test]
    fn a_group_costs_its_scales() {
        let mxfp8 = Format::from_name("mxfp8").unwrap();
        let mut t = round();
        t.energy.as_mut().unwrap().mac_pj.push((mxfp8, 1.0));
        let work = Work::Matmul { m: 1, n: 32, k: 32, a: mxfp8, b: mxfp8, pattern: None, actions: None };
        assert_eq!(cost(&work, &t).energy_pj, 1024.0 + (33.0 + 1024.0 + 32.0) * 2.0);
    }

    #[test]
    fn without_a_table_there_is_no_energy() {
        let t = target("mtia-2i").unwrap();
        assert_eq!((&t.energy, t.sustained_power_w(BF16)), (&None, None));
        assert!(t.power_warnings().is_empty());
        let cost = cost(&Work::Fill { bytes: 1 << 20 }, &t);
        assert!(cost.cycles > 0);
        assert_eq!((cost.energy_pj, cost.energy), (0.0, EnergyByAction::default()));
    }

    #[test]
    fn energy_changes_nothing_else() {
        let with = target("mtia-300").unwrap();
        let without = Target { energy: None, ..with.clone() };
        let pattern = Some(Pattern::P2_4);
        let work = Work::Matmul { m: 64, n: 96, k: 128, a: E4M3, b: E4M3, pattern, actions: None };
        let (with, without) = (cost(&work, &with), cost(&work, &without));
        assert!(with.energy_pj > 0.0);
        assert_eq!(Cost { energy_pj: 0.0, energy: EnergyByAction::default(), ..with }, without);
    }
}

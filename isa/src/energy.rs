//! The energy of actions: what a target's table says of one piece of work, and what its peak would draw.
//!
//! Actions are the bytes that cross a memory, the multiply-accumulates performed, those that sparsity gates or skips, and
//! vector operations. Issue, leakage and idle engines have no published figure and count nothing.

use std::fmt;

use crate::format::Format;
use crate::target::Target;
use crate::timing::{Cost, Work};
use crate::view::PlaneMap;

/// Energies of one process node, in picojoules; the memory off the chip has its own technology.
#[derive(Clone, PartialEq, Debug)]
pub struct Energy {
    /// Process node of the on-chip figures in nanometres.
    pub node_nm: f64,
    /// A multiply-accumulate, for every native operand format.
    pub mac_pj: Vec<(Format, f64)>,
    /// A multiply-accumulate that is gated or skipped.
    pub skipped_pj: f64,
    /// One f32 operation of the SE.
    pub simd_op_pj: f64,
    /// A byte read from or written to local memory.
    pub local_pj_per_byte: f64,
    /// A byte read from or written to shared SRAM.
    pub sram_pj_per_byte: f64,
    /// A byte over the HBM port.
    pub hbm_pj_per_byte: f64,
}

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

    /// Picojoules of a piece of work whose counts are in `cost`.
    ///
    /// A product reads each operand from local memory once, an N:M one with its indices; its sums count as part of the
    /// multiply-accumulates. Clearing or converting an accumulator counts as four bytes of local memory, an array of
    /// about the same size.
    pub(crate) fn of(&self, work: &Work, cost: &Cost) -> f64 {
        let local = |bytes: u64| bytes as f64 * self.local_pj_per_byte;
        match *work {
            Work::Control => 0.0,
            Work::Dma { bytes: local_bytes, .. } | Work::Uneven { local_bytes, .. } => {
                local(local_bytes)
                    + cost.hbm_bytes as f64 * self.hbm_pj_per_byte
                    + cost.sram_bytes as f64 * self.sram_pj_per_byte
            }
            Work::Layout { bytes } | Work::Fill { bytes } => local(bytes),
            Work::Matmul { m, n, k, a, b, pattern } => {
                let read = |format, pattern, elements| {
                    let map = PlaneMap { format, pattern, k_stride: 1 };
                    local(map.plane_bytes(elements).iter().sum())
                };
                read(a, None, m * k)
                    + read(b, pattern, n * k)
                    + cost.macs as f64 * self.mac(a, b)
                    + cost.macs_skipped as f64 * self.skipped_pj
            }
            Work::Bank { elements } => local(4 * elements),
            Work::Simd { elements, ops, bytes } => (elements * ops) as f64 * self.simd_op_pj + local(bytes),
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
            skipped_pj: 0.25,
            simd_op_pj: 8.0,
            local_pj_per_byte: 2.0,
            sram_pj_per_byte: 16.0,
            hbm_pj_per_byte: 32.0,
        });
        t
    }

    #[test]
    fn actions_add_up() {
        let check = |work: Work, expect: f64| assert_eq!(cost(&work, &round()).energy_pj, expect, "{work:?}");
        let dma = |space, receivers| Work::Dma { bytes: 100, runs: 50, space, receivers };
        let product = |a, b, pattern| Work::Matmul { m: 2, n: 32, k: 8, a, b, pattern };
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
        check(Work::Simd { elements: 4, ops: 3, bytes: 32 }, 12.0 * 8.0 + 64.0);
        check(product(E4M3, E4M3, None), 512.0 + (16.0 + 256.0) * 2.0);
        // The costlier operand counts, and an operand that is not native takes the costliest.
        check(product(E4M3, BF16, None), 4.0 * 512.0 + (16.0 + 512.0) * 2.0);
        check(product(E4M3, Format::F32, None), 4.0 * 512.0 + (16.0 + 1024.0) * 2.0);
        // Half of the codes, and a two-bit index for each.
        let sparse = 256.0 + 256.0 * 0.25 + (16.0 + 128.0 + 32.0) * 2.0;
        check(product(E4M3, E4M3, Some(Pattern::P2_4)), sparse);
    }

    #[test]
    fn a_group_costs_its_scales() {
        let mxfp8 = Format::from_name("mxfp8").unwrap();
        let mut t = round();
        t.energy.as_mut().unwrap().mac_pj.push((mxfp8, 1.0));
        let work = Work::Matmul { m: 1, n: 32, k: 32, a: mxfp8, b: mxfp8, pattern: None };
        assert_eq!(cost(&work, &t).energy_pj, 1024.0 + (33.0 + 1024.0 + 32.0) * 2.0);
    }

    #[test]
    fn without_a_table_there_is_no_energy() {
        let t = target("mtia-2i").unwrap();
        assert_eq!((&t.energy, t.sustained_power_w(BF16)), (&None, None));
        assert!(t.power_warnings().is_empty());
        let cost = cost(&Work::Fill { bytes: 1 << 20 }, &t);
        assert!(cost.cycles > 0);
        assert_eq!(cost.energy_pj, 0.0);
    }

    #[test]
    fn energy_changes_nothing_else() {
        let with = target("mtia-300").unwrap();
        let without = Target { energy: None, ..with.clone() };
        let work = Work::Matmul { m: 64, n: 96, k: 128, a: E4M3, b: E4M3, pattern: Some(Pattern::P2_4) };
        let (with, without) = (cost(&work, &with), cost(&work, &without));
        assert!(with.energy_pj > 0.0);
        assert_eq!(Cost { energy_pj: 0.0, ..with }, without);
    }
}

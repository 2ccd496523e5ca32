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
            Work::Dma { bytes, .. } => {
                local(bytes)
                    + cost.hbm_bytes as f64 * self.hbm_pj_per_byte
                    + cost.sram_bytes as f64 * self.sram_pj_per_byte
            }
            Work::Fill { bytes } => local(bytes),
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
    /// Operand format of the product that draws the most.
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

    /// The native format whose modelled sustained power exceeds the design power the most, if one does.
    pub fn power_warning(&self) -> Option<PowerWarning> {
        let node_nm = self.energy.as_ref()?.node_nm;
        let (format, modelled_w) = self
            .macs_per_cycle
            .iter()
            .filter_map(|(format, _)| Some((*format, self.sustained_power_w(*format)?)))
            .max_by(|a, b| a.1.total_cmp(&b.1))?;
        (modelled_w > self.tdp_w).then_some(PowerWarning { format, modelled_w, tdp_w: self.tdp_w, node_nm })
    }
}

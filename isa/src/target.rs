//! Target descriptions: how much of the machine there is, and how fast.

use crate::format::Format;
use crate::inst::Engine;
use crate::view::Pattern;

/// A target, resolved to plain numbers. Rates are per PE unless said otherwise.
#[derive(Clone, PartialEq, Debug)]
pub struct Target {
    /// Name, for example `mtia-300`.
    pub name: String,
    /// Text of the file that it comes from; empty for a shipped target.
    pub file: String,
    /// Clock in GHz.
    pub clock_ghz: f64,
    /// Physical rows of PEs.
    pub rows: u16,
    /// Physical columns of PEs.
    pub cols: u16,
    /// Local memory of a PE in bytes.
    pub local_bytes: u64,
    /// Bytes per cycle between an engine and local memory.
    pub local_bytes_per_cycle: f64,
    /// Accumulator bytes of a PE.
    pub bank_bytes: u64,
    /// Shared SRAM in bytes, for the chip.
    pub sram_bytes: u64,
    /// Bytes per cycle of shared SRAM, for the chip.
    pub sram_bytes_per_cycle: f64,
    /// HBM in bytes, for the chip.
    pub hbm_bytes: u64,
    /// Bytes per cycle of HBM, for the chip.
    pub hbm_bytes_per_cycle: f64,
    /// Multiply-accumulates per cycle of one DPE, for every native operand format (the wider of both operands counts).
    pub macs_per_cycle: Vec<(Format, f64)>,
    /// N:M patterns of the second DPE operand, each with its smallest factor on the rate.
    pub patterns: Vec<(Pattern, f64)>,
    /// The factor of a pattern on the rate of an operand format; where a pair is missing, the pattern saves no cycles.
    pub pattern_factors: Vec<(Pattern, Format, f64)>,
    /// f32 operations per cycle of the SE.
    pub simd_ops_per_cycle: f64,
    /// Accumulators per cycle that the RE clears or converts.
    pub bank_elements_per_cycle: f64,
    /// Cycles that the CP needs to issue one instruction.
    pub issue_cycles: u64,
    /// Cycles before the first byte of a transfer from HBM arrives.
    pub hbm_latency_cycles: u64,
    /// Cycles before the first byte of a transfer from shared SRAM arrives.
    pub sram_latency_cycles: u64,
    /// Cycles between the end of one launch and the start of the next.
    pub launch_cycles: u64,
    /// Cycles from the end of the last PE of a chained launch until all PEs know of it.
    pub barrier_cycles: u64,
    /// Bytes per cycle of the chip's links to other chips, in each direction.
    pub link_bytes_per_cycle: f64,
    /// Cycles before the first byte of a message arrives at another chip.
    pub link_latency_cycles: u64,
    /// Thermal design power in watts.
    pub tdp_w: f64,
    /// Energies of actions; `None` where no published table fits.
    pub energy: Option<Energy>,
}

impl Target {
    /// Multiply-accumulates per cycle of one DPE for these operand formats; `None` when one is not native.
    pub fn mac_rate(&self, a: Format, b: Format) -> Option<f64> {
        let rate = |f: Format| self.macs_per_cycle.iter().find(|(g, _)| *g == f).map(|(_, r)| *r);
        Some(rate(a)?.min(rate(b)?))
    }

    /// Dense multiply-accumulates per cycle of one DPE for a product of these formats: those that a native pattern skips
    /// count as done. An operand that is not native is widened to the slowest format.
    pub fn product_rate(&self, a: Format, b: Format, pattern: Option<Pattern>) -> f64 {
        let rate = |format: Format| {
            let (_, dense) = self.macs_per_cycle.iter().find(|(f, _)| *f == format)?;
            Some(dense * pattern.map_or(1.0, |p| self.pattern_factor(p, format)))
        };
        let slowest = || {
            let slowest = self.macs_per_cycle.iter().min_by(|x, y| x.1.total_cmp(&y.1));
            slowest.and_then(|(format, _)| rate(*format)).unwrap_or(f64::INFINITY)
        };
        rate(a).zip(rate(b)).map_or_else(slowest, |(a, b)| a.min(b))
    }

    /// The factor of a pattern on the rate of a format; 1 where the target has none.
    pub fn pattern_factor(&self, pattern: Pattern, format: Format) -> f64 {
        let found = self.pattern_factors.iter().find(|(p, f, _)| (*p, *f) == (pattern, format));
        found.map_or(1.0, |(.., factor)| *factor)
    }

    /// Of the patterns that a constant operand follows, the one to store it in: the native pattern with which its product by
    /// an operand of format `other` is fastest, of equally fast ones that which takes fewest bytes. None when the best
    /// saves neither cycles nor bytes against dense storage.
    pub fn best_pattern(&self, other: Format, constant: Format, followed: &[Pattern]) -> Option<Pattern> {
        let rate = |pattern| self.product_rate(other, constant, pattern);
        let element = constant.element();
        // Bits of the same number of elements, whatever the pattern: 720,720 is divisible by every size up to 16.
        let bits = |p: Pattern| 720_720 / u64::from(p.m.max(1)) * u64::from(p.group_bits(element));
        let native = followed.iter().filter(|p| self.patterns.iter().any(|(have, _)| have == *p)).copied();
        let straddles = |p: Pattern| match (other, constant) {
            (Format::Grouped(a), Format::Grouped(b)) => a.size.min(b.size) % p.m.max(1) != 0,
            (Format::Scalar(_), _) | (_, Format::Scalar(_)) => false,
        };
        let best = native.filter(|&p| !straddles(p)).min_by(|&x, &y| {
            rate(Some(y)).total_cmp(&rate(Some(x))).then(bits(x).cmp(&bits(y))).then(x.cmp(&y))
        })?;
        let saves = rate(Some(best)) > rate(None) || bits(best) < 720_720 * u64::from(element.bits());
        saves.then_some(best)
    }

    /// Number of PEs.
    pub fn n_pes(&self) -> u32 {
        u32::from(self.rows) * u32::from(self.cols)
    }
}

/// Energies of one process node, in picojoules; the memory off the chip has its own technology.
#[derive(Clone, PartialEq, Debug)]
pub struct Energy {
    /// Process node of the on-chip figures in nanometres.
    pub node_nm: f64,
    /// A multiply-accumulate, for every native operand format.
    pub mac_pj: Vec<(Format, f64)>,
    /// A multiply-accumulate that a zero operand gates.
    pub gated_pj: f64,
    /// A multiply-accumulate that a mask or pattern skips.
    pub skipped_pj: f64,
    /// One f32 operation of the SE.
    pub simd_op_pj: f64,
    /// A byte read from or written to local memory.
    pub local_pj_per_byte: f64,
    /// A byte of a mask or of N:M indices read in a product.
    pub metadata_pj_per_byte: f64,
    /// A byte read from or written to shared SRAM.
    pub sram_pj_per_byte: f64,
    /// A byte over the HBM port.
    pub hbm_pj_per_byte: f64,
    /// What an engine of one PE draws in a cycle in which it is powered but not busy, in the order of [`Engine::ALL`]; an
    /// assumed share of [`Energy::busy_pj_per_cycle`].
    pub idle_pj_per_cycle: [f64; Engine::ALL.len()],
}

//! The energy section of a target file.

use serde::Deserialize;

use super::{Figure, Quantity, TargetError, plain};
use crate::energy::Energy;
use crate::format::Format;
use crate::target::Target;

/// Energies of one figure each, in the section `energy`.
pub(super) const ENERGIES: [&str; 9] =
    ["node", "local", "shared_sram", "hbm", "metadata", "gated", "skipped", "simd_op", "idle"];

/// The energy of a multiply-accumulate in some operand formats.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MacEnergy {
    /// Names of the formats.
    pub formats: Vec<String>,
    /// One multiply-accumulate.
    pub mac: Figure,
}

/// Energies of actions. All on-chip figures are of one process node; the memory off the chip has its own technology.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnergyFigures {
    /// Process node of the on-chip figures.
    pub node: Figure,
    /// A byte of local memory.
    pub local: Figure,
    /// A byte of shared SRAM.
    pub shared_sram: Figure,
    /// A byte or bit of HBM (or the DRAM in its place).
    pub hbm: Figure,
    /// A byte of a mask or of N:M indices.
    pub metadata: Figure,
    /// A multiply-accumulate that a zero operand gates.
    pub gated: Figure,
    /// A multiply-accumulate that a mask or pattern skips.
    pub skipped: Figure,
    /// One f32 operation of the SE.
    pub simd_op: Figure,
    /// What an engine draws when it is powered but not busy, as a share of what it draws at its greatest rate; all together at
    /// most this share of the design power.
    pub idle: Figure,
    /// Multiply-accumulates by operand format.
    pub macs: Vec<MacEnergy>,
}

impl EnergyFigures {
    /// Every figure with a label for people.
    pub(super) fn figures(&self) -> Vec<(String, &Figure)> {
        let EnergyFigures { node, local, shared_sram, hbm, metadata, gated, skipped, simd_op, idle, macs } =
            self;
        let named = [
            ("energy: node", node),
            ("energy: local memory", local),
            ("energy: shared SRAM", shared_sram),
            ("energy: HBM", hbm),
            ("energy: metadata", metadata),
            ("energy: MAC gated", gated),
            ("energy: MAC skipped", skipped),
            ("energy: SIMD operation", simd_op),
            ("energy: idle engine", idle),
        ];
        let macs = macs.iter().map(|m| (format!("energy: MAC of {}", m.formats.join(", ")), &m.mac));
        named.into_iter().map(|(name, figure)| (name.to_owned(), figure)).chain(macs).collect()
    }

    /// The plain numbers, for the native formats of `target`.
    pub(super) fn resolve(&self, target: &Target) -> Result<Energy, TargetError> {
        let native = |format: Format| target.macs_per_cycle.iter().any(|(f, _)| *f == format);
        let mut mac_pj: Vec<(Format, f64)> = Vec::new();
        for MacEnergy { formats, mac } in &self.macs {
            let first = formats.first().map_or("", String::as_str);
            let pj = plain(&format!("energy.mac.{first}"), mac, Quantity::Energy)?;
            for name in formats {
                let fault = || TargetError::Energy(name.clone());
                let format = Format::from_name(name).filter(|f| native(*f)).ok_or_else(fault)?;
                if mac_pj.iter().any(|(f, _)| *f == format) {
                    return Err(fault());
                }
                mac_pj.push((format, pj));
            }
        }
        let missing = target.macs_per_cycle.iter().find(|(f, _)| mac_pj.iter().all(|(g, _)| g != f));
        if let Some((format, _)) = missing {
            return Err(TargetError::Energy(format.to_string()));
        }
        let mut energy = Energy {
            node_nm: plain("energy.node", &self.node, Quantity::Node)?,
            mac_pj,
            gated_pj: plain("energy.gated", &self.gated, Quantity::Energy)?,
            skipped_pj: plain("energy.skipped", &self.skipped, Quantity::Energy)?,
            simd_op_pj: plain("energy.simd_op", &self.simd_op, Quantity::Energy)?,
            local_pj_per_byte: plain("energy.local", &self.local, Quantity::EnergyPerByte)?,
            metadata_pj_per_byte: plain("energy.metadata", &self.metadata, Quantity::EnergyPerByte)?,
            sram_pj_per_byte: plain("energy.shared_sram", &self.shared_sram, Quantity::EnergyPerByte)?,
            hbm_pj_per_byte: plain("energy.hbm", &self.hbm, Quantity::EnergyPerByte)?,
            idle_pj_per_cycle: Default::default(),
        };
        let idle = plain("energy.idle", &self.idle, Quantity::Ratio)?;
        let busy = energy.busy_pj_per_cycle(target);
        // Picojoules per cycle times gigacycles per second are milliwatts.
        let all_w = busy.iter().sum::<f64>() * f64::from(target.n_pes()) * target.clock_ghz * 1e-3;
        // Engines that cannot all be busy within the design power leak less than their rates suggest.
        let within = if all_w > target.tdp_w { target.tdp_w / all_w } else { 1.0 };
        energy.idle_pj_per_cycle = busy.map(|busy| idle * within * busy);
        Ok(energy)
    }
}

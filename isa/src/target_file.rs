//! Target files: TOML in which every figure has a unit, a status and a source.
//!
//! A file is refused when a unit is not what its figure needs, a figure is not positive, or the peak derived from PEs, rate
//! and clock misses the declared one by over 5% without a waiver that says why. Energies are optional; a table of them covers
//! every native format and is of one process node.

mod energy;
mod overlay;

use std::sync::LazyLock;

use serde::Deserialize;

use crate::format::Format;
use crate::target::Target;
use crate::view::Pattern;

pub use energy::{EnergyFigures, MacEnergy};
pub use overlay::{Change, Own, Refusal, change, read, shipped};

/// Name of the target that commands use when none is named.
pub const DEFAULT_TARGET: &str = "mtia-300";

/// Greatest relative distance of a derived peak from the declared one.
pub const PEAK_TOLERANCE: f64 = 0.05;

/// How much a figure is worth.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// The primary text was read.
    Published,
    /// Published, read through another text.
    Secondary,
    /// Only in news texts.
    Reported,
    /// Computed from other figures.
    Derived,
    /// Nobody has published it; the source says why this value.
    Assumed,
    /// Asked by the user, to see what follows.
    #[serde(rename = "what-if")]
    WhatIf,
}

impl Status {
    /// The word in files and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Status::Published => "published",
            Status::Secondary => "secondary",
            Status::Reported => "reported",
            Status::Derived => "derived",
            Status::Assumed => "assumed",
            Status::WhatIf => "what-if",
        }
    }
}

/// A figure.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figure {
    /// The value, in `unit`.
    pub value: f64,
    /// The unit, for example `GHz`.
    pub unit: String,
    /// How much it is worth.
    pub status: Status,
    /// Where it comes from, or why it was assumed.
    pub source: String,
}

/// The rate of some operand formats on one DPE.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MacFigures {
    /// Names of the formats.
    pub formats: Vec<String>,
    /// Multiply-accumulates per cycle of one DPE.
    pub rate: Figure,
    /// Declared peak of the chip in TFLOPS (two operations per multiply-accumulate).
    pub peak: Option<Figure>,
    /// Why the derived peak may miss the declared one.
    pub waiver: Option<String>,
}

/// An N:M pattern of the second DPE operand.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PatternFigures {
    /// Elements stored of each `m`.
    pub n: u8,
    /// Elements of one group.
    pub m: u8,
    /// Names of the operand formats that have it; empty for all native ones.
    #[serde(default)]
    pub formats: Vec<String>,
    /// Factor on the dense rate.
    pub factor: Figure,
}

macro_rules! target_file {
    ($($(#[$doc:meta])* $field:ident,)*) => {
        /// A target file. Rates are per PE unless said otherwise.
        #[derive(Clone, PartialEq, Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct TargetFile {
            /// Name, for example `mtia-300`.
            pub name: String,
            /// One line that says what it is.
            pub summary: String,
            $($(#[$doc])* pub $field: Figure,)*
            /// Rates by operand format.
            pub macs: Vec<MacFigures>,
            /// Native N:M patterns.
            #[serde(default)]
            pub patterns: Vec<PatternFigures>,
            /// Energies of actions.
            pub energy: Option<EnergyFigures>,
        }

        impl TargetFile {
            /// The named figures, in the order of the fields; those of formats and patterns come apart.
            pub fn figures(&self) -> Vec<(&'static str, &Figure)> {
                vec![$((stringify!($field), &self.$field),)*]
            }
        }
    };
}

target_file! {
    /// Clock.
    clock,
    /// Physical rows of PEs.
    rows,
    /// Physical columns of PEs.
    cols,
    /// Local memory.
    local_memory,
    /// Between an engine and local memory.
    local_bandwidth,
    /// Accumulators of the RE.
    accumulators,
    /// Shared SRAM of the chip.
    shared_sram,
    /// Bandwidth of shared SRAM, for the chip.
    shared_sram_bandwidth,
    /// HBM (or the DRAM in its place) of the chip.
    hbm,
    /// Bandwidth of HBM, for the chip.
    hbm_bandwidth,
    /// f32 operations of the SE.
    simd_rate,
    /// Accumulators that the RE clears or converts.
    accumulator_rate,
    /// Issue of one instruction.
    issue,
    /// First byte from HBM.
    hbm_latency,
    /// First byte from shared SRAM.
    shared_sram_latency,
    /// From the end of a launch to the start of the next.
    launch,
    /// From the end of the last PE until all know of it.
    barrier,
    /// Links of the chip to others, in each direction.
    link_bandwidth,
    /// First byte of a message to another chip.
    link_latency,
    /// Thermal design power.
    tdp,
}

/// Why a target file is refused.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum TargetError {
    /// The text is no target file.
    #[error("{0}")]
    Syntax(String),
    /// A figure has a unit that does not measure it, or a value that cannot be.
    #[error("`{figure}` = {value:?} {unit}: {reason}")]
    Figure {
        /// The figure.
        figure: String,
        /// Its value.
        value: f64,
        /// Its unit.
        unit: String,
        /// What is wrong.
        reason: String,
    },
    /// The text of a figure that is none.
    #[error("`{figure}`: `{text}` is no number with a unit, such as 8 TB/s")]
    Text {
        /// The figure.
        figure: String,
        /// What is there.
        text: String,
    },
    /// A format that is not in the table, or is named twice.
    #[error("format `{0}` is unknown or named twice")]
    Format(String),
    /// A pattern that is none, or has two factors for a format.
    #[error("pattern {n}:{m} is none of up to 16 elements, or has two factors for a format")]
    Pattern {
        /// Elements stored.
        n: u8,
        /// Elements of one group.
        m: u8,
    },
    /// A format has an energy but no rate, or the other way round, or a name twice.
    #[error("energy of format `{0}`: each format that has a rate needs one, and no other may have one")]
    Energy(String),
    /// A name that no figure has.
    #[error("there is no figure `{name}`{}", hint(.nearest))]
    Unknown {
        /// The name.
        name: String,
        /// The question whether another figure was meant.
        nearest: Option<String>,
    },
    /// A base that is not shipped.
    #[error("there is no target `{name}`{}", hint(.nearest))]
    Base {
        /// The name.
        name: String,
        /// The question whether another target was meant.
        nearest: Option<String>,
    },
    /// An object carries the file of another target than its own.
    #[error("the file of target `{name}` is of `{found}`")]
    Other {
        /// The object's target.
        name: String,
        /// That of the file.
        found: String,
    },
    /// The derived peak misses the declared one and there is no waiver.
    #[error("{formats}: derived peak {derived:.1} TFLOPS, declared {declared:.1}")]
    Peak {
        /// The place of the rates among those of the file.
        at: usize,
        /// The formats.
        formats: String,
        /// From PEs, rate and clock.
        derived: f64,
        /// In the file.
        declared: f64,
    },
}

fn hint(nearest: &Option<String>) -> String {
    nearest.as_ref().map_or_else(String::new, |nearest| format!(": {nearest}"))
}

/// What a figure measures; each has its units with their factors to the plain one.
#[derive(Clone, Copy)]
enum Quantity {
    Clock,
    Count,
    Bytes,
    Bandwidth,
    Rate(&'static str),
    Power,
    Energy,
    EnergyPerByte,
    Node,
    Ratio,
    Peak,
}

impl Quantity {
    fn units(self) -> &'static [(&'static str, f64)] {
        match self {
            Quantity::Clock => &[("GHz", 1.0), ("MHz", 1e-3)],
            Quantity::Count => &[("PE", 1.0)],
            Quantity::Bytes => &[
                ("B", 1.0),
                ("KiB", 1024.0),
                ("MiB", 1048576.0),
                ("GiB", 1073741824.0),
                ("KB", 1e3),
                ("MB", 1e6),
                ("GB", 1e9),
            ],
            Quantity::Bandwidth => &[("GB/s", 1e9), ("TB/s", 1e12)],
            Quantity::Rate(unit) => match unit {
                "op/cycle" => &[("op/cycle", 1.0)],
                "element/cycle" => &[("element/cycle", 1.0)],
                "MAC/cycle" => &[("MAC/cycle", 1.0)],
                _ => &[("cycle", 1.0)],
            },
            Quantity::Power => &[("W", 1.0)],
            Quantity::Energy => &[("pJ", 1.0)],
            Quantity::EnergyPerByte => &[("pJ/B", 1.0), ("pJ/bit", 8.0)],
            Quantity::Node => &[("nm", 1.0)],
            Quantity::Ratio => &[("ratio", 1.0)],
            Quantity::Peak => &[("TFLOPS", 1.0), ("PFLOPS", 1e3)],
        }
    }
}

impl Quantity {
    /// The least and the greatest value in the plain unit: far beyond any machine, and near enough that times and
    /// energies of the largest programs stay numbers that can be added.
    fn range(self) -> [f64; 2] {
        match self {
            Quantity::Clock => [1e-3, 1e3],
            Quantity::Count => [1.0, 65535.0],
            Quantity::Bytes => [1.0, 1e18],
            Quantity::Bandwidth => [1e6, 1e18],
            Quantity::Rate("cycle") => [1e-3, 1e9],
            Quantity::Rate(_) | Quantity::Peak => [1e-3, 1e12],
            _ => [1e-12, 1e12],
        }
    }
}

fn plain(name: &str, figure: &Figure, quantity: Quantity) -> Result<f64, TargetError> {
    let Figure { value, unit, .. } = figure;
    let fault = |reason: &str| {
        Err(TargetError::Figure {
            figure: name.to_owned(),
            value: *value,
            unit: unit.clone(),
            reason: reason.to_owned(),
        })
    };
    let Some((_, factor)) = quantity.units().iter().find(|(u, _)| u == unit) else {
        let known: Vec<&str> = quantity.units().iter().map(|(u, _)| *u).collect();
        return fault(&format!("the unit is none of {}", known.join(", ")));
    };
    if !(value.is_finite() && *value > 0.0) {
        return fault("the value is not a positive number");
    }
    let [least, greatest] = quantity.range();
    if !(least..=greatest).contains(&(value * factor)) {
        let (unit, factor) = quantity.units()[0];
        let [least, greatest] = [least, greatest].map(|end| end / factor);
        return fault(&format!("the value is not between {least:e} and {greatest:e} {unit}"));
    }
    if figure.source.trim().is_empty() {
        return fault("it has no source");
    }
    Ok(value * factor)
}

impl TargetFile {
    /// Every figure of the file with a label for people, in the order of the file.
    pub fn all_figures(&self) -> Vec<(String, &Figure)> {
        let mut all: Vec<(String, &Figure)> =
            self.figures().into_iter().map(|(name, figure)| (name.to_owned(), figure)).collect();
        for macs in &self.macs {
            let formats = macs.formats.join(", ");
            all.push((format!("rate of {formats}"), &macs.rate));
            all.extend(macs.peak.iter().map(|peak| (format!("peak of {formats}"), peak)));
        }
        for pattern in &self.patterns {
            let mut label = format!("{}:{} sparsity", pattern.n, pattern.m);
            if !pattern.formats.is_empty() {
                label += &format!(" of {}", pattern.formats.join(", "));
            }
            all.push((label, &pattern.factor));
        }
        all.extend(self.energy.iter().flat_map(EnergyFigures::figures));
        all
    }

    /// The declared peaks beside the derived ones of `target`, which the file resolves to.
    pub fn peaks(&self, target: &Target) -> Vec<Peak<'_>> {
        self.macs.iter().filter_map(|macs| macs.peak(target).ok()?).collect()
    }

    /// Reads and checks a target file.
    ///
    /// # Errors
    /// When the text is no target file, or [`TargetFile::resolve`] refuses it.
    pub fn parse(text: &str) -> Result<TargetFile, TargetError> {
        let file: TargetFile = toml::from_str(text).map_err(|e| TargetError::Syntax(e.to_string()))?;
        file.resolve()?;
        Ok(file)
    }

    /// The plain numbers.
    ///
    /// # Errors
    /// On units that do not measure their figure, values that cannot be, unknown formats, and derived peaks over
    /// [`PEAK_TOLERANCE`] from the declared ones without a waiver.
    pub fn resolve(&self) -> Result<Target, TargetError> {
        let clock_ghz = plain("clock", &self.clock, Quantity::Clock)?;
        let whole = |name: &str, figure: &Figure, quantity: Quantity| {
            plain(name, figure, quantity).map(|v| v.round().max(1.0) as u64)
        };
        let per_cycle = |name: &str, figure: &Figure| {
            plain(name, figure, Quantity::Bandwidth).map(|bytes_per_s| bytes_per_s / (clock_ghz * 1e9))
        };
        let pes = |name: &str, figure: &Figure| {
            whole(name, figure, Quantity::Count).map(|n| u16::try_from(n).unwrap_or(u16::MAX))
        };
        let mut target = Target {
            name: self.name.clone(),
            file: String::new(),
            clock_ghz,
            rows: pes("rows", &self.rows)?,
            cols: pes("cols", &self.cols)?,
            local_bytes: whole("local_memory", &self.local_memory, Quantity::Bytes)?,
            local_bytes_per_cycle: per_cycle("local_bandwidth", &self.local_bandwidth)?,
            bank_bytes: whole("accumulators", &self.accumulators, Quantity::Bytes)?,
            sram_bytes: whole("shared_sram", &self.shared_sram, Quantity::Bytes)?,
            sram_bytes_per_cycle: per_cycle("shared_sram_bandwidth", &self.shared_sram_bandwidth)?,
            hbm_bytes: whole("hbm", &self.hbm, Quantity::Bytes)?,
            hbm_bytes_per_cycle: per_cycle("hbm_bandwidth", &self.hbm_bandwidth)?,
            macs_per_cycle: Vec::new(),
            patterns: Vec::new(),
            pattern_factors: Vec::new(),
            simd_ops_per_cycle: plain("simd_rate", &self.simd_rate, Quantity::Rate("op/cycle"))?,
            bank_elements_per_cycle: plain(
                "accumulator_rate",
                &self.accumulator_rate,
                Quantity::Rate("element/cycle"),
            )?,
            issue_cycles: whole("issue", &self.issue, Quantity::Rate("cycle"))?,
            hbm_latency_cycles: whole("hbm_latency", &self.hbm_latency, Quantity::Rate("cycle"))?,
            sram_latency_cycles: whole(
                "shared_sram_latency",
                &self.shared_sram_latency,
                Quantity::Rate("cycle"),
            )?,
            launch_cycles: whole("launch", &self.launch, Quantity::Rate("cycle"))?,
            barrier_cycles: whole("barrier", &self.barrier, Quantity::Rate("cycle"))?,
            link_bytes_per_cycle: per_cycle("link_bandwidth", &self.link_bandwidth)?,
            link_latency_cycles: whole("link_latency", &self.link_latency, Quantity::Rate("cycle"))?,
            tdp_w: plain("tdp", &self.tdp, Quantity::Power)?,
            energy: None,
        };
        for (at, macs) in self.macs.iter().enumerate() {
            let rate = plain(&format!("macs.{at}.rate"), &macs.rate, Quantity::Rate("MAC/cycle"))?;
            for name in &macs.formats {
                let format = Format::from_name(name).ok_or_else(|| TargetError::Format(name.clone()))?;
                if target.macs_per_cycle.iter().any(|(f, _)| *f == format) {
                    return Err(TargetError::Format(name.clone()));
                }
                target.macs_per_cycle.push((format, rate));
            }
            if let Some(peak) = macs.peak(&target)?.filter(|peak| !peak.holds()) {
                let Peak { declared_tflops: declared, derived_tflops: derived, .. } = peak;
                return Err(TargetError::Peak { at, formats: macs.formats.join(", "), derived, declared });
            }
        }
        for figures in &self.patterns {
            figures.resolve(&mut target)?;
        }
        target.energy = self.energy.as_ref().map(|figures| figures.resolve(&target)).transpose()?;
        Ok(target)
    }
}

/// A declared peak beside the one that PEs, rate and clock give.
#[derive(Clone, PartialEq, Debug)]
pub struct Peak<'f> {
    /// Names of the formats.
    pub formats: &'f [String],
    /// In the file.
    pub declared_tflops: f64,
    /// From PEs, rate and clock.
    pub derived_tflops: f64,
    /// Why the two may differ.
    pub waiver: Option<&'f str>,
}

impl Peak<'_> {
    /// Whether the two are within [`PEAK_TOLERANCE`], or may differ.
    fn holds(&self) -> bool {
        self.waiver.is_some() || (self.derived_tflops / self.declared_tflops - 1.0).abs() <= PEAK_TOLERANCE
    }
}

impl MacFigures {
    fn peak(&self, target: &Target) -> Result<Option<Peak<'_>>, TargetError> {
        let Some(peak) = &self.peak else { return Ok(None) };
        let rate = plain("rate", &self.rate, Quantity::Rate("MAC/cycle"))?;
        Ok(Some(Peak {
            formats: &self.formats,
            declared_tflops: plain("peak", peak, Quantity::Peak)?,
            derived_tflops: 2.0 * rate * f64::from(target.n_pes()) * target.clock_ghz * 1e-3,
            waiver: self.waiver.as_deref(),
        }))
    }
}

impl PatternFigures {
    fn resolve(&self, target: &mut Target) -> Result<(), TargetError> {
        let PatternFigures { n, m, ref formats, ref factor } = *self;
        let fault = || TargetError::Pattern { n, m };
        if n == 0 || n >= m || m > 16 {
            return Err(fault());
        }
        let pattern = Pattern { n, m };
        let factor = plain("factor", factor, Quantity::Ratio)?;
        let native = target.macs_per_cycle.iter().map(|(format, _)| *format);
        let chosen: Vec<Format> = if formats.is_empty() {
            native.collect()
        } else {
            let native: Vec<Format> = native.collect();
            let find = |name: &String| Format::from_name(name).filter(|f| native.contains(f));
            let known =
                formats.iter().map(|name| find(name).ok_or_else(|| TargetError::Format(name.clone())));
            known.collect::<Result<_, _>>()?
        };
        for format in chosen {
            if target.pattern_factors.iter().any(|(p, f, _)| (*p, *f) == (pattern, format)) {
                return Err(fault());
            }
            target.pattern_factors.push((pattern, format, factor));
        }
        match target.patterns.iter_mut().find(|(p, _)| *p == pattern) {
            Some((_, least)) => *least = least.min(factor),
            None => target.patterns.push((pattern, factor)),
        }
        Ok(())
    }
}

const FILES: [&str; 14] = [
    include_str!("../targets/mtia-300.toml"),
    include_str!("../targets/mtia-2i.toml"),
    include_str!("../targets/mtia-400.toml"),
    include_str!("../targets/mtia-450.toml"),
    include_str!("../targets/mtia-500.toml"),
    include_str!("../targets/mtia-v3-reported.toml"),
    include_str!("../targets/tpu-v5p.toml"),
    include_str!("../targets/tpu7x.toml"),
    include_str!("../targets/tpu5-reported.toml"),
    include_str!("../targets/maia-100.toml"),
    include_str!("../targets/maia-100-reported.toml"),
    include_str!("../targets/mi350x.toml"),
    include_str!("../targets/trainium2.toml"),
    include_str!("../targets/trainium2-reported.toml"),
];

/// Machines that nobody has announced, each on top of one above.
const WHAT_IF: [&str; 3] = [
    include_str!("../targets/what-if/mtia-300-hybrid-bonded.toml"),
    include_str!("../targets/what-if/mtia-500-hbm4-fast.toml"),
    include_str!("../targets/what-if/mtia-500-optical.toml"),
];

/// The same with the figures of their bases.
static FLAT: LazyLock<Vec<String>> =
    LazyLock::new(|| WHAT_IF.iter().filter_map(|text| overlay::whole(text).ok()).collect());

static TARGETS: LazyLock<Vec<TargetFile>> = LazyLock::new(|| {
    // A file that does not load is left out; a test holds all of them to load.
    let texts = FILES.iter().copied().chain(FLAT.iter().map(String::as_str));
    texts.filter_map(|text| TargetFile::parse(text).ok()).collect()
});

/// The shipped target files, the default target first.
pub fn targets() -> &'static [TargetFile] {
    &TARGETS
}

/// The shipped target of this name.
pub fn target(name: &str) -> Option<Target> {
    targets().iter().find(|t| t.name == name)?.resolve().ok()
}

#[cfg(test)]
mod tests;

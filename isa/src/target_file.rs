//! Target files: TOML in which every figure has a unit, a status and a source.
//!
//! A file is refused when a unit is not what its figure needs, a figure is not positive, or the peak derived from PEs, rate
//! and clock misses the declared one by over 5% without a waiver that says why. Energies are optional; a table of them covers
//! every native format and is of one process node.

mod energy;
mod errors;
mod overlay;
mod place;
mod written;

use std::sync::LazyLock;

use serde::Deserialize;

use crate::format::{Format, GroupFormat, ScalarType};
use crate::nearest::nearest;
use crate::target::Target;
use crate::view::Pattern;

pub use energy::{EnergyFigures, MacEnergy};
pub use errors::TargetError;
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

/// What a figure measures; each has its units with their factors to the plain one.
#[derive(Clone, Copy)]
enum Quantity {
    Clock,
    Count,
    Bytes,
    Bandwidth,
    Rate(&'static str),
    /// A span of time, whatever the clock; cycles, or nanoseconds that the clock divides.
    Span,
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
            Quantity::Span => &[("cycle", 1.0), ("ns", 1.0), ("us", 1e3)],
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
            Quantity::Rate("cycle") | Quantity::Span => [1e-3, 1e9],
            Quantity::Rate(_) | Quantity::Peak => [1e-3, 1e12],
            _ => [1e-12, 1e12],
        }
    }
}

fn fault(name: &str, figure: &Figure, reason: impl Into<String>) -> TargetError {
    TargetError::Figure {
        figure: name.to_owned(),
        value: figure.value,
        unit: figure.unit.clone(),
        reason: reason.into(),
    }
}

fn plain(name: &str, figure: &Figure, quantity: Quantity) -> Result<f64, TargetError> {
    let Figure { value, unit, .. } = figure;
    let fault = |reason: &str| Err(fault(name, figure, reason));
    let Some(&(_, factor)) = quantity.units().iter().find(|(u, _)| u == unit) else {
        let known: Vec<&str> = quantity.units().iter().map(|(u, _)| *u).collect();
        let known = known.join(", ");
        return fault(&match unit.is_empty() {
            true => format!("it has no unit, which is one of {known}"),
            false => format!("the unit is none of {known}"),
        });
    };
    if !(value.is_finite() && *value > 0.0) {
        return fault("the value is not a positive number");
    }
    // A quotient by a whole number is rounded once: 1900 MHz are 1.9 GHz.
    let plain = if factor < 1.0 { value / (1.0 / factor).round() } else { value * factor };
    let [least, greatest] = quantity.range();
    if !(least..=greatest).contains(&plain) {
        let (unit, factor) = quantity.units()[0];
        let [least, greatest] = [least, greatest].map(|end| end / factor);
        return fault(&format!("the value is not between {least:e} and {greatest:e} {unit}"));
    }
    if matches!(quantity, Quantity::Count) && plain.fract() != 0.0 {
        return fault("the value is not a whole number");
    }
    if figure.source.trim().is_empty() {
        return fault("it has no source");
    }
    Ok(plain)
}

/// The cycles of a span of time: an engine that waits for it waits whole cycles.
fn cycles(name: &str, figure: &Figure, clock_ghz: f64) -> Result<u64, TargetError> {
    let value = plain(name, figure, Quantity::Span)?;
    if figure.unit == "cycle" {
        return Ok(value.round().max(1.0) as u64);
    }
    // What is a whole number of cycles stays one where the product was rounded up.
    let cycles = (value * clock_ghz * (1.0 - f64::EPSILON)).ceil().max(1.0);
    let [_, greatest] = Quantity::Span.range();
    if cycles > greatest {
        return Err(fault(name, figure, format!("it is more than {greatest:e} cycles")));
    }
    Ok(cycles as u64)
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
            hbm_latency_cycles: cycles("hbm_latency", &self.hbm_latency, clock_ghz)?,
            sram_latency_cycles: cycles("shared_sram_latency", &self.shared_sram_latency, clock_ghz)?,
            launch_cycles: cycles("launch", &self.launch, clock_ghz)?,
            barrier_cycles: cycles("barrier", &self.barrier, clock_ghz)?,
            link_bytes_per_cycle: per_cycle("link_bandwidth", &self.link_bandwidth)?,
            link_latency_cycles: cycles("link_latency", &self.link_latency, clock_ghz)?,
            tdp_w: plain("tdp", &self.tdp, Quantity::Power)?,
            energy: None,
        };
        for (at, macs) in self.macs.iter().enumerate() {
            let first = macs.formats.first().map_or("", String::as_str);
            let rate = plain(&format!("rate.{first}"), &macs.rate, Quantity::Rate("MAC/cycle"))?;
            for name in &macs.formats {
                let format = format_of(name)?;
                if target.macs_per_cycle.iter().any(|(f, _)| *f == format) {
                    return Err(TargetError::format(name, "is named twice"));
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

/// The format of this name.
fn format_of(name: &str) -> Result<Format, TargetError> {
    Format::from_name(name).ok_or_else(|| {
        let known = ScalarType::ALL.iter().map(|f| f.name()).chain(GroupFormat::ALL.iter().map(|f| f.name()));
        TargetError::Format { name: name.to_owned(), reason: "is unknown", nearest: nearest(name, known) }
    })
}

/// The question whether a shipped target was meant by a name that none has.
pub fn nearest_target(name: &str) -> Option<String> {
    nearest(name, targets().iter().map(|t| t.name.as_str()))
}

impl PatternFigures {
    fn resolve(&self, target: &mut Target) -> Result<(), TargetError> {
        let PatternFigures { n, m, ref formats, ref factor } = *self;
        let none = || TargetError::Pattern { n, m };
        if n == 0 || n >= m || m > 16 {
            return Err(none());
        }
        let pattern = Pattern { n, m };
        let name = format!("pattern.{pattern}");
        let times = plain(&name, factor, Quantity::Ratio)?;
        if times * f64::from(n) > f64::from(m) {
            let reason =
                format!("{n} of {m} products are left, so it is at most {}", f64::from(m) / f64::from(n));
            return Err(fault(&name, factor, reason));
        }
        let factor = times;
        let native = target.macs_per_cycle.iter().map(|(format, _)| *format);
        let chosen: Vec<Format> = if formats.is_empty() {
            native.collect()
        } else {
            let native: Vec<Format> = native.collect();
            let find = |name: &String| match format_of(name)? {
                format if native.contains(&format) => Ok(format),
                _ => Err(TargetError::format(name, "has no rate on this target")),
            };
            formats.iter().map(find).collect::<Result<_, _>>()?
        };
        for format in chosen {
            if target.pattern_factors.iter().any(|(p, f, _)| (*p, *f) == (pattern, format)) {
                return Err(none());
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

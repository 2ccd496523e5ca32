//! Why a target file is refused.

/// Why a target file is refused.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum TargetError {
    /// The text is no target file.
    #[error("{0}")]
    Syntax(String),
    /// A figure has a unit that does not measure it, or a value that cannot be.
    #[error("`{figure}` = {}: {reason}", quantity(*.value, .unit))]
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
    /// What stands where a figure is wanted is neither text nor a table of value, unit, status and source.
    #[error("`{figure}` is no figure, such as \"8 TB/s\" or {{ value, unit, status, source }}: {reason}")]
    Form {
        /// The figure.
        figure: String,
        /// What is wrong.
        reason: String,
    },
    /// A file without a base lacks a figure.
    #[error("there is no `{0}`: without a line such as base = \"mtia-300\" a file needs every figure")]
    Missing(String),
    /// A format that is not in the table, is named twice, or has no rate.
    #[error("format `{name}` {reason}{}", hint(.nearest))]
    Format {
        /// The name.
        name: String,
        /// What is wrong.
        reason: &'static str,
        /// The question whether another format was meant.
        nearest: Option<String>,
    },
    /// A pattern that is none, or has two factors for a format.
    #[error("pattern {n}:{m} is none of up to 16 elements, or has two factors for a format")]
    Pattern {
        /// Elements stored.
        n: u8,
        /// Elements of one group.
        m: u8,
    },
    /// A pattern that is asked for, or taken away, and cannot be.
    #[error("pattern {name} {reason}")]
    NoPattern {
        /// The pattern.
        name: String,
        /// What is wrong.
        reason: String,
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

impl TargetError {
    pub(super) fn format(name: &str, reason: &'static str) -> TargetError {
        TargetError::Format { name: name.to_owned(), reason, nearest: None }
    }
}

fn hint(nearest: &Option<String>) -> String {
    nearest.as_ref().map_or_else(String::new, |nearest| format!(": {nearest}"))
}

fn quantity(value: f64, unit: &str) -> String {
    // Zeros of a number such as 1e300 say nothing.
    let number = if value == 0.0 || (1e-4..1e15).contains(&value.abs()) {
        format!("{value}")
    } else {
        format!("{value:?}")
    };
    format!("{number} {unit}").trim_end().to_owned()
}

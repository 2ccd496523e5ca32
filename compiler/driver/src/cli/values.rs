//! The values of options: text as users write it, checked.

use std::path::PathBuf;

use lacuna_isa::target_file::Change;
use lacuna_optimize::weights::ParseWeightsError;

use super::EntrySpec;

/// Why a text is no value of an option.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ValueError {
    /// It is no pair.
    #[error("it must have the form NAME=VALUE")]
    NoPair,
    /// A part of it is no size.
    #[error("`{0}` is no size")]
    NoSize(String),
    /// A part of it is no range of figures.
    #[error("`{0}` is no range such as 4..12TB/s:5")]
    NoRange(String),
    /// It is no pattern of weights.
    #[error(transparent)]
    NoPattern(ParseWeightsError),
    /// It is an entry without a name.
    #[error("an entry needs a name")]
    UnnamedEntry,
    /// It is no number, or below 0.
    #[error("it must be 0 or more")]
    Negative,
    /// It is no share.
    #[error("a number from 0 to 1")]
    NoShare,
    /// It is no number of decibels.
    #[error("it must be a number of dB")]
    NoDecibels,
    /// It is no number of bytes.
    #[error("it must be a number of bytes such as 65536, 64K or 2M")]
    NoBytes,
    /// It is no percentage.
    #[error("it must be between 0 and 100")]
    NoPercentage,
}

pub(super) fn parse_pair(text: &str) -> Result<(&str, &str), ValueError> {
    // Names of ONNX inputs may contain `=`; file names rarely do.
    match text.rsplit_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => Ok((name, value)),
        _ => Err(ValueError::NoPair),
    }
}

pub(super) fn parse_dim(text: &str) -> Result<(String, u64), ValueError> {
    let (name, value) = parse_pair(text)?;
    let size = value.parse().map_err(|_| ValueError::NoSize(value.to_owned()))?;
    Ok((name.to_owned(), size))
}

pub(super) fn parse_entry(text: &str) -> Result<EntrySpec, ValueError> {
    let (name, dims) = text.split_once(':').unwrap_or((text, ""));
    if name.is_empty() {
        return Err(ValueError::UnnamedEntry);
    }
    let dims = dims.split(',').filter(|dim| !dim.is_empty()).map(parse_dim).collect::<Result<_, _>>()?;
    Ok(EntrySpec { name: name.to_owned(), dims })
}

pub(super) fn parse_change(text: &str) -> Result<Change, ValueError> {
    parse_pair(text).map(|(figure, value)| (figure.to_owned(), value.to_owned()))
}

pub(super) fn parse_file(text: &str) -> Result<(String, PathBuf), ValueError> {
    parse_pair(text).map(|(name, file)| (name.to_owned(), file.into()))
}

pub(super) fn parse_names(text: &str) -> Result<(String, String), ValueError> {
    parse_pair(text).map(|(a, b)| (a.to_owned(), b.to_owned()))
}

pub(super) fn parse_tolerance(text: &str) -> Result<f64, ValueError> {
    text.parse().ok().filter(|x: &f64| x.is_finite() && *x >= 0.0).ok_or(ValueError::Negative)
}

pub(super) fn parse_share(text: &str) -> Result<f64, ValueError> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        Ok(_) | Err(_) => Err(ValueError::NoShare),
    }
}

pub(super) fn parse_decibels(text: &str) -> Result<f64, ValueError> {
    text.parse().ok().filter(|x: &f64| x.is_finite()).ok_or(ValueError::NoDecibels)
}

pub(super) fn parse_bytes(text: &str) -> Result<u64, ValueError> {
    let (digits, shift) = match text.char_indices().last() {
        Some((at, 'K')) => (&text[..at], 10),
        Some((at, 'M')) => (&text[..at], 20),
        Some((at, 'G')) => (&text[..at], 30),
        _ => (text, 0),
    };
    let bytes = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(1 << shift));
    bytes.ok_or(ValueError::NoBytes)
}

pub(super) fn parse_percentage(text: &str) -> Result<f64, ValueError> {
    text.parse().ok().filter(|x: &f64| (0.0..=100.0).contains(x)).ok_or(ValueError::NoPercentage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_binary_suffixes() {
        let check = |text: &str, expect: Option<u64>| assert_eq!(parse_bytes(text).ok(), expect, "{text}");
        check("65536", Some(65536));
        check("64K", Some(65536));
        check("3M", Some(3 << 20));
        check("1G", Some(1 << 30));
        check("M", None);
        check("1.5M", None);
        check("-1", None);
        check("99999999999G", None);
        check("", None);
    }

    #[test]
    fn pairs_need_both_sides() {
        let check = |text: &str, expect: Option<(&str, u64)>| {
            let expect = expect.map(|(name, n)| (name.to_owned(), n));
            assert_eq!(parse_dim(text).ok(), expect, "{text}");
        };
        check("N=4", Some(("N", 4)));
        check("x.0=7", Some(("x.0", 7)));
        check("a=b=7", Some(("a=b", 7)));
        check("N", None);
        check("N=", None);
        check("=4", None);
        check("N=-1", None);
        check("N=99999999999999999999", None);
    }
}

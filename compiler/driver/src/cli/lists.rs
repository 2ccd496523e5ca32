//! The values of options that take lists and ranges.

use lacuna_optimize::WeightSparsity;

use super::values::ValueError;

/// `none`, or a pattern that weights can be pruned to.
///
/// # Errors
/// When the text is neither.
pub fn parse_prune(text: &str) -> Result<String, ValueError> {
    if text == "none" {
        return Ok(text.to_owned());
    }
    text.parse::<WeightSparsity>().map(|_| text.to_owned()).map_err(ValueError::NoPattern)
}

/// `NAME=8`, or several sizes: `NAME=1,8,64`.
///
/// # Errors
/// When the text has another form.
pub fn parse_sizes(text: &str) -> Result<(String, Vec<u64>), ValueError> {
    let (name, list) = pair(text)?;
    let size = |text: &str| text.parse::<u64>().map_err(|_| ValueError::NoSize(text.to_owned()));
    Ok((name.to_owned(), list.split(',').map(size).collect::<Result<_, _>>()?))
}

/// `FIGURE=VALUE`, several values separated by commas, of which those without a unit have that of the last, or a range `FROM..TO UNIT:STEPS` such as `4..12TB/s:5`, both ends included.
///
/// # Errors
/// When the text has another form.
pub fn parse_values(text: &str) -> Result<(String, Vec<String>), ValueError> {
    let (name, list) = pair(text)?;
    let values: Vec<String> = match list.split_once("..") {
        None => {
            let unit = list
                .rsplit(',')
                .next()
                .map(str::trim)
                .and_then(|last| last.get(number_end(last)..))
                .unwrap_or("");
            let is_plain = |value: &str| value.trim().parse::<f64>().is_ok();
            let with_unit = |value: &str| {
                if is_plain(value) {
                    format!("{}{}", value.trim(), unit.trim())
                } else {
                    value.trim().to_owned()
                }
            };
            list.split(',').map(with_unit).collect()
        }
        Some((from, rest)) => {
            let wrong = || ValueError::NoRange(list.to_owned());
            let (to, steps) = rest.rsplit_once(':').ok_or_else(wrong)?;
            let steps: u32 = steps.parse().ok().filter(|n| (2..=1000).contains(n)).ok_or_else(wrong)?;
            let (to, unit) = to.split_at(number_end(to));
            let ends = from.trim().parse::<f64>().ok().zip(to.trim().parse::<f64>().ok());
            let (from, to) = ends.ok_or_else(wrong)?;
            // Seven digits are enough for a question.
            let exact = |i: u32| from + (to - from) * f64::from(i) / f64::from(steps - 1);
            let at = |i: u32| format!("{:.6e}", exact(i)).parse::<f64>().unwrap_or_else(|_| exact(i));
            (0..steps).map(|i| format!("{}{}", at(i), unit.trim())).collect()
        }
    };
    Ok((name.to_owned(), values))
}

/// Where the number that a text begins with ends.
fn number_end(text: &str) -> usize {
    let end = text.find(|c: char| !(c.is_ascii_digit() || ".eE+-".contains(c))).unwrap_or(text.len());
    // An `e` is that of an exponent, or begins a unit.
    (0..=end).rev().find(|&at| text[..at].parse::<f64>().is_ok()).unwrap_or(0)
}

fn pair(text: &str) -> Result<(&str, &str), ValueError> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => Ok((name, value)),
        _ => Err(ValueError::NoPair),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_ranges() {
        let values = |text: &str| parse_values(text).map(|(_, values)| values);
        let list = |values: &[&str]| Ok(values.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>());
        assert_eq!(values("hbm_bandwidth=8TB/s"), list(&["8TB/s"]));
        assert_eq!(
            values("hbm_bandwidth=4..12TB/s:5"),
            list(&["4TB/s", "6TB/s", "8TB/s", "10TB/s", "12TB/s"])
        );
        assert_eq!(values("clock=1..2GHz:4"), list(&["1GHz", "1.333333GHz", "1.666667GHz", "2GHz"]));
        assert_eq!(values("hbm_bandwidth=2,4, 8 TB/s"), list(&["2TB/s", "4TB/s", "8 TB/s"]));
        assert_eq!(
            values("accumulator_rate=32,64element/cycle"),
            list(&["32element/cycle", "64element/cycle"])
        );
        assert_eq!(values("rows=4,6"), list(&["4", "6"]));
        assert_eq!(values("pattern.2:4=none,1.5"), list(&["none", "1.5"]));
        assert_eq!(values("clock=1GHz,2GHz"), list(&["1GHz", "2GHz"]));
        for wrong in ["clock", "clock=", "clock=1..2GHz", "clock=1..xGHz:3", "clock=1..2GHz:1"] {
            assert!(values(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse_sizes("batch=1,8"), Ok(("batch".to_owned(), vec![1, 8])));
        assert!(parse_sizes("batch=1,x").is_err());
    }
}

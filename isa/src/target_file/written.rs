//! Figures as users write them, `"8 TB/s"`, in place of tables.

use toml::{Table, Value};

use super::energy::ENERGIES;
use super::{Figure, Status, TargetError};

/// Counts, which have one unit.
const COUNTS: [&str; 2] = ["rows", "cols"];

/// The table of a figure: text and plain numbers are questions, and a number without a unit is refused when it is measured.
///
/// # Errors
/// When it is none.
pub(super) fn figure(name: &str, value: Value) -> Result<Value, TargetError> {
    let form = |reason: String| TargetError::Form { figure: name.to_owned(), reason };
    match value {
        Value::String(text) => what_if(name, &text),
        Value::Integer(number) => what_if(name, &number.to_string()),
        Value::Float(number) => what_if(name, &number.to_string()),
        Value::Table(table) => {
            let checked = table.clone().try_into::<Figure>();
            checked.map(|_| Value::Table(table)).map_err(|e| form(e.message().to_owned()))
        }
        other => Err(form(format!("it is a {}", other.type_str()))),
    }
}

/// A figure from text such as `8 TB/s`.
fn what_if(name: &str, text: &str) -> Result<Value, TargetError> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || ".+-_eE".contains(c))).unwrap_or(text.len());
    // An `e` is that of an exponent, or begins a unit.
    let number = (0..=end).rev().find_map(|at| Some((at, text[..at].parse::<f64>().ok()?)));
    let Some((end, value)) = number else {
        return Err(TargetError::Text { figure: name.to_owned(), text: text.to_owned() });
    };
    let unit = match text[end..].trim() {
        "" if COUNTS.contains(&name) => "PE",
        "" if name.starts_with("pattern.") => "ratio",
        unit => unit,
    };
    let mut figure = Table::new();
    figure.insert("value".to_owned(), Value::Float(value));
    figure.insert("unit".to_owned(), Value::String(unit.to_owned()));
    figure.insert("status".to_owned(), Value::String(Status::WhatIf.name().to_owned()));
    figure.insert("source".to_owned(), Value::String("a question, not a fact".to_owned()));
    Ok(Value::Table(figure))
}

/// Makes every figure in the lists and the table of energies of a file a table.
///
/// # Errors
/// When one is none.
pub(super) fn lists(table: &mut Table) -> Result<(), TargetError> {
    of_list(table.get_mut("macs"), "formats", &[("rate", "rate"), ("peak", "peak")])?;
    of_list(table.get_mut("patterns"), "", &[("factor", "pattern")])?;
    let Some(Value::Table(energy)) = table.get_mut("energy") else { return Ok(()) };
    for name in ENERGIES {
        if let Some(value) = energy.get_mut(name) {
            *value = figure(&format!("energy.{name}"), value.clone())?;
        }
    }
    of_list(energy.get_mut("macs"), "formats", &[("mac", "energy.mac")])
}

fn of_list(list: Option<&mut Value>, names: &str, fields: &[(&str, &str)]) -> Result<(), TargetError> {
    let Some(Value::Array(items)) = list else { return Ok(()) };
    for item in items.iter_mut().filter_map(Value::as_table_mut) {
        let number = |key: &str| item.get(key).and_then(Value::as_integer).unwrap_or_default();
        let first = item.get(names).and_then(|formats| formats.get(0)).and_then(Value::as_str);
        let name = first.map_or_else(|| format!("{}:{}", number("n"), number("m")), str::to_owned);
        for (field, prefix) in fields {
            if let Some(value) = item.get_mut(*field) {
                *value = figure(&format!("{prefix}.{name}"), value.clone())?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_follow_numbers_with_and_without_a_space() {
        let texts = ["64 element/cycle", "64element/cycle", "6.4e1element/cycle", "0.64E2 element/cycle"];
        for text in texts {
            let figure = what_if("accumulator_rate", text).expect(text);
            assert_eq!(figure["value"].as_float(), Some(64.0), "{text}");
            assert_eq!(figure["unit"].as_str(), Some("element/cycle"), "{text}");
        }
    }
}

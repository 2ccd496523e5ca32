//! Target files on top of shipped ones: a `base`, and figures that take the place of its own.
//!
//! Such a file, or a change from the command line, may give a figure as text, `"8 TB/s"`. Its status then is `what-if`. What the base
//! derives from a changed figure follows: latencies that it gives in cycles stay as long as they were when the clock changes, and declared
//! peaks go when grid, clock or rates do.

use toml::{Table, Value};

use super::{FILES, Figure, Status, TargetError, TargetFile};
use crate::asm::nearest;
use crate::format::Format;
use crate::target::Target;

/// What a file may have beside named figures.
const OTHER_KEYS: [&str; 7] = ["name", "summary", "base", "macs", "patterns", "energy", "rate"];
/// Figures in cycles that are spans of time, whatever the clock.
const SPANS: [&str; 5] = ["hbm_latency", "shared_sram_latency", "launch", "barrier", "link_latency"];
/// Figures that a peak is made of.
const OF_PEAKS: [&str; 3] = ["clock", "rows", "cols"];

/// A figure that takes the place of another: its name, or `rate.FORMAT`, and its value with unit.
pub type Change = (String, String);

/// Why a target file of the user's is refused, and where.
#[derive(Clone, PartialEq, Debug)]
pub struct Refusal {
    /// Why.
    pub error: TargetError,
    /// Line and column, from 1.
    pub place: Option<(usize, usize)>,
}

/// A target that is not shipped.
#[derive(Clone, PartialEq, Debug)]
pub struct Own {
    /// Its figures.
    pub file: TargetFile,
    /// What they resolve to; [`Target::file`] has the text, without base and changes.
    pub target: Target,
}

/// Reads a target file that may have a base, with changes.
///
/// # Errors
/// When the file or a change is none, or contradicts itself.
pub fn read(text: &str, changes: &[Change]) -> Result<Own, Refusal> {
    let refuse = |error: TargetError| Refusal { place: place(text, &error), error };
    let malformed = |e: &toml::de::Error| Refusal {
        place: e.span().map(|span| line_and_column(text, span.start)),
        error: TargetError::Syntax(e.message().to_owned()),
    };
    let mut own: Table = toml::from_str(text).map_err(|e| malformed(&e))?;
    if !own.contains_key("base") && changes.is_empty() {
        if let Err(e) = toml::from_str::<TargetFile>(text) {
            return Err(malformed(&e));
        }
        return resolve(text.to_owned()).map_err(refuse);
    }
    let flat = flatten(&mut own, changes).map_err(refuse)?;
    write(&flat).and_then(resolve).map_err(refuse)
}

/// Reads a shipped target with changes.
///
/// # Errors
/// When there is no such target or figure, or the result contradicts itself.
pub fn change(base: &str, changes: &[Change]) -> Result<Own, TargetError> {
    let listed: Vec<String> = changes.iter().map(|(figure, value)| format!("{figure}={value}")).collect();
    let mut own = Table::new();
    own.insert("base".to_owned(), Value::String(base.to_owned()));
    own.insert("name".to_owned(), Value::String(format!("{base} with {}", listed.join(", "))));
    write(&flatten(&mut own, changes)?).and_then(resolve)
}

fn write(table: &Table) -> Result<String, TargetError> {
    toml::to_string(table).map_err(|e| TargetError::Syntax(e.to_string()))
}

fn resolve(text: String) -> Result<Own, TargetError> {
    // Lines of a text that was put together would mislead.
    let file: TargetFile = toml::from_str(&text).map_err(|e| TargetError::Syntax(e.message().to_owned()))?;
    let target = Target { file: text, ..file.resolve()? };
    Ok(Own { file, target })
}

/// The text of a shipped target file.
pub fn shipped(name: &str) -> Option<&'static str> {
    let named = |text: &&&str| TargetFile::parse(text).is_ok_and(|file| file.name == name);
    FILES.iter().find(named).copied()
}

/// Names of figures, as [`Change`]s and files have them.
fn figure_names() -> Vec<&'static str> {
    super::targets()
        .first()
        .map_or_else(Vec::new, |t| t.figures().into_iter().map(|(name, _)| name).collect())
}

fn flatten(own: &mut Table, changes: &[Change]) -> Result<Table, TargetError> {
    let names = figure_names();
    let known: Vec<&str> = names.iter().copied().chain(OTHER_KEYS).collect();
    if let Some(key) = own.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(unknown(key, &known));
    }
    let mut table = match own.remove("base") {
        Some(Value::String(base)) => {
            let text = shipped(&base).ok_or_else(|| {
                let shipped: Vec<&str> = super::targets().iter().map(|t| t.name.as_str()).collect();
                let nearest = nearest(&base, shipped.iter().copied());
                TargetError::Base { nearest, name: base.clone() }
            })?;
            toml::from_str(text).map_err(|e| TargetError::Syntax(e.to_string()))?
        }
        Some(_) => return Err(TargetError::Syntax("`base` is no name in quotes".to_owned())),
        None => Table::new(),
    };
    let before = table.clone();
    let own_rates = own.remove("rate");
    for (key, value) in std::mem::take(own) {
        let value = match value {
            Value::String(text) if names.contains(&key.as_str()) => what_if(&key, &text)?,
            other => other,
        };
        table.insert(key, value);
    }
    if let Some(rates) = own_rates {
        let Value::Table(rates) = rates else {
            return Err(TargetError::Syntax("`rate` is no table of formats".to_owned()));
        };
        for (format, value) in rates {
            let figure = match value {
                Value::String(text) => what_if(&format!("rate.{format}"), &text)?,
                other => other,
            };
            set_rate(&mut table, &format, figure)?;
        }
    }
    for (key, text) in changes {
        match key.strip_prefix("rate.") {
            Some(format) => {
                let figure = what_if(key, text)?;
                set_rate(&mut table, format, figure)?;
            }
            None if names.contains(&key.as_str()) => {
                let figure = what_if(key, text)?;
                table.insert(key.clone(), figure);
            }
            None => {
                let known: Vec<&str> = names.iter().copied().chain(["rate.mxfp8"]).collect();
                return Err(unknown(key, &known));
            }
        }
    }
    follow(&before, &mut table);
    Ok(table)
}

fn unknown(key: &str, known: &[&str]) -> TargetError {
    TargetError::Unknown { name: key.to_owned(), nearest: nearest(key, known.iter().copied()) }
}

/// A figure from text such as `8 TB/s`.
fn what_if(name: &str, text: &str) -> Result<Value, TargetError> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || ".+-_eE".contains(c)));
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    let Ok(value) = number.trim().parse::<f64>() else {
        return Err(TargetError::Text { figure: name.to_owned(), text: text.to_owned() });
    };
    let mut figure = Table::new();
    figure.insert("value".to_owned(), Value::Float(value));
    figure.insert("unit".to_owned(), Value::String(unit.trim().to_owned()));
    figure.insert("status".to_owned(), Value::String(Status::WhatIf.name().to_owned()));
    figure.insert("source".to_owned(), Value::String("a question, not a fact".to_owned()));
    Ok(Value::Table(figure))
}

/// Gives one format a rate of its own.
fn set_rate(table: &mut Table, format: &str, figure: Value) -> Result<(), TargetError> {
    if Format::from_name(format).is_none() {
        return Err(TargetError::Format(format.to_owned()));
    }
    let Some(Value::Array(macs)) = table.get_mut("macs") else {
        return Err(TargetError::Format(format.to_owned()));
    };
    let mut found = false;
    for entry in macs.iter_mut() {
        if let Some(Value::Array(formats)) = entry.get_mut("formats") {
            let before = formats.len();
            formats.retain(|f| f.as_str() != Some(format));
            found |= formats.len() < before;
        }
    }
    if !found {
        // Energies and patterns are by format, so one that the base has not would contradict them.
        return Err(TargetError::Format(format.to_owned()));
    }
    macs.retain(|entry| entry.get("formats").and_then(Value::as_array).is_some_and(|f| !f.is_empty()));
    let mut entry = Table::new();
    entry.insert("formats".to_owned(), Value::Array(vec![Value::String(format.to_owned())]));
    entry.insert("rate".to_owned(), figure);
    macs.push(Value::Table(entry));
    Ok(())
}

/// Lets what the base derived from changed figures follow them.
fn follow(before: &Table, table: &mut Table) {
    let ghz = |table: &Table| -> Option<f64> {
        let figure: Figure = table.get("clock")?.clone().try_into().ok()?;
        super::plain("clock", &figure, super::Quantity::Clock).ok()
    };
    if let (Some(old), Some(new)) = (ghz(before), ghz(table))
        && old != new
    {
        for name in SPANS {
            if before.get(name) != table.get(name) {
                continue;
            }
            let Some(Value::Table(figure)) = table.get_mut(name) else { continue };
            let number = |v: &Value| v.as_float().or_else(|| v.as_integer().map(|i| i as f64));
            let Some(cycles) = figure.get("value").and_then(number) else { continue };
            figure.insert("value".to_owned(), Value::Float((cycles * new / old).round().max(1.0)));
            figure.insert("status".to_owned(), Value::String(Status::Derived.name().to_owned()));
        }
    }
    if OF_PEAKS.iter().all(|&name| before.get(name) == table.get(name)) {
        return;
    }
    let rates = |table: &Table| table.get("macs").and_then(Value::as_array).cloned().unwrap_or_default();
    let declared: Vec<Value> = rates(before).iter().filter_map(|entry| entry.get("peak").cloned()).collect();
    let Some(Value::Array(macs)) = table.get_mut("macs") else { return };
    for entry in macs.iter_mut().filter_map(Value::as_table_mut) {
        if entry.get("peak").is_some_and(|peak| declared.contains(peak)) {
            entry.remove("peak");
            entry.remove("waiver");
        }
    }
}

/// Where in a file that has been read the cause of an error stands.
fn place(text: &str, error: &TargetError) -> Option<(usize, usize)> {
    let parsed = toml::de::DeTable::parse(text).ok()?;
    let quoted = |name: &str| text.find(&format!("\"{name}\""));
    let offset = match error {
        TargetError::Figure { figure, .. } | TargetError::Text { figure, .. } => {
            find(parsed.get_ref(), figure)
        }
        TargetError::Unknown { name, .. } => find(parsed.get_ref(), name),
        TargetError::Peak { at, .. } => find(parsed.get_ref(), &format!("macs.{at}.peak")),
        TargetError::Base { .. } => find(parsed.get_ref(), "base"),
        TargetError::Format(name) | TargetError::Energy(name) => quoted(name),
        TargetError::Pattern { .. } => find(parsed.get_ref(), "patterns"),
        TargetError::Syntax(_) | TargetError::Other { .. } => None,
    };
    offset.map(|offset| line_and_column(text, offset))
}

/// The byte at which the key at a path such as `macs.3.rate` begins.
fn find(table: &toml::de::DeTable<'_>, path: &str) -> Option<usize> {
    let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
    let (key, value) = table.iter().find(|(key, _)| key.get_ref() == first)?;
    let Some(rest) = rest else { return Some(key.span().start) };
    match value.get_ref() {
        toml::de::DeValue::Table(inner) => find(inner, rest).or(Some(key.span().start)),
        toml::de::DeValue::Array(items) => {
            let (index, rest) = rest.split_once('.')?;
            let item = items.get(index.parse::<usize>().ok()?)?;
            match item.get_ref() {
                toml::de::DeValue::Table(inner) => find(inner, rest).or(Some(item.span().start)),
                _ => Some(item.span().start),
            }
        }
        _ => Some(key.span().start),
    }
}

fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = &text[..offset.min(text.len())];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::super::target;
    use super::*;

    fn changes(list: &[(&str, &str)]) -> Vec<Change> {
        list.iter().map(|&(figure, value)| (figure.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn a_change_changes_one_figure() {
        for base in super::super::targets() {
            let own = change(&base.name, &changes(&[("hbm_bandwidth", "8TB/s")])).unwrap();
            assert_eq!(own.file.hbm_bandwidth.status, Status::WhatIf);
            let (old, new) = (target(&base.name).unwrap(), own.target.clone());
            assert!((new.hbm_bytes_per_cycle - 8e3 / old.clock_ghz).abs() < 1e-6, "{}", base.name);
            let mut expect = old.clone();
            expect.name.clone_from(&new.name);
            expect.file.clone_from(&new.file);
            expect.hbm_bytes_per_cycle = new.hbm_bytes_per_cycle;
            assert_eq!(new, expect);
            assert_eq!(read(&own.target.file, &[]).unwrap(), own);
        }
    }

    #[test]
    fn derived_figures_follow() {
        let own =
            change("mtia-500", &changes(&[("clock", "3.2 GHz"), ("rate.mxfp4", "1000MAC/cycle")])).unwrap();
        let (old, new) = (target("mtia-500").unwrap(), own.target);
        assert_eq!(new.hbm_latency_cycles, 2 * old.hbm_latency_cycles);
        assert_eq!(new.launch_cycles, 2 * old.launch_cycles);
        assert_eq!(new.issue_cycles, old.issue_cycles);
        assert!((2.0 * new.hbm_bytes_per_cycle - old.hbm_bytes_per_cycle).abs() < 1e-9);
        let rate = |t: &Target, name: &str| {
            let format = Format::from_name(name).unwrap();
            t.mac_rate(format, format)
        };
        assert_eq!(rate(&new, "mxfp4"), Some(1000.0));
        assert_eq!(rate(&new, "mxfp4g16"), rate(&old, "mxfp4g16"));
    }

    #[test]
    fn a_file_may_have_a_base() {
        let text = "name = \"mine\"\nbase = \"mtia-300\"\nhbm_bandwidth = \"8 TB/s\"\n[rate]\nmxfp8 = \"2048 MAC/cycle\"\n";
        let own = read(text, &changes(&[("launch", "10cycle")])).unwrap();
        assert_eq!((own.file.name.as_str(), own.file.launch.value), ("mine", 10.0));
        assert_eq!(TargetFile::parse(&own.target.file).unwrap(), own.file);
    }

    #[test]
    fn faults_are_placed() {
        let check = |text: &str, expect: &str, place: Option<(usize, usize)>| {
            let refusal = read(text, &[]).unwrap_err();
            assert!(refusal.error.to_string().contains(expect), "{}", refusal.error);
            assert_eq!(refusal.place, place, "{}", refusal.error);
        };
        let head = "name = \"mine\"\nbase = \"mtia-300\"\n";
        check(&format!("{head}hbm_bandwith = \"8 TB/s\"\n"), "did you mean `hbm_bandwidth`", Some((3, 1)));
        check(&format!("{head}hbm_bandwidth = \"8 TB\"\n"), "the unit is none of GB/s, TB/s", Some((3, 1)));
        check(&format!("{head}hbm_bandwidth = \"fast\"\n"), "no number with a unit", Some((3, 1)));
        check(&format!("{head}hbm_bandwidth = \n"), "", Some((3, 17)));
        check(&format!("{head}[rate]\nmxfp9 = \"8 MAC/cycle\"\n"), "format `mxfp9`", None);
        check("name = \"mine\"\nbase = \"mtia-30\"\n", "did you mean `mtia-300`", Some((2, 1)));
        let whole = shipped("mtia-300").unwrap();
        let peak = whole.find("peak = ").unwrap();
        check(
            &whole.replacen("value = 1.9, unit = \"GHz\"", "value = 1.5, unit = \"GHz\"", 1),
            "derived peak",
            Some(line_and_column(whole, peak)),
        );
        assert!(matches!(
            change("mtia-300", &changes(&[("hbmbandwidth", "8TB/s")])),
            Err(TargetError::Unknown { .. })
        ));
    }
}

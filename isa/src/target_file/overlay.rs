//! Target files on top of shipped ones: a `base`, and figures that take the place of its own.
//!
//! Such a file, or a change from the command line, may give a figure as text, `"8 TB/s"`. Its status then is `what-if`. What the base
//! derives from a changed figure follows: latencies that it gives in cycles stay as long as they were when the clock changes, and declared
//! peaks go when grid, clock or rates do.

use toml::{Table, Value};

use super::energy::ENERGIES;
use super::place::{line_and_column, place};
use super::{FILES, FLAT, Figure, Status, TargetError, TargetFile, written};
use crate::nearest::nearest;
use crate::target::Target;
use crate::view::Pattern;

/// What a file may have beside named figures.
const OTHER_KEYS: [&str; 8] = ["name", "summary", "base", "macs", "patterns", "energy", "rate", "pattern"];
/// Figures in cycles that are spans of time, whatever the clock.
const SPANS: [&str; 5] = ["hbm_latency", "shared_sram_latency", "launch", "barrier", "link_latency"];
/// Figures that a peak is made of.
const OF_PEAKS: [&str; 3] = ["clock", "rows", "cols"];

/// A figure that takes the place of another: its name, or `rate.FORMAT`, `energy.NAME`, `energy.mac.FORMAT`, `pattern.N:M`, and its value
/// with unit.
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
    let is_whole = !own.contains_key("base") && changes.is_empty();
    if is_whole && toml::from_str::<TargetFile>(text).is_ok() {
        return resolve(text.to_owned()).map_err(refuse);
    }
    let before = own.clone();
    let flat = flatten(&mut own, changes).map_err(refuse)?;
    match toml::from_str::<TargetFile>(text) {
        // Nothing stood for something else, so what is wrong has a place in the text itself.
        Err(e) if is_whole && flat == before => Err(malformed(&e)),
        Ok(_) | Err(_) => write(&flat).and_then(resolve).map_err(refuse),
    }
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
    let named = |text: &&str| TargetFile::parse(text).is_ok_and(|file| file.name == name);
    // Bases of what-if targets are found before those are needed.
    FILES.iter().copied().find(named).or_else(|| FLAT.iter().map(String::as_str).find(named))
}

/// The whole text of a file with a base.
///
/// # Errors
/// As [`read`].
pub(super) fn whole(text: &str) -> Result<String, TargetError> {
    let mut own: Table = toml::from_str(text).map_err(|e| TargetError::Syntax(e.to_string()))?;
    write(&flatten(&mut own, &[])?)
}

/// Names of figures, as [`Change`]s and files have them.
fn figure_names() -> Vec<&'static str> {
    let first = TargetFile::parse(FILES[0]);
    first.map_or_else(|_| Vec::new(), |t| t.figures().into_iter().map(|(name, _)| name).collect())
}

fn flatten(own: &mut Table, changes: &[Change]) -> Result<Table, TargetError> {
    let names = figure_names();
    let known: Vec<&str> = names.iter().copied().chain(OTHER_KEYS).collect();
    if let Some(key) = own.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(unknown(key, &known));
    }
    // What a file is, and its lists, are nothing to ask on the command line.
    if let Some((key, _)) = changes.iter().find(|(key, _)| OTHER_KEYS.contains(&key.as_str())) {
        return Err(unknown(key, &names));
    }
    let mut table = match own.remove("base") {
        Some(Value::String(base)) => {
            let text = shipped(&base).ok_or_else(|| TargetError::Base {
                nearest: super::nearest_target(&base),
                name: base.clone(),
            })?;
            toml::from_str(text).map_err(|e| TargetError::Syntax(e.to_string()))?
        }
        Some(_) => return Err(TargetError::Syntax("`base` is no name in quotes".to_owned())),
        None => Table::new(),
    };
    let before = table.clone();
    // What a base has in tables is changed by the figure; a file without one has the tables themselves.
    let has_base = !before.is_empty();
    let is_inner = |key: &str, value: &Value| match key {
        "rate" | "pattern" => true,
        "energy" => has_base && value.get("macs").is_none(),
        _ => false,
    };
    let (inside, mut listed): (Vec<_>, Vec<_>) =
        std::mem::take(own).into_iter().partition(|(key, value)| is_inner(key, value));
    for (key, value) in inside {
        inner(&mut listed, &key, value)?;
    }
    listed.extend(changes.iter().map(|(key, text)| (key.clone(), Value::String(text.clone()))));
    for (key, value) in listed {
        set(&mut table, &names, &key, value)?;
    }
    written::lists(&mut table)?;
    let needed = names.into_iter().chain(["name", "summary", "macs"]);
    if let Some(missing) = needed.filter(|_| !has_base).find(|name| !table.contains_key(*name)) {
        return Err(TargetError::Missing(missing.to_owned()));
    }
    follow(&before, &mut table);
    Ok(table)
}

fn unknown(key: &str, known: &[&str]) -> TargetError {
    let nearest = match key {
        // What `lacuna targets` shows as one.
        "grid" => Some("a grid has `rows` and `cols`".to_owned()),
        key => nearest(key, known.iter().copied()),
    };
    TargetError::Unknown { name: key.to_owned(), nearest }
}

/// The figures of a table, each with the table's name before its own.
fn inner(listed: &mut Vec<(String, Value)>, name: &str, value: Value) -> Result<(), TargetError> {
    let Value::Table(table) = value else {
        return Err(TargetError::Syntax(format!("`{name}` is no table of figures")));
    };
    for (key, value) in table {
        match value {
            Value::Table(macs) if name == "energy" && key == "mac" => {
                listed.extend(macs.into_iter().map(|(format, v)| (format!("energy.mac.{format}"), v)));
            }
            value => listed.push((format!("{name}.{key}"), value)),
        }
    }
    Ok(())
}

/// Gives a figure, by its name, another value; text with a unit is a question.
fn set(table: &mut Table, names: &[&str], key: &str, value: Value) -> Result<(), TargetError> {
    if let Some(pattern) = key.strip_prefix("pattern.") {
        return set_pattern(table, pattern, value);
    }
    let known = |value: Value| written::figure(key, value);
    if let Some(format) = key.strip_prefix("rate.") {
        return set_format(table, "rate", format, known(value)?);
    }
    if let Some(name) = key.strip_prefix("energy.") {
        let Some(Value::Table(energies)) = table.get_mut("energy") else {
            return Err(TargetError::Syntax(format!("`{key}`: this target has no table of energies")));
        };
        let figure = known(value)?;
        if let Some(format) = name.strip_prefix("mac.") {
            return set_format(energies, "mac", format, figure);
        }
        if !ENERGIES.contains(&name) {
            let known = ENERGIES.map(|name| format!("energy.{name}"));
            return Err(unknown(key, &known.each_ref().map(String::as_str)));
        }
        energies.insert(name.to_owned(), figure);
        return Ok(());
    }
    if names.contains(&key) {
        table.insert(key.to_owned(), known(value)?);
    } else if OTHER_KEYS.contains(&key) {
        table.insert(key.to_owned(), value);
    } else {
        let more = ["rate.mxfp8", "energy.hbm", "energy.mac.mxfp8", "pattern.2:4"];
        return Err(unknown(key, &names.iter().copied().chain(more).collect::<Vec<_>>()));
    }
    Ok(())
}

/// Gives all native formats a pattern, or takes it from them: `none`.
fn set_pattern(table: &mut Table, pattern: &str, value: Value) -> Result<(), TargetError> {
    let key = format!("pattern.{pattern}");
    let no = |reason: String| TargetError::NoPattern { name: pattern.to_owned(), reason };
    let sizes =
        pattern.split_once(':').and_then(|(n, m)| Some((n.parse::<u8>().ok()?, m.parse::<u8>().ok()?)));
    let (n, m) = sizes.ok_or_else(|| no("is not of the form N:M".to_owned()))?;
    let patterns = table.entry("patterns").or_insert_with(|| Value::Array(Vec::new()));
    let Value::Array(patterns) = patterns else {
        return Err(TargetError::Syntax("`patterns` is no list".to_owned()));
    };
    let is = |entry: &Value, name: &str, size: u8| {
        entry.get(name).and_then(Value::as_integer) == Some(size.into())
    };
    let is_same = |entry: &Value| is(entry, "n", n) && is(entry, "m", m);
    let has = patterns.iter().any(is_same);
    if !has && matches!(&value, Value::String(text) if text.trim() == "none") {
        return Err(no("cannot be taken away: the target has none".to_owned()));
    }
    if !has && Pattern::nested(n, m).is_none() {
        return Err(no(format!("is none of {}", Pattern::NESTED)));
    }
    patterns.retain(|entry| !is_same(entry));
    let factor = match value {
        Value::String(text) if text.trim() == "none" => return Ok(()),
        other => written::figure(&key, other)?,
    };
    let mut entry = Table::new();
    entry.insert("n".to_owned(), Value::Integer(n.into()));
    entry.insert("m".to_owned(), Value::Integer(m.into()));
    entry.insert("factor".to_owned(), factor);
    patterns.push(Value::Table(entry));
    Ok(())
}

/// Gives one format a figure of its own in the list `macs`. Rates, energies and patterns are by format, so one that the base has not
/// would contradict the others.
fn set_format(table: &mut Table, field: &str, format: &str, figure: Value) -> Result<(), TargetError> {
    super::format_of(format)?;
    let none = || TargetError::format(format, "has no rate on this target");
    let Some(Value::Array(macs)) = table.get_mut("macs") else { return Err(none()) };
    let mut found = false;
    for entry in macs.iter_mut() {
        if let Some(Value::Array(formats)) = entry.get_mut("formats") {
            let before = formats.len();
            formats.retain(|f| f.as_str() != Some(format));
            found |= formats.len() < before;
        }
    }
    macs.retain(|entry| entry.get("formats").and_then(Value::as_array).is_some_and(|f| !f.is_empty()));
    let mut entry = Table::new();
    entry.insert("formats".to_owned(), Value::Array(vec![Value::String(format.to_owned())]));
    entry.insert(field.to_owned(), figure);
    macs.push(Value::Table(entry));
    if found { Ok(()) } else { Err(none()) }
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
            if figure.get("unit").and_then(Value::as_str) != Some("cycle") {
                continue;
            }
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

#[cfg(test)]
mod tests {
    use super::super::{Format, target};
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
    fn patterns_and_energies_are_figures() {
        let own = change(
            "mtia-500",
            &changes(&[
                ("pattern.2:4", "1.5"),
                ("pattern.1:4", "4 ratio"),
                ("energy.hbm", "0.5pJ/bit"),
                ("energy.mac.mxfp8", "0.2 pJ"),
            ]),
        )
        .unwrap();
        let (old, new) = (target("mtia-500").unwrap(), own.target);
        let factor =
            |t: &Target, n, m| t.patterns.iter().find(|(p, _)| (p.n, p.m) == (n, m)).map(|(_, f)| *f);
        assert_eq!((factor(&old, 2, 4), factor(&new, 2, 4)), (Some(2.0), Some(1.5)));
        assert_eq!((factor(&old, 1, 4), factor(&new, 1, 4)), (None, Some(4.0)));
        let (before, after) = (old.energy.unwrap(), new.energy.unwrap());
        assert_eq!((before.hbm_pj_per_byte, after.hbm_pj_per_byte), (8.0 * 3.97, 4.0));
        let mac = |e: &crate::energy::Energy, name: &str| {
            e.mac_pj.iter().find(|(f, _)| *f == Format::from_name(name).unwrap()).unwrap().1
        };
        assert_eq!((mac(&after, "mxfp8"), mac(&after, "mxint8")), (0.2, mac(&before, "mxint8")));
        let none = change("mtia-500", &changes(&[("pattern.2:4", "none")])).unwrap();
        assert!(none.target.patterns.is_empty());
        // A file says the same.
        let text = "name = \"mine\"\nbase = \"mtia-500\"\n[energy]\nhbm = \"0.5 pJ/bit\"\nmac.mxfp8 = \"0.2 pJ\"\n[pattern]\n\
                    \"1:4\" = \"4\"\n\"2:4\" = \"1.5\"\n";
        let file = read(text, &[]).unwrap().target;
        assert_eq!((file.patterns.len(), &file.energy), (2, &Some(after)));
        for (figure, value, expect) in [
            ("energy.hmb", "1pJ/bit", "did you mean `energy.hbm`"),
            ("energy.hbm", "1TB/s", "the unit is none of pJ/B, pJ/bit"),
            ("energy.mac.mxfp9", "1pJ", "format `mxfp9`"),
            ("pattern.4:2", "2", "pattern 4:2"),
            ("pattern.2of4", "2", "is not of the form N:M"),
            ("accumulator_rate", "element/cycle", "no number with a unit"),
            ("pattern.2:4", "2 TB/s", "the unit is none of ratio"),
        ] {
            let error = change("mtia-500", &changes(&[(figure, value)])).unwrap_err().to_string();
            assert!(error.contains(expect), "{error}");
        }
        assert!(change("mtia-2i", &changes(&[("energy.hbm", "1pJ/bit")])).is_err());
    }

    #[test]
    fn a_file_may_have_a_base() {
        let text = "name = \"mine\"\nbase = \"mtia-300\"\nhbm_bandwidth = \"8 TB/s\"\n[rate]\nmxfp8 = \"2048 MAC/cycle\"\n";
        let own = read(text, &changes(&[("launch", "10cycle")])).unwrap();
        assert_eq!((own.file.name.as_str(), own.file.launch.value), ("mine", 10.0));
        assert_eq!(TargetFile::parse(&own.target.file).unwrap(), own.file);
    }

    /// A whole file may have figures as text, as one with a base.
    #[test]
    fn text_stands_for_a_figure_everywhere() {
        let mut whole: Table = toml::from_str(shipped("mtia-300").unwrap()).unwrap();
        whole.insert("hbm_bandwidth".to_owned(), "8 TB/s".into());
        let Value::Array(macs) = &mut whole["macs"] else { panic!("no list") };
        macs.retain(|entry| entry.get("peak").is_none());
        macs[0]["rate"] = "77 MAC/cycle".into();
        let without = |key: &str, whole: &Table| {
            let mut table = whole.clone();
            table.remove(key);
            write(&table).unwrap()
        };
        let own = read(
            &without("energy", &{
                let mut w = whole.clone();
                w.remove("patterns");
                w
            }),
            &[],
        )
        .unwrap();
        assert_eq!((own.file.hbm_bandwidth.value, own.file.macs[0].rate.value), (8.0, 77.0));
        assert_eq!(read(&own.target.file, &[]).unwrap(), own);
    }

    #[test]
    fn counts_and_spans_are_as_users_think_of_them() {
        let own =
            change("mtia-300", &changes(&[("rows", "5"), ("hbm_latency", "100ns"), ("launch", "1.01 us")]))
                .unwrap();
        assert_eq!(
            (own.target.rows, own.target.hbm_latency_cycles, own.target.launch_cycles),
            (5, 190, 1919)
        );
        // A span in time keeps its time whatever the clock.
        let own = change("mtia-300", &changes(&[("clock", "1000MHz"), ("hbm_latency", "100.5ns")])).unwrap();
        assert_eq!(own.target.hbm_latency_cycles, 101);
        let own = change("mtia-300", &changes(&[("clock", "1900MHz")])).unwrap();
        assert_eq!(own.target.clock_ghz, 1.9);
    }

    #[test]
    fn what_cannot_be_asked_is_refused() {
        let check = |figure: &str, value: &str, expect: &str| {
            let error = change("mtia-300", &changes(&[(figure, value)])).unwrap_err().to_string();
            assert!(error.contains(expect), "{error}");
        };
        check("name", "x", "no figure `name`");
        check("macs", "x", "no figure `macs`");
        check("grid", "6x6", "a grid has `rows` and `cols`");
        check("rows", "5.5PE", "not a whole number");
        check("rate.mxfp9", "8MAC/cycle", "did you mean `mxfp");
        check("rate.mxfp8", "0MAC/cycle", "`rate.mxfp8` = 0 MAC/cycle: ");
        check("hbm_bandwidth", "8", "`hbm_bandwidth` = 8: it has no unit, which is one of GB/s, TB/s");
        check("energy.mac.mxfp8", "0pJ", "`energy.mac.mxfp8` = 0 pJ: ");
        check("pattern.3:5", "1.5", "3:5 is none of N:M with N below M");
        check("pattern.1:4", "5", "`pattern.1:4` = 5 ratio: 1 of 4 products are left, so it is at most 4");
        check("pattern.1:4", "none", "the target has none");
        check("pattern.14", "2", "is not of the form N:M");
        check("issue", "5ns", "the unit is none of cycle");
        check("launch", "1e6us", "is more than 1e9 cycles");
        // A pattern that a target has is changed whatever its size.
        assert!(change("trainium2", &changes(&[("pattern.4:12", "2")])).is_ok());
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
        check(
            &format!("{head}[rate]\nmxfp9 = \"8 MAC/cycle\"\n"),
            "format `mxfp9` is unknown: did you",
            Some((4, 1)),
        );
        check(&format!("{head}[rate]\ni8 = \"8 MAC/cycle\"\n"), "format `i8` has no rate", Some((4, 1)));
        check(
            &format!("{head}[rate]\nmxfp8 = \"0 MAC/cycle\"\n"),
            "`rate.mxfp8` = 0 MAC/cycle",
            Some((4, 1)),
        );
        check(&format!("{head}[energy]\nmac.mxfp9 = \"8 pJ\"\n"), "did you mean `mxfp", Some((4, 5)));
        check(
            &format!("{head}clock = 2.0\n"),
            "`clock` = 2: it has no unit, which is one of GHz",
            Some((3, 1)),
        );
        check(&format!("{head}clock = true\n"), "`clock` is no figure", Some((3, 1)));
        check(&format!("{head}clock = {{ valu = 2 }}\n"), "unknown field `valu`", Some((3, 1)));
        check(&format!("{head}rows = 5.5\n"), "not a whole number", Some((3, 1)));
        check(&format!("{head}[pattern]\n\"3:5\" = 2\n"), "3:5 is none of N:M", Some((4, 1)));
        check(&format!("{head}[pattern]\n\"1:4\" = \"5\"\n"), "it is at most 4", Some((4, 1)));
        check(&format!("{head}[pattern]\n\"1:4\" = \"none\"\n"), "the target has none", Some((4, 1)));
        check("name = \"mine\"\nhbm_bandwidth = \"2 TB/s\"\n", "a file needs every figure", Some((1, 1)));
        check("name = \"mine\"\nbase = \"mtia-30\"\n", "did you mean `mtia-300`", Some((2, 1)));
        let whole = shipped("mtia-300").unwrap();
        let peak = whole.find("peak = ").unwrap();
        check(
            &whole.replacen("value = 1.9, unit = \"GHz\"", "value = 1.5, unit = \"GHz\"", 1),
            "derived peak",
            Some(line_and_column(whole, peak)),
        );
        let in_whole = |from: &str, to: &str, expect: &str| {
            let at = whole.find(&format!("\n{from}")).unwrap() + 1;
            let edited = format!("{}{to}{}", &whole[..at], &whole[at + from.len()..]);
            check(&edited, expect, Some(line_and_column(whole, at)));
        };
        in_whole("hbm_latency =", "hbm_latncy =", "did you mean `hbm_latency`");
        in_whole("rate = {", "rate = 5 # {", "it has no unit, which is one of MAC/cycle");
        in_whole("factor = {", "factor = 5 # {", "it is at most 2");
        in_whole("tdp = {", "tdp = \"9 V\" # {", "the unit is none of W");
        assert!(matches!(
            change("mtia-300", &changes(&[("hbmbandwidth", "8TB/s")])),
            Err(TargetError::Unknown { .. })
        ));
    }
}

//! Where in the text of a target file an error stands.

use toml::de::{DeTable, DeValue};

use super::TargetError;

/// Line and column, from 1, of the cause of an error in a file that has been read.
pub(super) fn place(text: &str, error: &TargetError) -> Option<(usize, usize)> {
    let parsed = DeTable::parse(text).ok()?;
    let table = parsed.get_ref();
    let quoted = |name: &str| text.find(&format!("\"{name}\""));
    let of_format = |name: &str| {
        let keys = ["rate", "energy.mac"].map(|key| format!("{key}.{name}"));
        keys.iter().find_map(|key| find(table, key)).or_else(|| quoted(name))
    };
    let offset = match error {
        TargetError::Figure { figure, .. }
        | TargetError::Text { figure, .. }
        | TargetError::Form { figure, .. } => find(table, figure),
        TargetError::Unknown { name, .. } => find(table, name),
        TargetError::Peak { at, .. } => find(table, &format!("macs.{at}.peak")),
        TargetError::Base { .. } => find(table, "base"),
        TargetError::Format { name, .. } | TargetError::Energy(name) => of_format(name),
        TargetError::Pattern { n, m } => find(table, &format!("pattern.{n}:{m}")),
        TargetError::NoPattern { name, .. } => find(table, &format!("pattern.{name}")),
        TargetError::Missing(_) => Some(0),
        TargetError::Syntax(_) | TargetError::Other { .. } => None,
    };
    offset.map(|offset| line_and_column(text, offset))
}

/// The byte at which a figure begins: by its path, or, of a format or pattern, where a list of the file has it.
fn find(table: &DeTable<'_>, figure: &str) -> Option<usize> {
    key(table, figure).or_else(|| {
        let (section, list, field, name) = match figure.split_once('.')? {
            ("rate", format) => ("", "macs", "rate", format),
            ("pattern", pattern) => ("", "patterns", "factor", pattern),
            ("energy", rest) => ("energy", "macs", "mac", rest.strip_prefix("mac.")?),
            _ => return None,
        };
        let inner = match section {
            "" => table,
            section => table.get(section)?.get_ref().as_table()?,
        };
        let items = inner.get(list)?.get_ref().as_array()?;
        let item = items.iter().filter_map(|item| item.get_ref().as_table()).find(|item| has(item, name))?;
        key(item, field)
    })
}

/// Whether an entry of a list is that of a format or pattern.
fn has(item: &DeTable<'_>, name: &str) -> bool {
    let number = |key: &str| item.get(key)?.get_ref().as_integer()?.as_str().parse::<u8>().ok();
    if let Some((n, m)) = name.split_once(':') {
        return number("n") == n.parse().ok() && number("m") == m.parse().ok();
    }
    let formats = item.get("formats").and_then(|formats| formats.get_ref().as_array());
    formats.is_some_and(|formats| formats.iter().any(|format| format.get_ref().as_str() == Some(name)))
}

/// The byte at which the key at a path such as `macs.3.rate` begins.
fn key(table: &DeTable<'_>, path: &str) -> Option<usize> {
    let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
    let (key_text, value) = table.iter().find(|(key, _)| key.get_ref() == first)?;
    let Some(rest) = rest else { return Some(key_text.span().start) };
    match value.get_ref() {
        DeValue::Table(inner) => key(inner, rest),
        DeValue::Array(items) => {
            let (index, rest) = rest.split_once('.')?;
            let item = items.get(index.parse::<usize>().ok()?)?;
            match item.get_ref() {
                DeValue::Table(inner) => key(inner, rest).or(Some(item.span().start)),
                _ => Some(item.span().start),
            }
        }
        _ => None,
    }
}

pub(super) fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = &text[..offset.min(text.len())];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

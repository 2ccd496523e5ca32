//! The picture of a sweep: over a figure that varies, the time; else time against error, or against bytes where nothing was run.

use lacuna_driver::plot::{Axes, Kind, Mark, NotDrawn, svg};

use super::grid::Point;
use super::{Found, Outcome};
use crate::cli;

/// The plot as SVG.
///
/// # Errors
/// Says why it cannot be drawn.
pub(super) fn draw(
    args: &cli::Sweep,
    points: &[Point],
    outcomes: &[Outcome],
    front: &[bool],
) -> Result<String, NotDrawn> {
    let title = args.model.display().to_string();
    let found = || {
        points.iter().zip(outcomes).zip(front).filter_map(|((point, outcome), &best)| match outcome {
            Outcome::Found(found) => Some((point, found, best)),
            Outcome::Refused(_) => None,
        })
    };
    let varied: Vec<&String> =
        args.changes.iter().filter(|(_, v)| v.len() > 1).map(|(name, _)| name).collect();
    if let [figure] = varied[..] {
        let on_line = |(point, found, best): (&Point, &Found, bool)| {
            let (value, unit) = number(&point.changes.iter().find(|(name, _)| name == figure)?.1)?;
            let line = name(args, point, Some(figure));
            Some((
                unit,
                Mark { line: Some(line), ..mark(args, point, found, best, value, found.microseconds) },
            ))
        };
        let marks: Vec<(String, Mark)> = found().filter_map(on_line).collect();
        let x = format!("{figure} in {}", marks.first().map_or("", |(unit, _)| unit));
        let axes = Axes { x: &x, y: "microseconds by the machine model; area: bytes of weights" };
        return svg(&title, axes, &marks.into_iter().map(|(_, mark)| mark).collect::<Vec<_>>());
    }
    let y = |f: &Found| match (args.no_run, f.exact, f.sqnr_db) {
        (true, ..) => f.weight_bytes as f64 / f64::from(1 << 20),
        (false, true, _) => f64::INFINITY,
        (false, false, db) => db.unwrap_or(0.0),
    };
    let marks: Vec<Mark> = found().map(|(p, f, best)| mark(args, p, f, best, f.microseconds, y(f))).collect();
    let y = if args.no_run {
        "weights in MiB"
    } else {
        "SQNR of the worst output in dB (top: exact); area: bytes of weights"
    };
    svg(&title, Axes { x: "microseconds by the machine model", y }, &marks)
}

fn mark(args: &cli::Sweep, point: &Point, found: &Found, best: bool, x: f64, y: f64) -> Mark {
    let kind = if best { Kind::Chosen } else { Kind::Uniform };
    Mark { name: name(args, point, None), x, y, weight_bytes: found.weight_bytes, kind, line: None }
}

/// What tells a point from the others, but for one figure.
fn name(args: &cli::Sweep, point: &Point, but: Option<&str>) -> String {
    let several = |n: usize, text: &str| (n > 1).then(|| text.to_owned());
    let lists = [
        several(args.targets.len(), &point.target),
        several(args.precisions.len(), &point.precision),
        several(args.prune.len(), &point.prune),
    ];
    let dims = point.dims.iter().zip(&args.dims).filter(|(_, (_, all))| all.len() > 1);
    let dims = dims.map(|((name, size), _)| format!("{name}={size}"));
    let figures = point.changes.iter().zip(&args.changes);
    let figures = figures.filter(|((name, _), (_, all))| all.len() > 1 && Some(name.as_str()) != but);
    let figures = figures.map(|((name, value), _)| format!("{name}={value}"));
    let named: Vec<String> = lists.into_iter().flatten().chain(dims).chain(figures).collect();
    if named.is_empty() { format!("{} {}", point.target, point.precision) } else { named.join(" ") }
}

/// A figure's number and unit.
fn number(value: &str) -> Option<(f64, String)> {
    let end = value.find(|c: char| !(c.is_ascii_digit() || ".+-eE".contains(c))).unwrap_or(value.len());
    let (number, unit) = value.split_at(end);
    Some((number.parse().ok()?, unit.trim().to_owned()))
}

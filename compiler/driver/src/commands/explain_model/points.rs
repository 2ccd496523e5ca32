//! Choices side by side: the one that is explained, some of the frontier, and the uniform precisions.

use lacuna_optimize::{ParetoPoint, Survey, sqnr_db};

use lacuna_driver::diagnostics::Failed;
use lacuna_driver::measure::Interpreter;
use lacuna_driver::plot::{Axes, Kind, Mark};
use lacuna_driver::report;
use lacuna_driver::report::decibels;
use lacuna_driver::selection::{self, drop_text};

/// Budgets along the frontier that the table shows.
const N_BUDGETS: usize = 7;

/// What the plot measures.
pub const AXES: Axes<'_> = Axes {
    x: "cycles by the machine model",
    y: "SQNR of the worst output in dB (top: exact); area: bytes of weights",
};

/// A choice with its name.
pub type Named = (String, Kind, ParetoPoint);

/// Named choices, all of them run: the one that is explained, the frontier, and the uniform ones.
pub fn pareto(
    survey: &mut Survey,
    choice: &[usize],
    name: &str,
    interpreter: &mut Interpreter<'_>,
) -> Result<Vec<Named>, Failed> {
    let mut named = vec![(name.to_owned(), Kind::Chosen, choice.to_vec())];
    for (i, choice) in survey.frontier_choices(N_BUDGETS).into_iter().enumerate() {
        named.push((format!("budget {}", i + 1), Kind::Frontier, choice));
    }
    let uniform = survey.uniform_choices().into_iter();
    named.extend(uniform.map(|(name, choice)| (name, Kind::Uniform, choice)));
    let mut points: Vec<Named> = Vec::new();
    for (name, kind, choice) in named {
        match points.iter_mut().find(|(.., known)| known.choice == choice) {
            Some((known, ..)) if kind == Kind::Uniform && *known != name => *known += &format!(" = {name}"),
            Some(_) => {}
            None => {
                let point = survey.point(&choice, interpreter).map_err(selection::failed)?;
                points.push((name, kind, point));
            }
        }
    }
    Ok(points)
}

pub fn table(points: &[Named]) -> String {
    let rows = points.iter().map(|(name, _, p)| {
        [
            name.clone(),
            format!("{:.0}", p.cycles),
            p.machine.cycles.to_string(),
            report::bytes(p.machine.weight_bytes),
            decibels(sqnr_db(p.error)),
            decibels(p.sqnr_db),
            drop_text(p),
        ]
    });
    let header = ["choice", "modelled", "cycles", "weights", "predicted", "SQNR", "points lost"];
    report::table(header, rows, &[1, 2, 3, 4, 5, 6])
}

pub fn marks(points: &[Named]) -> Vec<Mark> {
    let mark = |(name, kind, p): &Named| Mark {
        name: name.clone(),
        x: p.machine.cycles as f64,
        y: p.sqnr_db,
        weight_bytes: p.machine.weight_bytes,
        kind: *kind,
        line: None,
    };
    points.iter().map(mark).collect()
}

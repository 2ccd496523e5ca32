//! A plot of choices: cycles, error and bytes in one picture.

use plotters::prelude::*;

/// A point of the plot.
#[derive(Clone, PartialEq, Debug)]
pub struct Mark {
    /// Its name.
    pub name: String,
    /// Cycles.
    pub cycles: f64,
    /// Signal to noise in dB; infinite points are drawn at the top.
    pub sqnr_db: f64,
    /// Bytes of weights: the area of the mark.
    pub weight_bytes: u64,
    /// What kind of point it is.
    pub kind: Kind,
}

/// What kind of point a mark is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// On the frontier of the choices.
    Frontier,
    /// One precision for all.
    Uniform,
    /// What was chosen.
    Chosen,
}

const SIZE: (u32, u32) = (900, 600);
/// Radius of the mark with the most bytes, in pixels.
const MAX_RADIUS: f64 = 16.0;

/// The plot as SVG: cycles to the right, decibels upwards, areas of marks in proportion to bytes of weights.
///
/// # Errors
/// When the drawing library refuses, which it does for no finite input.
pub fn svg(title: &str, marks: &[Mark]) -> Result<String, String> {
    let finite = marks.iter().map(|m| m.sqnr_db).filter(|db| db.is_finite());
    let (low, high) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), db| (l.min(db), h.max(db)));
    let (low, high) = if low <= high { (low, high) } else { (0.0, 1.0) };
    // Without any error: above everything that has one.
    let top = high + 0.15 * (high - low).max(10.0);
    let y = |m: &Mark| if m.sqnr_db.is_finite() { m.sqnr_db } else { top };
    let cycles = marks.iter().map(|m| m.cycles);
    let (first, last) = cycles.fold((f64::INFINITY, 0.0f64), |(l, h), c| (l.min(c), h.max(c)));
    let first = if first.is_finite() { first } else { 0.0 };
    let margin = 0.08 * (last - first).max(1.0);
    let most = marks.iter().map(|m| m.weight_bytes).max().unwrap_or(1).max(1) as f64;
    let radius = |m: &Mark| (MAX_RADIUS * (m.weight_bytes as f64 / most).sqrt()).max(2.0) as i32;
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        root.fill(&WHITE).map_err(|e| e.to_string())?;
        let mut chart = ChartBuilder::on(&root)
            .caption(title, ("sans-serif", 18))
            .margin(16)
            .x_label_area_size(44)
            .y_label_area_size(60)
            .build_cartesian_2d(first - margin..last + 3.0 * margin, low - 3.0..top + 3.0)
            .map_err(|e| e.to_string())?;
        chart
            .configure_mesh()
            .x_desc("cycles by the machine model")
            .y_desc("SQNR of the worst output in dB (top: exact); area: bytes of weights")
            .x_label_formatter(&|x| format!("{x:.0}"))
            .y_label_formatter(&|y| format!("{y:.0}"))
            .light_line_style(TRANSPARENT)
            .draw()
            .map_err(|e| e.to_string())?;
        for mark in marks {
            let style = match mark.kind {
                Kind::Frontier => BLUE.mix(0.5).filled(),
                Kind::Uniform => BLACK.mix(0.3).filled(),
                Kind::Chosen => RED.mix(0.8).filled(),
            };
            let at = (mark.cycles, y(mark));
            let name = Text::new(mark.name.clone(), (radius(mark) + 3, -6), ("sans-serif", 12));
            chart
                .draw_series(std::iter::once(
                    EmptyElement::at(at) + Circle::new((0, 0), radius(mark), style) + name,
                ))
                .map_err(|e| e.to_string())?;
        }
        root.present().map_err(|e| e.to_string())?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mark_is_drawn_and_named() {
        let mark = |name: &str, cycles, sqnr_db, kind| Mark {
            name: name.to_owned(),
            cycles,
            sqnr_db,
            weight_bytes: 1 << 20,
            kind,
        };
        let marks = [
            mark("f32", 1000.0, f64::INFINITY, Kind::Uniform),
            mark("mxfp8", 600.0, 28.0, Kind::Uniform),
            mark("chosen", 500.0, 20.0, Kind::Chosen),
        ];
        let text = svg("a & b", &marks).expect("a plot");
        assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"));
        assert_eq!(text.matches("<circle").count(), 3);
        assert!(marks.iter().all(|m| text.contains(&m.name)) && text.contains("a &amp; b"));
        assert_eq!(svg("a & b", &marks), Ok(text));
        assert!(svg("none", &[]).is_ok());
    }
}

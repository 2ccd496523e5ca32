//! A plot of choices: cycles, error and bytes in one picture.

use plotters::prelude::*;

/// A point of the plot.
#[derive(Clone, PartialEq, Debug)]
pub struct Mark {
    /// Its name.
    pub name: String,
    /// To the right.
    pub x: f64,
    /// Upwards; infinite points are drawn at the top.
    pub y: f64,
    /// Bytes of weights: the area of the mark.
    pub weight_bytes: u64,
    /// What kind of point it is.
    pub kind: Kind,
    /// The line that it is on with others of the same name, if any; that is named in place of its points.
    pub line: Option<String>,
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

/// What the two axes measure.
#[derive(Clone, Copy, Debug)]
pub struct Axes<'a> {
    /// To the right.
    pub x: &'a str,
    /// Upwards.
    pub y: &'a str,
}

/// A number of three digits or more.
fn label(x: f64) -> String {
    match x.abs() {
        n if n >= 100.0 || n == 0.0 => format!("{x:.0}"),
        n if n >= 10.0 => format!("{x:.1}"),
        n if n >= 0.01 => format!("{x:.2}"),
        _ => format!("{x:.1e}"),
    }
}

/// The drawing library refuses.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotDrawn(String);

impl NotDrawn {
    fn by(error: impl std::fmt::Display) -> NotDrawn {
        NotDrawn(error.to_string())
    }
}

/// The plot as SVG; areas of marks are in proportion to bytes of weights.
///
/// # Errors
/// When the drawing library refuses, which it does for no finite input.
pub fn svg(title: &str, axes: Axes<'_>, marks: &[Mark]) -> Result<String, NotDrawn> {
    let finite = marks.iter().map(|m| m.y).filter(|y| y.is_finite());
    let (low, high) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), y| (l.min(y), h.max(y)));
    let (low, high) = if low <= high { (low, high) } else { (0.0, 1.0) };
    let height = (high - low).max(0.05 * high.abs()).max(f64::MIN_POSITIVE);
    // Without any error: above everything that has one.
    let top = high + 0.15 * height;
    let y = |m: &Mark| if m.y.is_finite() { m.y } else { top };
    let xs = marks.iter().map(|m| m.x);
    let (first, last) = xs.fold((f64::INFINITY, 0.0f64), |(l, h), c| (l.min(c), h.max(c)));
    let first = if first.is_finite() { first } else { 0.0 };
    let margin = 0.08 * (last - first).max(0.05 * last.abs()).max(f64::MIN_POSITIVE);
    let most = marks.iter().map(|m| m.weight_bytes).max().unwrap_or(1).max(1) as f64;
    let radius = |m: &Mark| (MAX_RADIUS * (m.weight_bytes as f64 / most).sqrt()).max(2.0) as i32;
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        root.fill(&WHITE).map_err(NotDrawn::by)?;
        let mut chart = ChartBuilder::on(&root)
            .caption(title, ("sans-serif", 18))
            .margin(16)
            .x_label_area_size(44)
            .y_label_area_size(60)
            .build_cartesian_2d(first - margin..last + 3.0 * margin, low - 0.08 * height..top + 0.08 * height)
            .map_err(NotDrawn::by)?;
        chart
            .configure_mesh()
            .x_desc(axes.x)
            .y_desc(axes.y)
            .x_label_formatter(&|x| label(*x))
            .y_label_formatter(&|y| label(*y))
            .light_line_style(TRANSPARENT)
            .draw()
            .map_err(NotDrawn::by)?;
        let mut lines: Vec<&String> = Vec::new();
        for mark in marks {
            // A line has the name of its points once, at the first.
            let named = match &mark.line {
                Some(line) if lines.contains(&line) => String::new(),
                Some(line) => {
                    lines.push(line);
                    line.clone()
                }
                None => mark.name.clone(),
            };
            let style = match mark.kind {
                Kind::Frontier => BLUE.mix(0.5).filled(),
                Kind::Uniform => BLACK.mix(0.3).filled(),
                Kind::Chosen => RED.mix(0.8).filled(),
            };
            let at = (mark.x, y(mark));
            let name = Text::new(named, (radius(mark) + 3, -6), ("sans-serif", 12));
            chart
                .draw_series(std::iter::once(
                    EmptyElement::at(at) + Circle::new((0, 0), radius(mark), style) + name,
                ))
                .map_err(NotDrawn::by)?;
        }
        for line in lines {
            let on_it = marks.iter().filter(|m| m.line.as_ref() == Some(line)).map(|m| (m.x, y(m)));
            let path = PathElement::new(on_it.collect::<Vec<_>>(), BLACK.mix(0.4));
            chart.draw_series(std::iter::once(path)).map_err(NotDrawn::by)?;
        }
        root.present().map_err(NotDrawn::by)?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mark_is_drawn_and_named() {
        let mark = |name: &str, x, y, kind| Mark {
            name: name.to_owned(),
            x,
            y,
            weight_bytes: 1 << 20,
            kind,
            line: None,
        };
        let marks = [
            mark("f32", 1000.0, f64::INFINITY, Kind::Uniform),
            mark("mxfp8", 600.0, 28.0, Kind::Uniform),
            mark("chosen", 500.0, 20.0, Kind::Chosen),
        ];
        let axes = Axes { x: "time", y: "SQNR" };
        let text = svg("a & b", axes, &marks).expect("a plot");
        assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"));
        assert_eq!(text.matches("<circle").count(), 3);
        assert!(marks.iter().all(|m| text.contains(&m.name)) && text.contains("a &amp; b"));
        assert_eq!(svg("a & b", axes, &marks), Ok(text));
        assert!(svg("none", axes, &[]).is_ok());
        let on_line = marks.map(|m| Mark { line: Some("a line".to_owned()), ..m });
        let text = svg("lines", axes, &on_line).expect("a plot");
        assert_eq!((text.matches("a line").count(), text.matches("<polyline").count() > 0), (1, true));
    }
}

//! A spinner on standard error for work over a second, on a terminal only.

use std::fmt::Write;
use std::io::{IsTerminal, stderr};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressState, ProgressStyle};

/// Work shorter than this shows nothing.
const QUIET: Duration = Duration::from_secs(1);

/// The spinner.
pub struct Progress(ProgressBar);

impl Progress {
    /// A spinner; invisible when standard error is no terminal, or unless `wanted`.
    pub fn new(wanted: bool) -> Progress {
        if !wanted || !stderr().is_terminal() {
            return Progress(ProgressBar::hidden());
        }
        let late = |state: &ProgressState, out: &mut dyn Write| {
            if state.elapsed() >= QUIET {
                let _ = write!(out, "{:.0} s", state.elapsed().as_secs_f64());
            }
        };
        let spinner = |state: &ProgressState, out: &mut dyn Write| {
            if state.elapsed() >= QUIET {
                let frames = ["-", "\\", "|", "/"];
                let _ = out.write_str(frames[(state.elapsed().as_millis() / 200) as usize % frames.len()]);
            }
        };
        let style = ProgressStyle::with_template("{turn} {late} {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner())
            .with_key("turn", spinner)
            .with_key("late", late);
        let bar = ProgressBar::new_spinner().with_style(style);
        bar.enable_steady_tick(Duration::from_millis(200));
        Progress(bar)
    }

    /// Says what is being done.
    pub fn step(&self, what: &str) {
        if self.0.elapsed() >= QUIET {
            self.0.set_message(what.to_owned());
        }
    }

    /// Clears the line.
    pub fn finish(&self) {
        self.0.finish_and_clear();
    }
}

//! What is being done, on standard error: a line that comes and goes on a terminal for work over a second, or, when asked for, each
//! step with its time.

use std::fmt::Write;
use std::io::{IsTerminal, stderr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressState, ProgressStyle};

/// Work shorter than this shows nothing.
const QUIET: Duration = Duration::from_secs(1);
/// Characters of the bar.
const WIDTH: usize = 24;

/// How much is said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Loudness {
    /// Nothing.
    Silent,
    /// A line on a terminal.
    Plain,
    /// A line for each step, wherever standard error goes.
    Verbose,
}

/// The line.
pub struct Progress {
    bar: ProgressBar,
    /// What is being done. The line shows it once the work takes long, also where it began before that.
    what: Arc<Mutex<String>>,
    /// When the work started, if each step is said.
    started: Option<Instant>,
}

impl Progress {
    /// A line; invisible when standard error is no terminal.
    pub fn new(loudness: Loudness) -> Progress {
        let started = (loudness == Loudness::Verbose).then(Instant::now);
        if loudness != Loudness::Plain || !stderr().is_terminal() {
            return Progress { bar: ProgressBar::hidden(), what: Arc::default(), started };
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
        let what: Arc<Mutex<String>> = Arc::default();
        let said = Arc::clone(&what);
        let doing = move |state: &ProgressState, out: &mut dyn Write| {
            if state.elapsed() >= QUIET {
                let _ = out.write_str(&said.lock().unwrap_or_else(PoisonError::into_inner));
            }
        };
        let style = ProgressStyle::with_template("{turn} {late} {doing}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner())
            .with_key("turn", spinner)
            .with_key("late", late)
            .with_key("doing", doing);
        let bar = ProgressBar::new_spinner().with_style(style);
        bar.enable_steady_tick(Duration::from_millis(200));
        Progress { bar, what, started }
    }

    /// Says what is being done.
    pub fn step(&self, what: &str) {
        self.say(what);
        self.show(what.to_owned());
    }

    /// Says how much of it is done, and about how long the rest takes.
    pub fn of(&self, n_done: usize, n_all: usize, what: &str) {
        self.say(&format!("{n_done} of {n_all} {what}"));
        self.show(bar(n_done, n_all, what, self.bar.elapsed()));
    }

    fn show(&self, what: String) {
        *self.what.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }

    fn say(&self, what: &str) {
        if let Some(started) = self.started {
            // If standard error is gone, nothing can be said about it.
            let line = format!("{:>8.3} s  {what}\n", started.elapsed().as_secs_f64());
            let _ = std::io::Write::write_all(&mut stderr(), line.as_bytes());
        }
    }

    /// Clears the line.
    pub fn finish(&self) {
        self.say("done");
        self.bar.finish_and_clear();
    }
}

/// A bar with an estimate, as if what is left takes as long as what is done.
fn bar(n_done: usize, n_all: usize, what: &str, elapsed: Duration) -> String {
    let full = WIDTH * n_done.min(n_all) / n_all.max(1);
    let left = elapsed.as_secs_f64() * n_all.saturating_sub(n_done) as f64 / n_done.max(1) as f64;
    let left = if left < 120.0 { format!("{left:.0} s") } else { format!("{:.0} min", left / 60.0) };
    format!(
        "[{}{}] {n_done} of {n_all} {what}, about {left} left",
        "#".repeat(full),
        ".".repeat(WIDTH - full)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_is_estimated() {
        let check = |n_done, n_all, seconds, expect: &str| {
            let text = bar(n_done, n_all, "points", Duration::from_secs(seconds));
            assert!(text.ends_with(expect), "{text}");
            assert_eq!(text.find(']'), Some(WIDTH + 1), "{text}");
        };
        check(10, 40, 5, "10 of 40 points, about 15 s left");
        check(40, 40, 5, "about 0 s left");
        check(1, 100, 60, "about 99 min left");
        check(0, 0, 1, "about 0 s left");
    }
}

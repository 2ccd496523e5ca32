//! `lacuna verify` on one case or many: the exit status, with what its JSON says.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{cargo, output};

/// The code of a compiler that contradicts itself, which is a defect whatever the model.
const DEFECT: &str = "L0090";

/// What became of a case.
pub enum Outcome {
    /// Outputs are within tolerance.
    Pass,
    /// The model is legal, but not supported.
    Refused(Reason),
    /// The command says that model or data are wrong.
    BadInput(Reason),
    /// Outputs differ: what and where.
    Wrong(String),
    /// The program trapped.
    Trap(Reason),
    /// The process did not end within so long.
    Hang(Duration),
    /// The process ended as no command may, a panic for one.
    Crash(String),
}

/// The finding that decided the exit status.
pub struct Reason {
    /// Code, such as `L0201`.
    pub code: String,
    /// Operator type of the node, if the finding is about one.
    pub op: Option<String>,
    /// Title and cause.
    pub message: String,
}

impl Outcome {
    /// The outcome as `testdata/onnx/expected.txt` has it.
    pub fn expectation(&self) -> String {
        match self {
            Outcome::Pass => "pass".to_owned(),
            Outcome::Refused(reason) => format!("refused {}", reason.code),
            Outcome::BadInput(reason) => format!("bad-input {}", reason.code),
            Outcome::Wrong(_) => "differs".to_owned(),
            Outcome::Trap(_) => "trap".to_owned(),
            Outcome::Hang(_) => "hang".to_owned(),
            Outcome::Crash(_) => "crash".to_owned(),
        }
    }

    /// Why the outcome is a fault whatever is expected, if it is.
    pub fn fault(&self) -> Option<String> {
        match self {
            Outcome::Refused(reason) if reason.code == DEFECT => Some(format!("DEFECT: {}", reason.message)),
            Outcome::Pass | Outcome::Refused(_) | Outcome::BadInput(_) => None,
            Outcome::Wrong(what) => Some(format!("WRONG: {what}")),
            Outcome::Trap(reason) => Some(format!("TRAP: {}", reason.message)),
            Outcome::Hang(limit) => Some(format!("HANG: did not end within {} s", limit.as_secs())),
            Outcome::Crash(what) => Some(format!("CRASH: {what}")),
        }
    }
}

/// Builds the command `lacuna` in a profile and returns where it lies; what the environment variable `LACUNA` names is used as
/// it is.
///
/// # Errors
/// When the build fails.
pub fn binary(root: &Path, profile: &str) -> Result<PathBuf, String> {
    if let Some(made) = std::env::var_os("LACUNA") {
        return Ok(root.join(made));
    }
    let mut build = cargo();
    build
        .args([
            "build",
            "--profile",
            profile,
            "--package",
            "lacuna",
            "--bin",
            "lacuna",
            "--message-format",
            "json",
        ])
        .stderr(Stdio::inherit())
        .current_dir(root);
    let messages = output(&mut build)?;
    let mut executables = messages.lines().filter_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        message["executable"].as_str().map(PathBuf::from)
    });
    executables.next_back().ok_or_else(|| "the build made no executable".to_owned())
}

/// Computes something for each item, one after the other on each processor; results in the order of the items.
pub fn for_each<T: Sync, R: Send + Sync>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let slots: Vec<OnceLock<R>> = items.iter().map(|_| OnceLock::new()).collect();
    std::thread::scope(|scope| {
        for _ in 0..n_threads {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let (Some(item), Some(slot)) = (items.get(at), slots.get(at)) else { return };
                    let _ = slot.set(work(item));
                }
            });
        }
    });
    slots.into_iter().filter_map(OnceLock::into_inner).collect()
}

/// Runs `lacuna --json verify` on a case for at most `limit`; the outcome, and the report if there is one.
///
/// # Errors
/// When the process cannot be started.
pub fn run(verify: &mut Command, limit: Duration) -> Result<(Outcome, Value), String> {
    let failed = |e: std::io::Error| format!("lacuna: {e}");
    let mut child = verify.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(failed)?;
    let drain = |stream: Option<Box<dyn Read + Send>>| {
        std::thread::spawn(move || {
            let mut text = String::new();
            // What is not UTF-8 is no JSON either.
            let _ = stream.map(|mut s| s.read_to_string(&mut text));
            text
        })
    };
    let out = drain(child.stdout.take().map(|s| Box::new(s) as _));
    let err = drain(child.stderr.take().map(|s| Box::new(s) as _));
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            break status;
        }
        if started.elapsed() > limit {
            child.kill().map_err(failed)?;
            child.wait().map_err(failed)?;
            return Ok((Outcome::Hang(limit), Value::Null));
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    let text = |handle: std::thread::JoinHandle<String>| handle.join().unwrap_or_default();
    let json: Value = serde_json::from_str(&text(out)).unwrap_or_default();
    Ok((read(status, &json, &text(err)), json))
}

fn read(status: ExitStatus, json: &Value, err: &str) -> Outcome {
    let text = |v: &Value| v.as_str().map(str::to_owned);
    let reason = || {
        let error = &json["error"];
        let (code, message) = (text(&error["code"])?, text(&error["message"])?);
        Some(Reason { code, op: text(&error["op"]), message })
    };
    let violation = || {
        let outputs = json["outputs"].as_array()?;
        let found = outputs.iter().find_map(|o| Some((o["name"].as_str()?, o["violation"].as_str()?)));
        found.map(|(name, what)| format!("{name}: {what}"))
    };
    let crash = || Outcome::Crash(format!("{status}: {}", err.lines().next().unwrap_or("no message")));
    match status.code() {
        Some(0) if json["ok"].as_bool() == Some(true) => Outcome::Pass,
        Some(1) => violation().map_or_else(crash, Outcome::Wrong),
        Some(2) => reason().map_or_else(crash, Outcome::BadInput),
        Some(3) => reason().map_or_else(crash, Outcome::Refused),
        Some(4) => reason().map_or_else(crash, Outcome::Trap),
        Some(_) | None => crash(),
    }
}

//! The help of the command line: commands in groups, and examples of each.

use std::ffi::OsString;
use std::fmt::Write;

use clap::{CommandFactory, FromArgMatches};

use crate::cli::Cli;

/// Commands by what one wants, in the order of the list.
const GROUPS: &[(&str, &[&str])] = &[
    ("Compile and run", &["compile", "run", "generate", "verify"]),
    ("Ask what it costs", &["profile", "sweep", "explain", "bench"]),
    ("Look inside", &["info", "inspect", "disasm", "asm", "check"]),
    ("Look up", &["targets", "ops", "completions", "man", "help"]),
];

/// Examples of each command: what one wants, and the command line that does it.
const EXAMPLES: &[(&str, &[(&str, &str)])] = &[
    (
        "compile",
        &[
            ("an object file beside the model", "lacuna compile model.onnx"),
            (
                "narrow formats, for another target",
                "lacuna compile model.onnx --precision mxfp8 --target mtia-500",
            ),
            (
                "formats by layer, half a point of accuracy lost at most",
                "lacuna compile model.onnx --precision auto --max-drop 0.5 --calibrate data",
            ),
            ("through pipes", "lacuna compile - -o -"),
        ],
    ),
    (
        "run",
        &[
            ("on random inputs", "lacuna run model.lac"),
            (
                "on files, outputs to a folder",
                "lacuna run model.lac --input image=image.npy --output results",
            ),
        ],
    ),
    (
        "generate",
        &[(
            "four tokens behind a prompt of two, the likeliest each time",
            "lacuna generate llm.lac --prompt-ids 1,15043 -n 4",
        )],
    ),
    (
        "verify",
        &[
            ("against the test data of a folder", "lacuna verify testdata/models/digits-cnn"),
            (
                "against outputs of your own",
                "lacuna verify model.onnx --input inputs.npz --expect outputs.npz",
            ),
            (
                "layer by layer, the ten that lose most",
                "lacuna verify model.onnx --precision mxfp4 --layers --top 10",
            ),
        ],
    ),
    ("bench", &[("how long the interpreter takes, on two threads", "lacuna bench model.lac --threads 2")]),
    (
        "profile",
        &[
            ("cycles by layer", "lacuna profile model.onnx --target mtia-500"),
            (
                "if memory were faster",
                "lacuna profile model.onnx --target mtia-500 --set hbm_bandwidth=40TB/s",
            ),
            ("a timeline for ui.perfetto.dev", "lacuna profile model.lac --trace trace.json"),
        ],
    ),
    (
        "sweep",
        &[
            (
                "precisions on two targets",
                "lacuna sweep model.onnx --target mtia-300,mtia-500 --precision f32,mxfp8,mxfp4",
            ),
            (
                "time over bandwidth, as a plot",
                "lacuna sweep model.onnx --set hbm_bandwidth=4..12TB/s:5 --no-run --svg plot.svg",
            ),
        ],
    ),
    (
        "explain",
        &[
            ("a diagnostic", "lacuna explain L0201"),
            ("the three layers that lose most", "lacuna explain model.onnx --precision mxfp4 --top 3"),
            ("the layers that take most cycles first", "lacuna explain model.onnx --sort cycles"),
        ],
    ),
    ("info", &[("inputs, outputs and sizes to bind", "lacuna info model.onnx")]),
    (
        "inspect",
        &[
            ("one node at every stage", "lacuna inspect model.onnx --stage all --node /conv1/Conv"),
            (
                "its tiles, and the kernels that implement it",
                "lacuna inspect model.onnx --stage tiled --node /conv1/Conv",
            ),
        ],
    ),
    ("disasm", &[("to edit by hand", "lacuna disasm model.lac -o model.s")]),
    ("asm", &[("and back", "lacuna asm model.s -o model.lac")]),
    ("check", &[("of a text edited by hand", "lacuna check model.s")]),
    (
        "targets",
        &[
            ("all of them", "lacuna targets"),
            ("figures with their sources", "lacuna targets mtia-500"),
            ("a file to change", "lacuna targets new --from mtia-500 -o mine.toml"),
        ],
    ),
    ("ops", &[("what can be imported", "lacuna ops")]),
    ("completions", &[("for bash", "lacuna completions bash")]),
    ("man", &[("pages for man", "lacuna man -o man")]),
];

/// The grammar with its help.
pub fn command() -> clap::Command {
    let mut command = Cli::command();
    let template = template(&command);
    command = command.help_template(template);
    for (name, examples) in EXAMPLES {
        command = command.mut_subcommand(name, |c| c.after_help(examples_text(examples)));
    }
    command
}

/// Reads a command line.
///
/// # Errors
/// For help and version, and when an argument is missing, unknown or malformed.
pub fn parse(args: &[OsString]) -> Result<Cli, clap::Error> {
    let mut command = command();
    let matches = command.try_get_matches_from_mut(args)?;
    Cli::from_arg_matches(&matches).map_err(|e| e.format(&mut command))
}

/// The list of commands, by group.
fn template(command: &clap::Command) -> String {
    let mut text = "{about-with-newline}\n{usage-heading} {usage}\n".to_owned();
    for (title, names) in GROUPS {
        // Writing to a string cannot fail.
        let _ = write!(text, "\n{title}:\n");
        for name in *names {
            let found = command.get_subcommands().find(|c| c.get_name() == *name);
            let about = found.and_then(|c| c.get_about()).map(ToString::to_string);
            let about =
                about.unwrap_or_else(|| "Print this, or the options and examples of a command".to_owned());
            let _ = writeln!(text, "  {name:<12} {about}");
        }
    }
    text + "\nOptions:\n{options}\n\n`lacuna help COMMAND` has the options and examples of a command.\n"
}

fn examples_text(examples: &[(&str, &str)]) -> String {
    let one = |(what, line): &(&str, &str)| format!("  {what}:\n    {line}\n");
    format!("Examples:\n{}", examples.iter().map(one).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_its_place_and_examples() {
        let command = command();
        command.clone().debug_assert();
        let placed: Vec<&str> = GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        for name in command.get_subcommands().filter(|c| !c.is_hide_set()).map(clap::Command::get_name) {
            assert_eq!(placed.iter().filter(|placed| **placed == name).count(), 1, "{name}");
            assert!(EXAMPLES.iter().any(|(of, _)| *of == name) || name == "help", "{name}");
        }
    }

    #[test]
    fn examples_are_command_lines() {
        for (name, line) in EXAMPLES.iter().flat_map(|(name, all)| all.iter().map(move |(_, l)| (name, l))) {
            let args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            let parsed = parse(&args);
            assert!(parsed.is_ok() && args.get(1).is_some_and(|a| a == name), "{line}: {:?}", parsed.err());
        }
    }
}

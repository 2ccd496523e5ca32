//! `lacuna inspect`: the text of a model at one stage or all.

use std::collections::BTreeSet;

use lacuna_isa::disasm::{Weights, print_kernel, print_object};
use lacuna_isa::object::Object;
use serde_json::{Map, json};

use super::{Context, Model, Settings};
use crate::cli::{self, StageArg};
use lacuna_driver::codes;
use lacuna_driver::diagnostics::{Diagnostic, Failed};
use lacuna_driver::exec;
use lacuna_driver::files;
use lacuna_driver::pipeline::Stage;
use lacuna_driver::report::Report;
use lacuna_driver::testset;

/// Runs the command.
///
/// # Errors
/// Those of reading and compiling; L0016, L0017.
pub fn run(args: &cli::Inspect, context: &Context) -> Result<Report, Failed> {
    let wanted = |stage: Stage| match args.stage {
        StageArg::Imported => stage == Stage::Imported,
        StageArg::Optimized => stage == Stage::Optimized,
        StageArg::Selected => stage == Stage::Selected,
        StageArg::Tiled => stage == Stage::Tiled,
        StageArg::Machine => stage == Stage::Machine,
        StageArg::All => true,
    };
    let file = testset::file_of(&args.file)?;
    let blob = files::read(&file)?;
    let mut texts: Vec<(Stage, String)> = Vec::new();
    if files::is_elf(&blob) {
        if !wanted(Stage::Machine) {
            let hint = "an object file has the stage `machine`; earlier ones come from the ONNX model";
            return Err(Diagnostic::new(codes::STAGE, file.display().to_string()).hint(hint).into());
        }
        let object = exec::object(&blob, &file)?;
        super::compiled_already(&args.options, &object)?;
        texts.push((Stage::Machine, machine(&object, args.node.as_deref())));
    } else {
        let settings = Settings::new(&args.options)?;
        let model = Model { path: file.clone(), blob, folder: files::ModelFolder::of(&file)? };
        let mut dump = |stage, text| {
            if wanted(stage) {
                // Formats may be selected again.
                texts.retain(|(known, _)| *known != stage);
                texts.push((stage, text));
            }
        };
        let result = settings.compile(&model, context, Some(&mut dump));
        match result {
            Ok(compiled) => {
                for (stage, text) in &mut texts {
                    match (stage, &args.node) {
                        (Stage::Machine, node) => *text = machine(&compiled.object, node.as_deref()),
                        // Tiles say what a kernel works on, its instructions how.
                        (Stage::Tiled, Some(node)) if args.stage == StageArg::Tiled => {
                            *text = lines_of(text, node) + &machine(&compiled.object, Some(node));
                        }
                        (_, Some(node)) => *text = lines_of(text, node),
                        (_, None) => {}
                    }
                }
            }
            // A stage before the failure can still be shown, which is when it is needed most.
            Err(failed) if args.stage == StageArg::All || texts.is_empty() => return Err(failed),
            Err(_) => {
                if let Some(node) = &args.node {
                    texts.iter_mut().for_each(|(_, text)| *text = lines_of(text, node));
                }
            }
        }
    }
    if let Some(node) = &args.node
        && texts.iter().all(|(_, text)| text.is_empty())
    {
        return Err(Diagnostic::new(codes::NO_NODE, format!("`{node}`")).into());
    }
    finish(args, texts)
}

fn finish(args: &cli::Inspect, texts: Vec<(Stage, String)>) -> Result<Report, Failed> {
    if let Some(folder) = &args.output {
        files::make_folder(folder)?;
        let mut names = Vec::new();
        for (number, stage) in Stage::ALL.into_iter().enumerate() {
            if let Some((_, text)) = texts.iter().find(|(s, _)| *s == stage) {
                let path = folder.join(format!("{}-{}.txt", number + 1, stage.name()));
                files::write(&path, text.as_bytes())?;
                names.push(path);
            }
        }
        let text = names.iter().map(|n| format!("{}\n", n.display())).collect::<String>();
        return Ok(Report::of_files(text, json!({ "ok": true, "files": names })));
    }
    let mut out = String::new();
    let mut stages = Map::new();
    for (stage, text) in texts {
        if args.stage == StageArg::All {
            out += &format!("; ---- {} ----\n", stage.name());
        }
        out += &text;
        stages.insert(stage.name().to_owned(), json!(text));
    }
    Ok(Report::new(out, json!({ "ok": true, "stages": stages })))
}

/// Assembly text: of the whole object, or of the kernels that implement a node.
fn machine(object: &Object, node: Option<&str>) -> String {
    let Some(node) = node else { return print_object(object, Weights::Elided) };
    let of_node = |&o: &u32| object.origins.get(o as usize).is_some_and(|origin| origin.node == node);
    let launches = object.entries.iter().flat_map(|entry| &entry.launches);
    let kernels: BTreeSet<usize> =
        launches.filter(|l| l.origins.iter().any(of_node)).map(|l| l.kernel as usize).collect();
    kernels.into_iter().filter_map(|k| Some(print_kernel(k, object.kernels.get(k)?))).collect()
}

/// The lines of a module's or tiled text that belong to a node: those whose list of origins, behind `@`, names it.
fn lines_of(text: &str, node: &str) -> String {
    let quoted = format!("\"{node}\"");
    let declared = |line: &str| -> Option<String> {
        let mut words = line.strip_prefix("origin ")?.splitn(2, ' ');
        let id = words.next()?;
        words.next()?.starts_with(&quoted).then(|| id.to_owned())
    };
    let ids: Vec<String> = text.lines().filter_map(declared).collect();
    let belongs = |line: &&str| {
        let in_list = line
            .rsplit_once("@ [")
            .and_then(|(_, list)| list.trim_end().strip_suffix(']'))
            .is_some_and(|list| list.split(',').any(|id| ids.iter().any(|have| have == id.trim())));
        in_list || line.split([' ', ',', '[', ']', '(', ')']).any(|word| word == node || word == quoted)
    };
    text.lines().filter(belongs).map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_node() {
        let text = "origin o0 \"/a\" \"Conv\"\norigin o1 \"/b\" \"Relu\"\n  v1 = conv v0 @ [o0]\n  v2 = max v1 @ [o0, o1]\n";
        let check = |node: &str, n: usize| assert_eq!(lines_of(text, node).lines().count(), n, "{node}");
        check("/a", 3);
        check("/b", 2);
        check("/", 0);
    }
}

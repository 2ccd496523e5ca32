//! `lacuna generate`: tokens, one after the other, from an object that keeps its caches.

use std::time::Instant;

use lacuna_ir::TensorType;
use lacuna_ir::eval::Tensor;
use lacuna_isa::Blob;
use lacuna_isa::object::{EntryPoint, Object, Port};
use lacuna_runtime::Session;
use lacuna_runtime::profile::Profile;
use serde_json::json;

use super::{Context, energy};
use crate::cli;
use lacuna_driver::codes;
use lacuna_driver::diagnostics::{Diagnostic, Failed};
use lacuna_driver::exec::{self, Program, port_type};
use lacuna_driver::files;
use lacuna_driver::report::{self, Report};
use lacuna_driver::sampling::Sampler;

/// What the ports of an entry are for.
struct Roles {
    /// Number of the entry.
    entry: usize,
    /// Number of the input of token ids, and how many it takes.
    token: usize,
    width: usize,
    /// Number of the output of logits, and how many each token has.
    logits: usize,
    vocabulary: usize,
}

fn elements(port: &Port) -> usize {
    usize::try_from(port.shape.iter().product::<u64>()).unwrap_or(usize::MAX)
}

fn usage(reason: String, hint: &str) -> Diagnostic {
    Diagnostic::new(codes::USAGE, reason).hint(hint)
}

impl Roles {
    /// Those of an entry, by the names given or else by what ports are called and made of.
    ///
    /// # Errors
    /// L0001, with what the entry has.
    fn of(args: &cli::Generate, object: &Object, number: usize) -> Result<Roles, Diagnostic> {
        let entry = &object.entries[number];
        let listed = |ports: &[Port]| {
            let all: Vec<String> =
                ports.iter().map(|port| format!("{}: {}", port.name, port_type(port))).collect();
            all.join(", ")
        };
        let input = |given: &Option<String>, words: &[&str], not: Option<usize>| {
            let found = |port: &Port| match given {
                Some(name) => port.name == *name,
                None => {
                    port.elem.is_int() && words.iter().any(|word| port.name.to_lowercase().contains(word))
                }
            };
            (0..entry.inputs.len()).find(|&i| Some(i) != not && found(&entry.inputs[i]))
        };
        let position = input(&args.position, &["pos"], None);
        let only = || {
            let mut integers =
                (0..entry.inputs.len()).filter(|&i| Some(i) != position && entry.inputs[i].elem.is_int());
            integers.next().filter(|_| integers.next().is_none())
        };
        let token = input(&args.token, &["token", "ids"], position)
            .or_else(|| only().filter(|_| args.token.is_none()));
        let token = token.ok_or_else(|| {
            let inputs = listed(&entry.inputs);
            usage(
                format!("entry `{}` has no input of token ids among {inputs}", entry.name),
                "name it by --token NAME",
            )
        })?;
        let logits = (0..entry.outputs.len()).filter(|&o| match &args.logits {
            Some(name) => entry.outputs[o].name == *name,
            None => entry.outputs[o].elem.is_float(),
        });
        let last = |&o: &usize| entry.outputs[o].shape.last().copied().unwrap_or(0);
        let logits = logits.max_by_key(last).ok_or_else(|| {
            let outputs = listed(&entry.outputs);
            usage(
                format!("entry `{}` has no output of logits among {outputs}", entry.name),
                "name it by --logits NAME",
            )
        })?;
        let others = (0..entry.inputs.len()).filter(|&i| i != token && Some(i) != position);
        let others: Vec<&str> = others.map(|i| entry.inputs[i].name.as_str()).collect();
        if !others.is_empty() {
            let reason = format!("entry `{}` also wants {}", entry.name, others.join(", "));
            let hint = "what stays from token to token is a state: compile with --state INPUT=OUTPUT";
            return Err(usage(reason, hint));
        }
        let width = elements(&entry.inputs[token]);
        let sequences = entry.inputs[token].shape.split_last().map_or(1, |(_, outer)| outer.iter().product());
        let vocabulary = last(&logits) as usize;
        if elements(&entry.outputs[logits]) != width * vocabulary || width == 0 || sequences != 1u64 {
            let reason = format!(
                "entry `{}` takes {} and gives {}: not a row of logits for each token of one sequence",
                entry.name,
                port_type(&entry.inputs[token]),
                port_type(&entry.outputs[logits])
            );
            return Err(usage(reason, "export the model for a batch of 1"));
        }
        Ok(Roles { entry: number, token, width, logits, vocabulary })
    }

    /// The inputs for tokens that begin at a position.
    ///
    /// # Errors
    /// L0008 where the input of positions takes another number of them.
    fn inputs(&self, entry: &EntryPoint, tokens: &[u64], at: usize) -> Result<Vec<Blob>, Diagnostic> {
        let make = |(i, port): (usize, &Port)| {
            let values: Vec<f64> = if i == self.token {
                tokens.iter().map(|&id| id as f64).collect()
            } else {
                (at..at + elements(port).min(self.width)).map(|position| position as f64).collect()
            };
            Tensor::from_f64(port.elem, port.shape.clone(), &values)
                .map(|tensor| Blob::new(tensor.to_bytes()))
                .map_err(|e| Diagnostic::new(codes::INPUT, format!("input `{}`: {e}", port.name)))
        };
        entry.inputs.iter().enumerate().map(make).collect()
    }
}

/// Token ids as the command line has them: numbers, or a file of numbers.
///
/// # Errors
/// L0002 and L0008.
fn ids(text: &str) -> Result<Vec<u64>, Diagnostic> {
    let parse = |text: &str| -> Option<Vec<u64>> {
        let words = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty());
        words.map(|word| word.parse().ok()).collect()
    };
    let found = match parse(text) {
        Some(ids) => ids,
        None => {
            let blob = files::read(text.as_ref())?;
            let content = std::str::from_utf8(blob.bytes()).ok().and_then(parse);
            content
                .ok_or_else(|| Diagnostic::new(codes::INPUT, format!("{text} has no list of token ids")))?
        }
    };
    if found.is_empty() {
        return Err(Diagnostic::new(codes::INPUT, "the prompt has no tokens"));
    }
    Ok(found)
}

/// The most tokens that the caches of an entry hold: the greatest position at which a row of one is written, or else what its
/// dimensions admit.
fn longest(object: &Object, entry: usize) -> usize {
    let launched =
        object.entries[entry].launches.iter().map(|launch| &object.kernels[launch.kernel as usize]);
    let positions =
        launched.flat_map(|kernel| &kernel.params).map(|param| u64::try_from(param.hi).unwrap_or(0));
    let sizes = object.states.iter().filter_map(|state| state.shape.iter().max().copied());
    let most = positions.min().or_else(|| sizes.min()).unwrap_or(u64::MAX);
    usize::try_from(most).unwrap_or(usize::MAX)
}

/// A generation under way.
struct Run<'a> {
    object: &'a Object,
    program: &'a Program<'a>,
    session: Session,
    /// Tokens that the caches hold.
    length: usize,
    /// Runs of each entry.
    runs: Vec<u64>,
}

impl Run<'_> {
    /// Feeds tokens to an entry; the logits behind the last.
    fn feed(&mut self, roles: &Roles, tokens: &[u64]) -> Result<Vec<f64>, Failed> {
        let entry = &self.object.entries[roles.entry];
        let inputs = roles.inputs(entry, tokens, self.length)?;
        let outputs = self.program.run_in(roles.entry, &mut self.session, &inputs)?;
        self.length += tokens.len();
        self.runs[roles.entry] += 1;
        let port = &entry.outputs[roles.logits];
        let ty = TensorType::new(port.elem, port.shape.clone());
        let logits = Tensor::from_bytes(ty, &outputs[roles.logits])
            .map_err(|e| Diagnostic::new(codes::LOAD, e.to_string()))?
            .to_f64();
        Ok(logits[logits.len() - roles.vocabulary..].to_vec())
    }
}

/// Runs the command.
///
/// # Errors
/// Those of reading the object, L0001 where its entries do not generate, L0008 for ids out of range, and those of running.
pub fn run(args: &cli::Generate, context: &Context) -> Result<Report, Failed> {
    let object = exec::read(&args.object)?;
    let target = exec::target_of(&object)?;
    let program = Program::load(&object, context.threads)?;
    let prompt = ids(&args.prompt)?;
    // Entries for something else may stand beside those that generate.
    let (mut all, mut unfit) = (Vec::new(), None);
    for number in 0..object.entries.len() {
        match Roles::of(args, &object, number) {
            Ok(roles) => all.push(roles),
            Err(why) => unfit = unfit.or(Some(why)),
        }
    }
    let Some(step) = all.iter().find(|roles| roles.width == 1) else {
        let hint =
            "compile a model of one token as an entry: lacuna compile prefill.onnx decode.onnx -o llm.lac";
        let none = || usage("no entry takes one token at a time".to_owned(), hint);
        return Err(unfit.unwrap_or_else(none).into());
    };
    if object.states.is_empty() {
        let reason = "the object has no states: each token would be alone".to_owned();
        return Err(usage(reason, "compile with --state INPUT=OUTPUT for its caches").into());
    }
    let longest = longest(&object, step.entry);
    if let Some(id) = prompt.iter().find(|&&id| id >= step.vocabulary as u64) {
        let reason = format!("token {id} of the prompt: the model has {} tokens", step.vocabulary);
        return Err(Diagnostic::new(codes::INPUT, reason).into());
    }
    if prompt.len().saturating_add(args.count) > longest.saturating_add(1) {
        let reason =
            format!("{} tokens and {} more do not fit caches of {longest}", prompt.len(), args.count);
        return Err(Diagnostic::new(codes::INPUT, reason)
            .hint("shorten the prompt, or give a lower -n")
            .into());
    }

    context.progress.step("generating");
    let started = Instant::now();
    let mut run = Run {
        object: &object,
        program: &program,
        session: program.session(),
        length: 0,
        runs: vec![0; object.entries.len()],
    };
    let mut logits = Vec::new();
    let whole = all.iter().filter(|roles| roles.width > 1 && roles.width <= prompt.len());
    if let Some(prefill) = whole.max_by_key(|roles| roles.width) {
        logits = run.feed(prefill, &prompt[..prefill.width])?;
    }
    for &id in &prompt[run.length..] {
        logits = run.feed(step, &[id])?;
    }
    let first = run.runs.clone();
    let mut sampler = Sampler::new(args.temperature, args.top_k, args.top_p, args.seed);
    let mut made: Vec<u64> = Vec::new();
    for n in 0..args.count {
        let id = sampler.choose(&logits).ok_or_else(|| {
            Diagnostic::new(codes::TRAP, format!("the logits of token {} are not numbers", run.length))
        })? as u64;
        made.push(id);
        if args.stop == Some(id) || n + 1 == args.count {
            break;
        }
        logits = run.feed(step, &[id])?;
    }
    let seconds = started.elapsed().as_secs_f64();
    let profiles = (0..object.entries.len()).map(|entry| lacuna_runtime::profile(&object, &target, entry));
    let profiles: Vec<Profile> =
        profiles.collect::<Result<_, _>>().map_err(|e| Diagnostic::new(codes::LOAD, e.to_string()))?;
    let microseconds = |cycles: u64| cycles as f64 / (target.clock_ghz * 1e3);
    let first_cycles = first.iter().zip(&profiles).map(|(n, profile)| n * profile.cycles).sum();
    let own = &profiles[step.entry];
    let rate = run.length as f64 / seconds;
    let text = made.iter().map(u64::to_string).collect::<Vec<_>>().join(" ");
    let joules = energy::known(own.energy_pj, &target);
    let per_token = format!(
        "{:.2} us, {} over HBM{}",
        microseconds(own.cycles),
        report::bytes(own.hbm_bytes),
        joules.map_or_else(String::new, |pj| format!(", {:.3} uJ", pj * 1e-6)),
    );
    let text = format!(
        "{text}\n{} tokens of the prompt and {} more in {seconds:.2} s, {rate:.1} tokens a second of the interpreter\n\
         modelled on {}: first token after {:.2} us; each further one {per_token}\n",
        prompt.len(),
        made.len(),
        target.name,
        microseconds(first_cycles),
    );
    let json = json!({
        "ok": true,
        "tokens": made,
        "prompt_tokens": prompt.len(),
        "seconds": seconds,
        "tokens_per_second": rate,
        "target": target.name,
        "first_token_microseconds": microseconds(first_cycles),
        "token_microseconds": microseconds(own.cycles),
        "token_hbm_bytes": own.hbm_bytes,
        "token_energy_pj": joules,
    });
    Ok(Report::new(text, json))
}

//! `lacuna generate`: tokens, one after the other, from an object that keeps its caches.

use std::time::Instant;

use lacuna_ir::TensorType;
use lacuna_ir::eval::Tensor;
use lacuna_isa::Blob;
use lacuna_isa::format::ScalarType;
use lacuna_isa::object::{EntryPoint, Object, Port};
use lacuna_isa::target::Target;
use lacuna_runtime::profile::Profile;
use lacuna_runtime::{ProfileOptions, Session};
use serde_json::json;

use super::{Context, energy};
use crate::cli;
use lacuna_driver::codes;
use lacuna_driver::diagnostics::{Diagnostic, Failed};
use lacuna_driver::exec::{self, Program, port_type};
use lacuna_driver::files;
use lacuna_driver::report::{self, Report};
use lacuna_driver::sampling::Sampler;

/// What an input is fed with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Feed {
    /// Token ids.
    Tokens,
    /// Their positions, over and over if there is room for more; the first one, if for less.
    Positions,
    /// 1 for each token so far and 0 for each that may follow.
    Mask,
    /// The number of tokens so far.
    Length,
    /// The position of the last of them.
    Last,
}

/// Parts of the names that exporters give, and what such inputs are.
const NAMED: [(&str, Feed); 6] = [
    ("mask", Feed::Mask),
    ("total_seq", Feed::Length),
    ("seqlens", Feed::Last),
    ("pos", Feed::Positions),
    ("token", Feed::Tokens),
    ("ids", Feed::Tokens),
];

/// What the ports of an entry are for.
struct Roles {
    /// Number of the entry.
    entry: usize,
    /// What each input is fed with.
    feeds: Vec<Feed>,
    /// Tokens that a run takes.
    width: usize,
    /// Whether it may follow another run: some input says where its tokens are.
    follows: bool,
    /// The most tokens, with those before, that its masks have room for.
    room: usize,
    /// Whether tokens are at the end of masks: caches push out their oldest rows, and nobody writes one at a position.
    at_end: bool,
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
        let feeds = feeds(args, &entry.inputs).map_err(|unknown| match unknown {
            None => usage(
                format!("entry `{}` has no input of token ids among {}", entry.name, listed(&entry.inputs)),
                "name it by --token NAME",
            ),
            Some(names) => usage(
                format!("entry `{}` also wants {names}", entry.name),
                if object.states.is_empty() {
                    "what stays from token to token is a state: compile with --state INPUT=OUTPUT"
                } else {
                    "one sequence is generated: compile for batch 1, and every other input as a state"
                },
            ),
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
        let token = feeds.iter().position(|&feed| feed == Feed::Tokens).unwrap_or(0);
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
        let follows = feeds.iter().any(|&feed| feed != Feed::Tokens);
        let masks = entry.inputs.iter().zip(&feeds).filter(|(_, feed)| **feed == Feed::Mask);
        let room = masks.map(|(port, _)| port.shape.last().copied().unwrap_or(1)).min();
        let room = usize::try_from(room.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
        let at_end = object.kernels.iter().all(|kernel| kernel.params.is_empty());
        Ok(Roles { entry: number, feeds, width, follows, room, at_end, logits, vocabulary })
    }

    /// The inputs for tokens that begin at a position.
    ///
    /// # Errors
    /// L0008 where an input takes another number of them.
    fn inputs(&self, entry: &EntryPoint, tokens: &[u64], at: usize) -> Result<Vec<Blob>, Diagnostic> {
        let length = at + tokens.len();
        let make = |(port, feed): (&Port, &Feed)| {
            let n = elements(port);
            let values: Vec<f64> = match feed {
                Feed::Tokens => tokens.iter().map(|&id| id as f64).collect(),
                Feed::Positions => (at..length).cycle().take(n).map(|position| position as f64).collect(),
                Feed::Mask => {
                    let live = |i: usize| if self.at_end { i + length >= n } else { i < length };
                    (0..n).map(|i| f64::from(live(i))).collect()
                }
                Feed::Length => vec![length as f64; n],
                Feed::Last => vec![length as f64 - 1.0; n],
            };
            Tensor::from_f64(port.elem, port.shape.clone(), &values)
                .map(|tensor| Blob::new(tensor.to_bytes()))
                .map_err(|e| Diagnostic::new(codes::INPUT, format!("input `{}`: {e}", port.name)))
        };
        entry.inputs.iter().zip(&self.feeds).map(make).collect()
    }
}

/// What inputs are fed with: as the command line says, or else by their names; the only one that is left has the tokens.
///
/// # Errors
/// The names of those that nothing is known of; nothing where there are no token ids.
fn feeds(args: &cli::Generate, ports: &[Port]) -> Result<Vec<Feed>, Option<String>> {
    let known = |port: &Port| {
        let name = port.name.to_lowercase();
        let by_name = || NAMED.iter().find(|(part, _)| name.contains(part)).map(|&(_, feed)| feed);
        let given = |wanted: &Option<String>| wanted.as_ref().map(|wanted| *wanted == port.name);
        match (given(&args.token), given(&args.position)) {
            (Some(true), _) => Some(Feed::Tokens),
            (_, Some(true)) => Some(Feed::Positions),
            (token, position) => by_name()
                .filter(|_| port.elem.is_int() || port.elem == ScalarType::Bool)
                // What a mask with a row for each token hides is not known.
                .filter(|&feed| feed != Feed::Mask || port.shape.last() == Some(&(elements(port) as u64)))
                .filter(|&feed| token.is_none() || feed != Feed::Tokens)
                .filter(|&feed| position.is_none() || feed != Feed::Positions),
        }
    };
    let mut all: Vec<Option<Feed>> = ports.iter().map(known).collect();
    // Of several that may be tokens the first is.
    let mut seen = false;
    for feed in all.iter_mut().filter(|feed| **feed == Some(Feed::Tokens)) {
        *feed = feed.filter(|_| !std::mem::replace(&mut seen, true));
    }
    if !seen && args.token.is_none() {
        let mut left = (0..ports.len()).filter(|&i| all[i].is_none() && ports[i].elem.is_int());
        if let (Some(only), None) = (left.next(), left.next()) {
            all[only] = Some(Feed::Tokens);
            seen = true;
        }
    }
    let unknown = ports.iter().zip(&all).filter(|(_, feed)| feed.is_none());
    let unknown: Vec<&str> = unknown.map(|(port, _)| port.name.as_str()).collect();
    match (seen, unknown.is_empty()) {
        (false, _) => Err(None),
        (true, false) => Err(Some(unknown.join(", "))),
        (true, true) => Ok(all.into_iter().flatten().collect()),
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
    /// The entry of each run, and the position of its first token.
    runs: Vec<(usize, usize)>,
}

impl Run<'_> {
    /// Feeds tokens to an entry; the logits behind the last.
    fn feed(&mut self, roles: &Roles, tokens: &[u64]) -> Result<Vec<f64>, Failed> {
        let entry = &self.object.entries[roles.entry];
        let inputs = roles.inputs(entry, tokens, self.length)?;
        let outputs = self.program.run_in(roles.entry, &mut self.session, &inputs)?;
        self.runs.push((roles.entry, self.length));
        self.length += tokens.len();
        let port = &entry.outputs[roles.logits];
        let ty = TensorType::new(port.elem, port.shape.clone());
        let logits = Tensor::from_bytes(ty, &outputs[roles.logits])
            .map_err(|e| Diagnostic::new(codes::LOAD, e.to_string()))?
            .to_f64();
        Ok(logits[logits.len() - roles.vocabulary..].to_vec())
    }
}

/// The entries that generate, and which of them takes one token at a time.
///
/// # Errors
/// L0001 where none does, or nothing stays from token to token.
fn entries(args: &cli::Generate, object: &Object) -> Result<(Vec<Roles>, usize), Diagnostic> {
    // Entries for something else may stand beside those that generate.
    let (mut all, mut unfit) = (Vec::new(), None);
    for number in 0..object.entries.len() {
        match Roles::of(args, object, number) {
            Ok(roles) => all.push(roles),
            Err(why) => unfit = unfit.or(Some(why)),
        }
    }
    let Some(step) = all.iter().position(|roles| roles.width == 1) else {
        let hint =
            "compile a model of one token as an entry: lacuna compile prefill.onnx decode.onnx -o llm.lac";
        return Err(unfit.unwrap_or_else(|| usage("no entry takes one token at a time".to_owned(), hint)));
    };
    if object.states.is_empty() {
        let reason = "the object has no states: each token would be alone".to_owned();
        return Err(usage(reason, "compile with --state INPUT=OUTPUT for its caches"));
    }
    Ok((all, step))
}

/// Refuses a prompt with unknown tokens, or that with `count` more is longer than the caches of the entry.
fn admit(prompt: &[u64], count: usize, object: &Object, step: &Roles) -> Result<(), Diagnostic> {
    if let Some(id) = prompt.iter().find(|&&id| id >= step.vocabulary as u64) {
        let reason = format!("token {id} of the prompt: the model has {} tokens", step.vocabulary);
        return Err(Diagnostic::new(codes::INPUT, reason));
    }
    let longest = longest(object, step.entry);
    if prompt.len().saturating_add(count) > longest.saturating_add(1) {
        let reason = format!("{} tokens and {count} more do not fit caches of {longest}", prompt.len());
        let hint = "shorten the prompt, or give a lower -n";
        return Err(Diagnostic::new(codes::INPUT, reason).hint(hint));
    }
    Ok(())
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
    let (all, step) = entries(args, &object)?;
    let step = &all[step];
    admit(&prompt, args.count, &object, step)?;

    context.progress.step("generating");
    let started = Instant::now();
    let mut run =
        Run { object: &object, program: &program, session: program.session(), length: 0, runs: Vec::new() };
    let mut logits = Vec::new();
    while run.length < prompt.len() {
        let left = &prompt[run.length..];
        let fits = |roles: &&Roles| {
            let whole = roles.width <= left.len() && run.length + roles.width <= roles.room;
            whole && (roles.follows || run.length == 0)
        };
        let widest = all.iter().filter(fits).max_by_key(|roles| roles.width).unwrap_or(step);
        logits = run.feed(widest, &left[..widest.width])?;
    }
    let first = run.runs.len();
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
    report_of(&run, step.entry, &target, Counts { prompt: prompt.len(), made: &made, first, seconds })
}

/// What a generation made.
struct Counts<'a> {
    /// Tokens of the prompt.
    prompt: usize,
    made: &'a [u64],
    /// Runs before the first token.
    first: usize,
    seconds: f64,
}

/// The tokens, and what they cost by the machine model.
fn report_of(run: &Run<'_>, step: usize, target: &Target, counts: Counts<'_>) -> Result<Report, Failed> {
    let Counts { prompt, made, first, seconds } = counts;
    let profile = |entry: usize, position: usize| -> Result<Profile, Diagnostic> {
        let options = ProfileOptions { position: i32::try_from(position).ok(), ..ProfileOptions::default() };
        lacuna_runtime::profile_with(run.object, target, entry, &options)
            .map_err(|e| Diagnostic::new(codes::LOAD, e.to_string()))
    };
    let microseconds = |cycles: u64| cycles as f64 / (target.clock_ghz * 1e3);
    let mut first_cycles = 0;
    for entry in 0..run.object.entries.len() {
        let runs = run.runs[..first].iter().filter(|run| run.0 == entry);
        let at: Vec<usize> = runs.map(|run| run.1).collect();
        // Between the first and the last run of an entry costs grow with the position.
        if let (Some(&from), Some(&to)) = (at.first(), at.last()) {
            let ends = profile(entry, from)?.cycles + profile(entry, to)?.cycles;
            first_cycles += ends * at.len() as u64 / 2;
        }
    }
    let ends = [prompt, run.length.max(prompt + 1) - 1];
    let [early, late] = [profile(step, ends[0])?, profile(step, ends[1])?];
    let rate = run.length as f64 / seconds;
    let text = made.iter().map(u64::to_string).collect::<Vec<_>>().join(" ");
    let joules = |own: &Profile| energy::known(own.energy_pj, target);
    let cost = |own: &Profile| {
        format!(
            "{:.2} us, {} over HBM{}",
            microseconds(own.cycles),
            report::bytes(own.hbm_bytes),
            joules(own).map_or_else(String::new, |pj| format!(", {:.3} uJ", pj * 1e-6)),
        )
    };
    let per_token = if early.cycles == late.cycles && early.hbm_bytes == late.hbm_bytes {
        cost(&late)
    } else {
        format!("{} behind {} tokens, {} behind {}", cost(&early), ends[0], cost(&late), ends[1])
    };
    let text = format!(
        "{text}\n{prompt} tokens of the prompt and {} more in {seconds:.2} s, {rate:.1} tokens a second of the interpreter\n\
         modelled on {}: first token after {:.2} us; each further one {per_token}\n",
        made.len(),
        target.name,
        microseconds(first_cycles),
    );
    let step_report = |own: &Profile, behind: usize| {
        json!({
            "behind": behind,
            "microseconds": microseconds(own.cycles),
            "hbm_bytes": own.hbm_bytes,
            "energy_pj": joules(own),
        })
    };
    let json = json!({
        "ok": true,
        "tokens": made,
        "prompt_tokens": prompt,
        "seconds": seconds,
        "tokens_per_second": rate,
        "target": target.name,
        "first_token_microseconds": microseconds(first_cycles),
        "token_microseconds": microseconds(late.cycles),
        "token_hbm_bytes": late.hbm_bytes,
        "token_energy_pj": joules(&late),
        "steps": [step_report(&early, ends[0]), step_report(&late, ends[1])],
    });
    Ok(Report::new(text, json))
}

//! The machine model's timeline in the Trace Event format that chrome://tracing and ui.perfetto.dev show.
//!
//! One row per engine under each simulated PE, and one row of launches. Times are microseconds at the target's clock; the
//! arguments of a bar have the cycles.

use std::collections::BTreeSet;

use lacuna_isa::inst::Engine;
use lacuna_isa::object::Object;
use lacuna_isa::target::Target;
use lacuna_runtime::profile::Profile;
use serde::Serialize;

/// Process number of the row of launches; PEs come behind it.
const LAUNCHES: usize = 0;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Trace<'a> {
    display_time_unit: &'static str,
    trace_events: Vec<Event<'a>>,
}

#[derive(Serialize)]
#[serde(tag = "ph")]
enum Event<'a> {
    /// A bar.
    #[serde(rename = "X")]
    Complete {
        name: &'a str,
        cat: &'static str,
        pid: usize,
        tid: usize,
        ts: f64,
        dur: f64,
        args: BarArgs<'a>,
    },
    /// A name of a process or thread.
    #[serde(rename = "M")]
    Metadata { name: &'static str, pid: usize, tid: usize, args: NameArgs },
}

#[derive(Serialize)]
struct BarArgs<'a> {
    start_cycle: u64,
    cycles: u64,
    launch: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    nodes: Vec<&'a str>,
}

#[derive(Serialize)]
struct NameArgs {
    name: String,
}

/// The trace as JSON text.
pub fn chrome(profile: &Profile, object: &Object, target: &Target) -> String {
    let us = |cycles: u64| cycles as f64 / (target.clock_ghz * 1e3);
    let name =
        |what, pid, tid, name: String| Event::Metadata { name: what, pid, tid, args: NameArgs { name } };
    let mut events = vec![name("process_name", LAUNCHES, 0, "launches".to_owned())];
    for pe in profile.events.iter().map(|event| event.pe).collect::<BTreeSet<_>>() {
        events.push(name("process_name", pe + 1, 0, format!("PE {pe}")));
        for (tid, engine) in Engine::ALL.into_iter().enumerate() {
            events.push(name("thread_name", pe + 1, tid, engine.name().to_owned()));
        }
    }
    for (number, launch) in profile.launches.iter().enumerate() {
        let cycles = launch.end - launch.start;
        let origins = launch.origins.iter().filter_map(|&o| object.origins.get(o as usize));
        let nodes = origins.map(|origin| origin.node.as_str()).collect();
        events.push(Event::Complete {
            name: &launch.kernel,
            cat: "launch",
            pid: LAUNCHES,
            tid: 0,
            ts: us(launch.start),
            dur: us(cycles),
            args: BarArgs { start_cycle: launch.start, cycles, launch: number, nodes },
        });
    }
    for event in &profile.events {
        let tid = Engine::ALL.iter().position(|&engine| engine == event.engine).unwrap_or_default();
        events.push(Event::Complete {
            name: event.name,
            cat: "instruction",
            pid: event.pe + 1,
            tid,
            ts: us(event.start),
            dur: us(event.cycles),
            args: BarArgs {
                start_cycle: event.start,
                cycles: event.cycles,
                launch: event.launch,
                nodes: Vec::new(),
            },
        });
    }
    // Numbers, texts and lists of them: nothing that JSON cannot say.
    serde_json::to_string(&Trace { display_time_unit: "ns", trace_events: events }).expect("plain data")
}

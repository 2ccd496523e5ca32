//! `lacuna ops`: the supported ONNX operators, from the table that imports them.

use lacuna_onnx::{OPSETS, SupportedOp, supported_ops};
use serde_json::{Value, json};

use crate::cli;
use lacuna_driver::report::{self, Report};

const HEADER: [&str; 5] = ["operator", "since", "first operand", "becomes", "not supported"];

fn row(op: &SupportedOp) -> [String; 5] {
    let (name, since) = match op.domain {
        "" => (op.op.to_owned(), op.since.to_string()),
        domain => (format!("{domain}.{}", op.op), String::new()),
    };
    [&name, &since, op.types.name(), op.lowering, op.constraint].map(str::to_owned)
}

/// Runs the command.
pub fn run(args: &cli::Ops) -> Report {
    let ops: Vec<&SupportedOp> = supported_ops().collect();
    let range = format!("{} to {}", OPSETS.start(), OPSETS.end());
    let text = if args.markdown {
        format!(
            "# Operators\n\n<!-- Written by `cargo xtask docs` from the importer's table. -->\n\n\
             {} operators: those of the domain `ai.onnx` in operator sets {range}, and some of other domains, which stand last. An operator that is not in the table, or a form \
             that its last column names, is refused with a diagnostic; nothing falls back to the host.\n\n",
            ops.len()
        ) + &report::markdown(HEADER, ops.iter().copied().map(row))
    } else {
        report::table(HEADER, ops.iter().copied().map(row), &[1])
            + &format!("{} operators; operator sets {range}\n", ops.len())
    };
    let json: Vec<Value> = ops
        .iter()
        .map(|op| {
            json!({
                "domain": op.domain,
                "op": op.op,
                "since": op.since,
                "types": op.types.name(),
                "lowering": op.lowering,
                "constraint": op.constraint,
            })
        })
        .collect();
    Report::new(text, json!({ "ok": true, "opsets": [OPSETS.start(), OPSETS.end()], "ops": json }))
}

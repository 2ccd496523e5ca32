"""Random ONNX graphs with reference outputs, to find what the compiler gets wrong.

    random_graphs.py write OUT [--first N] [--count N]
    random_graphs.py keep [ARCHIVE]
    random_graphs.py verify OUT LACUNA [--options "..."] [--report FILE]

Graph N depends on N alone. A graph counts only if its references can be trusted: ONNX's
evaluator computed every node, and ONNX Runtime, where it has all operators of the graph for
their types, gave the same.
"""

import argparse
import collections
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import random_control
import random_elementwise
import random_forms
import random_layers
import random_movement
import random_patterns
import random_rare
from onnx import numpy_helper
from random_builder import Builder
from random_references import is_known
from random_values import APPROXIMATE, TOLERANCE, Skip, close, consumed, is_float, run_runtime, single_node

OPSETS = [7, 8, 9, 10, 11, 12, 13, 13, 14, 15, 16, 17, 18, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27]
FAMILIES = [
    (random_elementwise.OPERATORS, 1.0),
    (random_movement.OPERATORS, 0.9),
    (random_layers.OPERATORS, 0.7),
    (random_control.OPERATORS, 1.0),
    (random_patterns.OPERATORS, 0.7),
    (random_rare.OPERATORS, 0.6),
    (random_forms.OPERATORS, 0.7),
]
TABLE = [(make, weight * share) for table, share in FAMILIES for make, weight in table]

# Graphs that are kept for the tests: how many, of at most how many bytes, and how many of
# them an operator needs before others are preferred.
KEPT, KEPT_BYTES, KEPT_EACH, MOST_TRIED = 300, 6000, 6, 20000
ARCHIVE = Path(__file__).resolve().parent.parent / "random" / "graphs.zip"
WEIGHTS = np.array([weight for _, weight in TABLE])


def grow(rng, opset):
    """Makes a graph of some nodes."""
    g = Builder(rng, opset)
    n_nodes = int(rng.choice([1, 2, 3, 4, 5, 6, 8, 10, 12, 16]))
    tries = 0
    skips = collections.Counter()
    while len(g.nodes) < n_nodes and tries < 8 * n_nodes + 20:
        tries += 1
        make, _ = TABLE[int(rng.choice(len(TABLE), p=WEIGHTS / WEIGHTS.sum()))]
        before = len(g.nodes), len(g.values), len(g.inputs), len(g.constants)
        try:
            make(g)
        except Skip as skip:
            skips[f"{make.__name__}: {skip}"] += 1
            for items, n in zip((g.values, g.inputs, g.constants), before[1:]):
                del items[n:]
            del g.nodes[before[0] :]
    return g, skips


def graph(number, log=None):
    """Makes graph `number` with its inputs and outputs, or nothing if it does not count."""
    rng = np.random.default_rng([20260, number])
    opset = int(rng.choice(OPSETS))
    g, skips = grow(rng, opset)
    if log is not None:
        log.update(skips)
    try:
        model, inputs, outputs = g.model()
    except Skip as skip:
        if log is not None:
            log[str(skip)] += 1
        return None
    feeds = {v.name: v.array for v in inputs}
    try:
        found = run_runtime(model, feeds)
    except (Skip, Exception):
        found = None
    disputed = found is not None and not all(
        f.dtype == v.dtype and close(f, v.array, v.dtype) for f, v in zip(found, outputs, strict=True)
    )
    if disputed:
        node, where = culprit(g)
        if not is_known(node):
            if log is not None:
                log[f"disputed: {number} {where}"] += 1
            return None
    return model, inputs, outputs


def culprit(g):
    """Names the node on which the references differ, given the same operands."""
    by_name = {v.name: v for v in [*g.values, *g.constants]}
    for node in g.nodes:
        names = [n for n in consumed(node) if n in by_name]
        feeds = {n: by_name[n].array for n in names}
        model = single_node(node, names, list(feeds.values()), g.opset)
        try:
            found = run_runtime(model, feeds)
        except Exception:
            continue
        kept = [by_name[o] for o in node.output if o]
        for f, v in zip(found, kept, strict=True):
            if f.dtype != v.dtype or not close(f, v.array, v.dtype):
                shapes = [(str(a.dtype), a.shape) for a in feeds.values()]
                return node, f"opset {g.opset} {shapes} {onnx.printer.to_text(node)}"
    return None, "no single node"


def tensor(value, name=None):
    """Serialises a tensor."""
    return numpy_helper.from_array(np.asarray(value.array), name or value.name).SerializeToString()


def tolerance(outputs):
    """Gives the options of `lacuna verify` for outputs: none, one for all, or those by type."""
    inexact = {v.dtype.name for v in outputs if v.level == APPROXIMATE}
    if not inexact:
        return ["--atol", "0", "--rtol", "0"]
    widths = {v.dtype.name for v in outputs if is_float(v.dtype)}
    if len(widths) > 1 or not widths <= {"float32", "float64"}:
        return []
    atol, rtol = TOLERANCE[widths.pop()]
    return ["--atol", str(atol), "--rtol", str(rtol)]


def write(out, number, made):
    """Writes the ONNX test layout; and the options of its tolerance."""
    model, inputs, outputs = made
    folder = out / f"{number:06}"
    shutil.rmtree(folder, ignore_errors=True)
    data = folder / "test_data_set_0"
    data.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "model.onnx")
    for kind, values in (("input", inputs), ("output", outputs)):
        for idx, value in enumerate(values):
            (data / f"{kind}_{idx}.pb").write_bytes(tensor(value))
    (folder / "tolerance").write_text(" ".join(tolerance(outputs)))


def rare_operator(model, counts):
    """Says whether a graph has an operator that few kept ones have, and counts those of this one."""
    names = {node.op_type for node in model.graph.node}
    is_rare = any(counts[name] < KEPT_EACH for name in names)
    if is_rare:
        counts.update(names)
    return is_rare


def keep(path):
    """Writes the first small graphs that cover every operator evenly to an archive."""
    counts, number, n_kept = collections.Counter(), 0, 0
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path, "w") as archive:
        while n_kept < KEPT and number < MOST_TRIED:
            made = graph(number)
            number += 1
            if made is None:
                continue
            model, inputs, outputs = made
            size = model.ByteSize() + sum(v.array.nbytes for v in [*inputs, *outputs])
            if size > KEPT_BYTES or not rare_operator(model, counts):
                continue
            write(Path(folder), number - 1, made)
            n_kept += 1
        for file in sorted(Path(folder).rglob("*")):
            if file.is_file():
                # A fixed time: the same graphs give the same bytes.
                entry = zipfile.ZipInfo(str(file.relative_to(folder)), (2020, 1, 1, 0, 0, 0))
                archive.writestr(entry, file.read_bytes(), zipfile.ZIP_DEFLATED, 9)
    print(f"{n_kept} of {number} graphs, {len(counts)} operators")


def run(lacuna, folder, options):
    """Verifies one folder and gives the exit status with what was said."""
    command = [lacuna, "verify", str(folder), "--json", "--threads", "1", *options]
    if "--precision" not in options:
        command += (folder / "tolerance").read_text().split()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return folder, "timeout", ""
    return folder, done.returncode, done.stdout + done.stderr


def verify(arguments):
    """Verifies all folders and reports those that fail, by kind."""
    folders = sorted(p.parent for p in arguments.out.glob("*/model.onnx"))
    if arguments.only:
        folders = [f for f in folders if f.name in arguments.only]
    kinds = collections.Counter()
    with ThreadPoolExecutor(arguments.jobs) as pool, arguments.report.open("w") as report:
        rotation = arguments.options or [""]
        jobs = [
            pool.submit(run, arguments.lacuna, f, rotation[i % len(rotation)].split())
            for i, f in enumerate(folders)
        ]
        for job in jobs:
            folder, status, said = job.result()
            kinds[status] += 1
            if status != 0:
                report.write(json.dumps({"graph": folder.name, "status": status, "said": said}) + "\n")
    print(dict(kinds))


def main():
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    writing = commands.add_parser("write")
    writing.add_argument("out", type=Path)
    writing.add_argument("--first", type=int, default=0)
    writing.add_argument("--count", type=int, default=100)
    keeping = commands.add_parser("keep")
    keeping.add_argument("archive", type=Path, nargs="?", default=ARCHIVE)
    verifying = commands.add_parser("verify")
    verifying.add_argument("out", type=Path)
    verifying.add_argument("lacuna")
    verifying.add_argument("--options", action="append", default=[])
    verifying.add_argument("--only", action="append", default=[])
    verifying.add_argument("--report", type=Path, default=Path("report.jsonl"))
    verifying.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.command == "verify":
        verify(arguments)
        return
    if arguments.command == "keep":
        arguments.archive.parent.mkdir(parents=True, exist_ok=True)
        keep(arguments.archive)
        return
    log = collections.Counter()
    n_written = 0
    for number in range(arguments.first, arguments.first + arguments.count):
        made = graph(number, log)
        if made is not None:
            write(arguments.out, number, made)
            n_written += 1
    print(f"{n_written} of {arguments.count} graphs count")
    for reason, n in log.most_common():
        print(n, reason, file=sys.stderr)


if __name__ == "__main__":
    main()

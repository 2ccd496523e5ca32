"""Builds random graphs node by node, with the value of every node computed as it is added.

A value knows how exactly its reference is known, so that nothing discontinuous stands behind
rounding that implementations may do differently:

* EXACT: every implementation gives these bits: data, integers, comparisons, and single IEEE
  operations on such values.
* SUM: as exact, because the terms are small integers, but a sum: what is multiplied or
  added to it may be moved into the sum, so arithmetic on it rounds.
* APPROXIMATE: functions and sums of floats. A second track computes it in double precision
  with operands shaken by some units in the last place; nodes for which both tracks differ
  by more than an eighth of the tolerance are not added.
"""

import numpy as np
import onnx
from onnx import helper, numpy_helper
from random_references import first_by_runtime, is_known
from random_values import (
    APPROXIMATE,
    BF16,
    BOOL,
    DTYPES,
    EXACT,
    FINITE,
    MAX_ELEMENTS,
    SIGNIFICAND,
    SUM,
    Skip,
    Value,
    beyond,
    check_types,
    close,
    consumed,
    is_float,
    make_model,
    run_reference,
    run_runtime,
    single_node,
    tensor_type,
    widen,
)


class Builder:
    """A graph under construction."""

    def __init__(self, rng, opset):
        self.rng = rng
        self.opset = opset
        self.large = self.chance(0.08)
        self.values = []
        self.nodes = []
        self.inputs = []
        self.constants = []
        self.n_names = 0
        self.main = DTYPES[
            str(rng.choice(list(DTYPES), p=np.array([30, 12, 8, 8, 4, 4, 6, 10, 4, 3, 3, 3, 5]) / 100))
        ]

    # ---- chance ----

    def chance(self, p):
        """Is true with probability p."""
        return self.rng.random() < p

    def choice(self, items):
        """Picks one of some items, which may be of any kind."""
        items = list(items)
        if not items:
            raise Skip("nothing to choose from")
        return items[int(self.rng.integers(len(items)))]

    def integer(self, low, high):
        """Picks an integer of low..=high."""
        return int(self.rng.integers(low, high + 1))

    def fresh(self, prefix):
        """Gives a new name."""
        self.n_names += 1
        return f"{prefix}{self.n_names}"

    # ---- shapes ----

    def dim(self):
        """Picks a size: mostly small, often 1, rarely 0, sometimes beyond a tile's edge."""
        roll = self.rng.random()
        if roll < 0.015:
            return 0
        if roll < 0.2:
            return 1
        if roll < (0.6 if self.large else 0.93):
            return self.integer(2, 7)
        return self.choice([8, 15, 16, 17, 31, 32, 33, 64, 65] + ([100, 129, 257, 513] if self.large else []))

    def shape(self, low=0, high=6, limit=MAX_ELEMENTS):
        """Picks a shape with a rank in low..=high."""
        rank = self.choice([r for r in (0, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 5, 6) if low <= r <= high] or [low])
        limit = min(limit, MAX_ELEMENTS) if not self.large or limit < MAX_ELEMENTS else 8 * limit
        if high >= 6 and self.chance(0.04):
            rank = self.integer(max(low, 7), 8)
        while True:
            shape = tuple(self.dim() for _ in range(rank))
            if np.prod(shape, dtype=np.int64) <= limit:
                return shape

    # ---- values ----

    def data(self, dtype, shape, low=None, high=None):
        """Picks elements; within bounds if they are given."""
        rng = self.rng
        if dtype == BOOL:
            return np.asarray(rng.random(shape) < rng.choice([0.1, 0.5, 0.9])).astype(np.bool_)
        if low is not None:
            if is_float(dtype):
                return np.asarray(rng.uniform(low, high, shape)).astype(dtype)
            return np.asarray(rng.integers(low, high + 1, shape)).astype(dtype)
        if is_float(dtype):
            return self.float_data(dtype, shape)
        info = np.iinfo(dtype)
        kind = rng.random()
        if kind < 0.6:
            low, high = (-6, 6) if info.min < 0 else (0, 9)
        elif kind < 0.85:
            low, high = max(info.min, -30000), min(info.max, 30000)
        else:
            low, high = info.min, info.max
        return np.asarray(rng.integers(low, high, shape, dtype=dtype, endpoint=True)).astype(dtype)

    def float_data(self, dtype, shape):
        """Picks floats: normal, with ties, with zeros of both signs, offset, of many magnitudes."""
        rng = self.rng
        if rng.random() < 0.05:
            return np.full(shape, rng.choice([0.0, 1.0, -1.0, 2.0])).astype(dtype)
        kind = rng.random()
        if kind < 0.35:
            data = rng.standard_normal(shape)
        elif kind < 0.55:
            data = rng.integers(-4, 5, shape)
        elif kind < 0.65:
            data = rng.choice([0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5], shape)
        elif kind < 0.73:
            data = rng.standard_normal(shape) + rng.choice([30.0, -30.0, 1000.0])
        elif kind < 0.81:
            data = rng.standard_normal(shape) * 10.0 ** rng.integers(-4, 4, shape)
        else:
            data = rng.uniform(-2, 2, shape)
        data = np.array(data, dtype=np.float64)
        if data.size and rng.random() < 0.04:
            special = rng.choice([np.nan, np.inf, -np.inf], data.shape)
            data = np.where(rng.random(data.shape) < 0.15, special, data)
        with np.errstate(over="ignore"):
            return np.asarray(data).astype(dtype)

    def new(self, dtype, shape, low=None, high=None, constant=None):
        """Adds a graph input or a constant with random elements."""
        return self.given(self.data(dtype, tuple(shape), low, high), constant)

    def given(self, array, constant=None):
        """Adds a graph input or a constant with these elements."""
        array = np.asarray(array)
        if constant is None:
            constant = self.chance(0.3)
        value = Value(self.fresh("c" if constant else "x"), array, widen(array), EXACT, constant)
        (self.constants if constant else self.inputs).append(value)
        self.values.append(value)
        return value

    def const(self, array, dtype=np.int64):
        """Adds a constant that no other node picks up; rarely an input, which the test data binds."""
        value = self.given(np.asarray(array, dtype=dtype), not self.chance(0.04))
        self.values.pop()
        return value

    def find(self, test):
        """Picks a value that fits, mostly a late one, or nothing."""
        found = [v for v in self.values if test(v)]
        if not found:
            return None
        if self.chance(0.5):
            return found[-1 - min(self.integer(0, 2), len(found) - 1)]
        return self.choice(found)

    def some(self, dtypes, low=0, high=6, level=APPROXIMATE, test=None, fresh=0.2):
        """Picks a value of one of these types with a rank in low..=high, or adds one."""
        dtypes = tuple(dtypes)

        def fits(v):
            top = 8 if high == 6 else high
            return (
                v.dtype in dtypes
                and low <= v.rank <= top
                and v.level <= level
                and (test is None or test(v))
            )

        if not self.chance(fresh):
            found = self.find(fits)
            if found is not None:
                return found
        dtype = self.main if self.main in dtypes and self.chance(0.8) else self.choice(dtypes)
        for _ in range(20):
            shape = self.shape(low, high)
            if test is None:
                return self.new(dtype, shape)
            value = self.new(dtype, shape)
            if test(value):
                return value
            self.drop(value)
        raise Skip("no value fits")

    def finite(self, value):
        """Raises a skip if a value has infinities or NaN, of which references disagree here."""
        if is_float(value.dtype) and not np.all(np.isfinite(value.wide)):
            raise Skip("not finite")

    def drop(self, value):
        """Takes a new input or constant away again."""
        for values in (self.values, self.inputs, self.constants):
            values[:] = [v for v in values if v is not value]

    def partner(self, value, dtype=None, level=APPROXIMATE, low=None, high=None):
        """Picks or adds a value that broadcasts with another one."""
        dtype = value.dtype if dtype is None else dtype

        def fits(v):
            if v.dtype != dtype or v.level > level:
                return False
            try:
                return np.prod(np.broadcast_shapes(v.shape, value.shape), dtype=np.int64) <= MAX_ELEMENTS
            except ValueError:
                return False

        if low is None and not self.chance(0.35):
            found = self.find(fits)
            if found is not None:
                return found
        return self.new(dtype, self.broadcastable(value.shape), low, high)

    def broadcastable(self, shape):
        """Picks a shape that broadcasts with this one."""
        if self.chance(0.4):
            return shape
        other = [1 if self.chance(0.3) else d for d in shape]
        other = [self.integer(2, 4) if d == 1 and self.chance(0.2) else o for o, d in zip(other, shape)]
        if self.chance(0.4):
            other = other[self.integer(0, len(other)) :]
        elif self.chance(0.1) and len(other) < 6:
            other = [self.integer(1, 3), *other]
        full = np.broadcast_shapes(tuple(other), shape)
        return tuple(other) if np.prod(full, dtype=np.int64) <= MAX_ELEMENTS else shape

    @staticmethod
    def fits(a, b):
        """Says whether shapes broadcast."""
        try:
            np.broadcast_shapes(tuple(a), tuple(b))
        except ValueError:
            return False
        return True

    def axis(self, value, low=0):
        """Picks an axis of a value, as an index from either end."""
        if value.rank == low:
            raise Skip("no axis")
        axis = self.integer(low, value.rank - 1)
        return axis - value.rank if self.chance(0.3) and self.opset >= 11 else axis

    # ---- nodes ----

    def node(self, op, inputs, kind, n_outputs=1, captured=(), linear_in=None, **attributes):
        """Adds a node and returns its results; a skip leaves the graph as it was.

        `kind` says what the node does to exactness: "data" moves it, "round" is one IEEE
        operation, "step" is discontinuous, "linear" sums products, "function" is
        approximate.
        """
        attributes = {k: v for k, v in attributes.items() if v is not None}
        names = [v.name if v is not None else "" for v in inputs]
        while names and not names[-1]:
            names.pop()
        outputs = [self.fresh("v") for _ in range(n_outputs)]
        node = helper.make_node(op, names, outputs, **attributes)
        operands = {v.name: v for v in [*inputs, *captured] if v is not None}
        check_types(node, [v for v in inputs if v is not None], self.opset)
        if op in FINITE:
            for value in inputs:
                if value is not None:
                    self.finite(value)
        arrays = self.evaluate(node, {n: v.array for n, v in operands.items()})
        if len(arrays) != n_outputs:
            raise Skip(f"{op} gave {len(arrays)} results")
        if kind in ("linear", "function") and any(beyond(a) for a in arrays):
            raise Skip("near overflow")
        if any(a.size > 16 * MAX_ELEMENTS or a.ndim > 8 for a in arrays):
            raise Skip("too large")
        level = self.level(node, kind, operands, arrays)
        wides = [widen(a) for a in arrays]
        if level == APPROXIMATE:
            wides = self.track(node, kind, operands, arrays)
        results = [
            Value(n, a, w, level if is_float(a.dtype) else EXACT)
            for n, a, w in zip(outputs, arrays, wides, strict=True)
        ]
        self.nodes.append(node)
        self.values.extend(results)
        return results if n_outputs > 1 else results[0]

    def raw(self, nodes, name, array, operands):
        """Adds nodes that move elements, with the result that their last one has."""
        if array.size > 16 * MAX_ELEMENTS or array.ndim > 8:
            raise Skip("too large")
        level = max(v.level for v in operands)
        if level == APPROXIMATE:
            raise Skip("no second track")
        self.nodes.extend(nodes)
        self.values.append(Value(name, array, widen(array), level))

    def evaluate(self, node, feeds):
        """Computes the results of one node by the reference that is right for it, or else the other."""
        model = single_node(node, list(feeds), list(feeds.values()), self.opset)
        order = [run_reference] if is_known(node) else [run_reference, run_runtime]
        if first_by_runtime(node, self.opset, feeds):
            order = [run_runtime]
        failure = None
        for run in order:
            try:
                return [np.asarray(r) for r in run(model, feeds)]
            except Exception as error:
                failure = failure or error
        what = f"{node.op_type}: {type(failure).__name__}: {str(failure)[:200]}"
        raise Skip(what) from failure

    def level(self, node, kind, operands, arrays):
        """Says how exact the results of a node are."""
        levels = [v.level for v in operands.values()] or [EXACT]
        if kind == "step":
            if max(levels) > SUM:
                raise Skip("discontinuous behind rounding")
            return EXACT
        if kind == "data":
            return max(levels)
        if not any(is_float(a.dtype) for a in arrays):
            if max(levels) == APPROXIMATE:
                raise Skip("integers behind rounding")
            return EXACT
        if kind == "round":
            return EXACT if max(levels) == EXACT else APPROXIMATE
        if kind == "linear" and max(levels) == EXACT and self.sums_exactly(node, operands, arrays):
            return SUM
        return APPROXIMATE

    def sums_exactly(self, node, operands, arrays):
        """Says whether all terms are integers whose magnitudes sum within the significand."""
        feeds = {}
        for name, value in operands.items():
            if is_float(value.dtype):
                if not np.all(np.isfinite(value.wide)) or np.any(value.wide != np.rint(value.wide)):
                    return False
                feeds[name] = np.abs(value.wide)
            else:
                feeds[name] = value.array
        bound = max([2 ** SIGNIFICAND[a.dtype.name] for a in arrays if is_float(a.dtype)], default=0)
        sums = self.evaluate(node, feeds)
        return all(s.size == 0 or s.max() <= bound for s in sums)

    def track(self, node, kind, operands, arrays):
        """Computes the results in double precision with shaken operands, and compares."""
        if node.op_type in ("Cast", "CastLike"):
            wides = [next(iter(operands.values())).wide]
        else:
            feeds = {}
            for name, value in operands.items():
                feeds[name] = value.wide
                if is_float(value.dtype) and kind != "data":
                    step = 4 * 2.0 ** -SIGNIFICAND[value.dtype.name]
                    shake = self.rng.uniform(-step, step, value.shape)
                    feeds[name] = np.asarray(value.wide * (1 + shake))
            try:
                wides = self.evaluate(node, feeds)
            except Skip:
                # The node has no double precision: the operands are shaken only.
                narrow = {n: feeds[n].astype(v.dtype) for n, v in operands.items()}
                wides = [widen(w) for w in self.evaluate(node, narrow)]
        for wide, array in zip(wides, arrays, strict=True):
            if not close(wide, array, array.dtype, share=0.125):
                raise Skip(f"{node.op_type}: ill-conditioned")
        return [w if is_float(a.dtype) else a for w, a in zip(wides, arrays, strict=True)]

    # ---- the model ----

    def model(self):
        """Makes the model of what was added; unused inputs and constants fall away."""
        used = {name for node in self.nodes for name in consumed(node)}
        produced = [name for node in self.nodes for name in node.output]
        by_name = {v.name: v for v in self.values}
        outputs = [by_name[n] for n in produced if n and n in by_name and n not in used]
        others = [by_name[n] for n in produced if n in by_name and n in used]
        outputs += [v for v in others if self.chance(0.15)]
        if not outputs:
            raise Skip("no outputs")
        inputs = [v for v in self.inputs if v.name in used]
        constants = [v for v in self.constants if v.name in used]
        nodes, initializers = list(self.nodes), []
        for value in constants:
            if self.chance(0.8) or self.opset < (13 if value.dtype == BF16 else 9):
                initializers.append(numpy_helper.from_array(value.array, value.name))
            else:
                tensor = numpy_helper.from_array(value.array)
                nodes.insert(0, helper.make_node("Constant", [], [value.name], value=tensor))
        # Rarely sizes of inputs have names, which the test data gives sizes to.
        named = self.chance(0.06)
        infos = [
            [
                helper.make_tensor_value_info(v.name, tensor_type(v.dtype), shape_of(v, named and is_in))
                for v in values
            ]
            for values, is_in in ((inputs, True), (outputs, False))
        ]
        graph = helper.make_graph(nodes, "random", *infos, initializers)
        model = make_model(graph, self.opset)
        try:
            onnx.checker.check_model(model, full_check=True)
        except Exception as error:
            raise Skip(f"checker: {str(error)[:200]}") from error
        return model, inputs, outputs


def shape_of(value, named):
    """Gives the sizes of a value, or names for them where those are equal that are."""
    return [f"n{d}" if named else d for d in value.shape]

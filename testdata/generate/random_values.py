"""Values of random graphs: element types, tolerances, and what both references make of a model."""


import os

os.environ.setdefault("ALLOW_RELEASED_ONNX_OPSET_ONLY", "0")

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx
import onnx.reference
import onnxruntime
from onnx import TensorProto, helper

# How exactly a reference is known: see `random_builder`.
EXACT, SUM, APPROXIMATE = range(3)

BF16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = {
    "f32": np.dtype(np.float32),
    "f16": np.dtype(np.float16),
    "bf16": BF16,
    "f64": np.dtype(np.float64),
    "i8": np.dtype(np.int8),
    "i16": np.dtype(np.int16),
    "i32": np.dtype(np.int32),
    "i64": np.dtype(np.int64),
    "u8": np.dtype(np.uint8),
    "u16": np.dtype(np.uint16),
    "u32": np.dtype(np.uint32),
    "u64": np.dtype(np.uint64),
    "bool": np.dtype(np.bool_),
}
FLOATS = tuple(DTYPES[n] for n in ("f32", "f16", "bf16", "f64"))
SIGNED = tuple(DTYPES[n] for n in ("i8", "i16", "i32", "i64"))
UNSIGNED = tuple(DTYPES[n] for n in ("u8", "u16", "u32", "u64"))
INTEGERS = SIGNED + UNSIGNED
NUMBERS = FLOATS + INTEGERS
BOOL = DTYPES["bool"]
F32 = DTYPES["f32"]
I64 = DTYPES["i64"]
ALL = NUMBERS + (BOOL,)

# Absolute and relative tolerance by element type, and the bits of a significand.
# Tolerance of f64 is that of f32: bodies of ONNX's functions have constants of f32.
TOLERANCE = {"float64": (1e-6, 5e-5), "float32": (1e-6, 5e-5)}
TOLERANCE |= {"float16": (1e-3, 2e-3), "bfloat16": (8e-3, 1.6e-2)}
SIGNIFICAND = {"float64": 24, "float32": 24, "float16": 11, "bfloat16": 8}

# Operators whose meaning for infinities and NaN is not specified: what a padded zero or a
# weight of zero makes of them, whether maxima pass NaN on, and what code it becomes.
FINITE = set(
    "Conv ConvTranspose MaxPool AveragePool LpPool GlobalMaxPool GlobalAveragePool Resize "
    "Upsample GridSample Softmax LogSoftmax LayerNormalization InstanceNormalization "
    "GroupNormalization BatchNormalization RMSNormalization LpNormalization LRN Einsum "
    "MatMul Gemm PRelu RoiAlign MeanVarianceNormalization QuantizeLinear ScatterElements ScatterND Hardmax".split()
)

MAX_ELEMENTS = 4096


class Skip(Exception):
    """Says that a node cannot be added to this graph; another one is tried."""


@dataclass
class Value:
    """A value of the graph: its reference, and the same in double precision."""

    name: str
    array: np.ndarray
    wide: np.ndarray
    level: int
    is_constant: bool = False

    @property
    def dtype(self):
        return self.array.dtype

    @property
    def shape(self):
        return self.array.shape

    @property
    def rank(self):
        return self.array.ndim

    @property
    def size(self):
        return self.array.size


def is_float(dtype):
    """Says whether the element type is a float, which NumPy does not know of bfloat16."""
    return dtype in FLOATS


def tensor_type(dtype):
    """Gives the ONNX code of an element type."""
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def widen(array):
    """Gives floats in double precision and leaves the rest."""
    return array.astype(np.float64) if is_float(array.dtype) else array


def beyond(array):
    """Says whether floats are so great that sums of their products overflow in some orders."""
    if not is_float(array.dtype) or array.size == 0:
        return False
    return bool(np.nanmax(np.abs(array.astype(np.float64))) > {"float16": 3e4}.get(array.dtype.name, 1e30))


def close(found, reference, dtype, share=1.0):
    """Says whether values agree within this share of the tolerance of an element type."""
    if found.shape != reference.shape:
        return False
    if not is_float(dtype):
        return bool(np.array_equal(found, reference))
    a, b = found.astype(np.float64), reference.astype(np.float64)
    atol, rtol = TOLERANCE[dtype.name]
    finite = np.isfinite(a) & np.isfinite(b)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore", over="ignore"):
        near = finite & (np.abs(a - b) <= share * (atol + rtol * np.abs(b)))
    return bool(np.all(same | near))


def single_node(node, names, arrays, opset):
    """Makes the model of one node, whose inputs and captured values are graph inputs."""
    inputs = [
        helper.make_tensor_value_info(n, tensor_type(a.dtype), a.shape)
        for n, a in zip(names, arrays, strict=True)
    ]
    outputs = [onnx.ValueInfoProto(name=o) for o in node.output if o]
    graph = helper.make_graph([node], "node", inputs, outputs)
    return make_model(graph, opset)


def make_model(graph, opset):
    """Wraps a graph for an operator set, in the format version that this needs."""
    opsets = [helper.make_opsetid("", opset)]
    version = max(8, helper.find_min_ir_version_for(opsets, ignore_unknown=True))
    return helper.make_model(graph, opset_imports=opsets, ir_version=version)


def run_reference(model, feeds):
    """Runs ONNX's own evaluator."""
    evaluator = onnx.reference.ReferenceEvaluator(model)
    with np.errstate(all="ignore"):
        return [np.asarray(r) for r in evaluator.run(None, feeds)]


def run_runtime(model, feeds):
    """Runs ONNX Runtime on the graph as written."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    types = {i.name: i.type for i in session.get_inputs()}
    values = {}
    for name, array in feeds.items():
        if name not in types:
            continue
        # Training updates statistics where they lie.
        array, element = array.copy(), tensor_type(array.dtype)
        if array.dtype == BF16:
            raw = array.view(np.uint16)
            values[name] = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(raw, element)
        else:
            values[name] = onnxruntime.OrtValue.ortvalue_from_numpy(array)
    names = [o.name for o in session.get_outputs()]
    results = session.run_with_ort_values(names, values)
    return [to_numpy(r) for r in results]


def to_numpy(value):
    """Copies a value of ONNX Runtime, whose bfloat16 NumPy does not know."""
    if value.element_type() == TensorProto.BFLOAT16:
        raise Skip("no copy of bfloat16 results")
    return value.numpy()


def consumed(node):
    """Gives the names that a node reads, also within its subgraphs."""
    names = set(node.input)
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            for inner in attribute.g.node:
                names |= consumed(inner)
            names |= {o.name for o in attribute.g.output}
    return names


def check_types(node, inputs, opset):
    """Raises a skip if the operator set has no such operator on these element types."""
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    except onnx.defs.SchemaError as error:
        raise Skip("no such operator yet") from error
    if schema.deprecated:
        raise Skip("deprecated")
    types = {c.type_param_str: set(c.allowed_type_strs) for c in schema.type_constraints}
    arrays = {v.name: v for v in inputs}
    for position, name in enumerate(node.input):
        formal = schema.inputs[min(position, len(schema.inputs) - 1)]
        allowed = types.get(formal.type_str, {formal.type_str})
        if name and type_string(arrays[name].dtype) not in allowed:
            raise Skip("type not allowed")
    for attribute in node.attribute:
        if attribute.name not in schema.attributes:
            raise Skip("no such attribute yet")


def type_string(dtype):
    """Gives the name of a tensor's type as schemas write it."""
    names = {"float32": "float", "float64": "double"}
    return f"tensor({names.get(dtype.name, dtype.name)})"

"""A torch.export program as an ONNX graph (https://onnx.ai, operator set 18), and its ONNX Runtime session.

torch.onnx.export takes about ten seconds per network, and its bytes differ from run to run. A classifier needs only
fifteen operators, so this module translates them itself: in milliseconds, and one program always gives the same bytes.
An operator added to `nas.models.extract.Network` needs an entry in `_CONVERTERS`; an operator without one is refused.
"""

import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.export import ExportedProgram
from torch.fx import Node

ONNX = "model.onnx"  # file name in a bundle
OPSET = 18
IR_VERSION = 8  # the version released with opset 18; older runtimes read it
INPUT, OUTPUT, BATCH = "images", "logits", "batch"

_TYPES = {torch.float32: TensorProto.FLOAT, torch.uint8: TensorProto.UINT8}


def open_onnx(path: Path, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    """An ONNX file as a function of images, run by ONNX Runtime on the CPU.

    The input name is read from the file, because it differs in bundles of version 1.

    Args:
        threads: intra-op threads.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    return lambda images: session.run(None, {entry.name: images})[0]


def to_onnx(program: ExportedProgram, side: int, classes: int) -> onnx.ModelProto:
    """The same function of (batch, 3, side, side) uint8 images to (batch, classes) logits, for any batch size.

    Args:
        program: in eval mode, with one input.

    Raises:
        ValueError: for an operator without a translation; the message names it.
    """
    graph = _Graph()
    tensors = {**program.state_dict, **program.constants}
    signature = program.graph_signature
    stored = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            graph.names[node] = graph.constant(node.name, tensors[stored[node.name]]) if node.name in stored else INPUT
        elif node.op == "call_function" and _operator(node) not in _IGNORED:
            graph.names[node] = _converter(node)(graph, node)
        elif node.op == "output":
            graph.add("Identity", [graph.names[node.args[0][0]]], OUTPUT)
    classifier = helper.make_graph(
        graph.nodes,
        "classifier",
        [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, [BATCH, 3, side, side])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [BATCH, classes])],
        graph.constants,
    )
    model = helper.make_model(classifier, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="pareto-nas", ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return onnx.shape_inference.infer_shapes(model)


class _Graph:
    """ONNX nodes and constants, collected node by node."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.names: dict[Node, str] = {}  # node of the program -> name of its value in the graph

    def constant(self, name: str, value: torch.Tensor) -> str:
        self.constants.append(numpy_helper.from_array(value.detach().cpu().contiguous().numpy(), name))
        return name

    def add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def inputs(self, node: Node, count: int) -> list[str]:
        """Names of the first `count` inputs: missing ones are left out, numbers become constants."""
        present = [(index, value) for index, value in enumerate(node.args[:count]) if value is not None]
        return [
            self.names[value] if isinstance(value, Node) else self.constant(f"{node.name}.{index}", torch.tensor(float(value)))
            for index, value in present
        ]


Converter = Callable[[_Graph, Node], str]  # adds the node to the graph and returns the name of its value


def _operator(node: Node) -> str:
    """`conv2d` for torch.ops.aten.conv2d.default."""
    return node.target.__name__.partition(".")[0] if node.target is not operator.getitem else "getitem"


def _converter(node: Node) -> Converter:
    name = _operator(node)
    if name not in _CONVERTERS or node.kwargs:
        text = f"operator {name} ({node.name}{f', {dict(node.kwargs)}' if node.kwargs else ''})"
        raise ValueError(f"{text} has no translation to ONNX; nas/export/onnx.py lists {sorted(_CONVERTERS)}, without keywords")
    return _CONVERTERS[name]


def _argument(node: Node, index: int, default: Any) -> Any:
    return node.args[index] if len(node.args) > index else default


def _same_inputs(kind: str, count: int = 1, **attributes: Any) -> Converter:
    """An operator with the same meaning in both; `count` is the number of its inputs."""
    return lambda graph, node: graph.add(kind, graph.inputs(node, count), node.name, **attributes)


def _conv(graph: _Graph, node: Node) -> str:
    stride, padding, dilation = (list(_argument(node, index, [default] * 2)) for index, default in ((3, 1), (4, 0), (5, 1)))
    kernel = list(node.args[1].meta["val"].shape[2:])
    groups = _argument(node, 6, 1)
    return graph.add(
        "Conv",
        graph.inputs(node, 3),
        node.name,
        kernel_shape=kernel,
        strides=stride,
        pads=[*padding, *padding],
        dilations=dilation,
        group=groups,
    )


def _silu(graph: _Graph, node: Node) -> str:
    (x,) = graph.inputs(node, 1)
    return graph.add("Mul", [x, graph.add("Sigmoid", [x], f"{node.name}.sigmoid")], node.name)


def _mean(graph: _Graph, node: Node) -> str:
    if list(node.args[1]) != [2, 3] or not _argument(node, 2, False):
        raise ValueError(f"{node.name}: only the mean over height and width with keepdim=True has a translation to ONNX")
    return graph.add("GlobalAveragePool", graph.inputs(node, 1), node.name)


def _avg_pool(graph: _Graph, node: Node) -> str:
    kernel, padding = list(node.args[1]), list(_argument(node, 3, [0, 0]))
    stride = list(_argument(node, 2, kernel))
    return graph.add(
        "AveragePool",
        graph.inputs(node, 1),
        node.name,
        kernel_shape=kernel,
        strides=stride,
        pads=[*padding, *padding],
        count_include_pad=1,  # torch's default: zero padding counts
    )


def _bicubic(graph: _Graph, node: Node) -> str:
    sizes = graph.constant(f"{node.name}.sizes", torch.tensor(node.args[1]))
    return graph.add(
        "Resize",
        [*graph.inputs(node, 1), "", "", sizes],
        node.name,
        axes=[2, 3],
        mode="cubic",
        cubic_coeff_a=-0.75,  # torch's
        coordinate_transformation_mode="half_pixel",
    )


def _cast(graph: _Graph, node: Node) -> str:
    return graph.add("Cast", graph.inputs(node, 1), node.name, to=_TYPES[node.args[1]])


def _unchanged(graph: _Graph, node: Node) -> str:
    return graph.inputs(node, 1)[0]


_IGNORED = {"_assert_tensor_metadata"}  # checks inside the program
_CONVERTERS: dict[str, Converter] = {
    "add": _same_inputs("Add", 2),
    "sub": _same_inputs("Sub", 2),
    "mul": _same_inputs("Mul", 2),
    "div": _same_inputs("Div", 2),
    "relu": _same_inputs("Relu"),
    "hardsigmoid": _same_inputs("HardSigmoid", alpha=1 / 6, beta=0.5),
    "flatten": _same_inputs("Flatten", axis=1),
    "linear": _same_inputs("Gemm", 3, transB=1),
    "conv2d": _conv,
    "silu": _silu,
    "silu_": _silu,  # readers of the overwritten value read this node
    "mean": _mean,
    "avg_pool2d": _avg_pool,
    "upsample_bicubic2d": _bicubic,
    "to": _cast,
    "dropout": _unchanged,  # in eval mode
}

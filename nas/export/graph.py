"""A program of torch.export as an ONNX graph (https://onnx.ai, operator set 18), operator by operator.

torch.onnx.export takes some ten seconds a network and writes other bytes each time; a classifier needs fifteen
operators, so they are translated here, in milliseconds, the same program always to the same bytes. Whatever is
added to `nas.models.extract.Network` needs an entry in `_NODES`; an operator without one is refused.
"""

import operator
from collections.abc import Callable
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.export import ExportedProgram
from torch.fx import Node

OPSET = 18
IR_VERSION = 8  # that of opset 18's time: older runtimes read it too
INPUT, OUTPUT, BATCH = "images", "logits", "batch"

_TYPES = {torch.float32: TensorProto.FLOAT, torch.uint8: TensorProto.UINT8}


def to_onnx(program: ExportedProgram, side: int, classes: int) -> onnx.ModelProto:
    """The same function of (batch, 3, side, side) uint8 images to (batch, classes) logits, any batch.

    Args:
        program: in eval mode, with one input.

    Raises:
        ValueError: for an operator that has no translation; names it.
    """
    graph = _Graph()
    tensors = {**program.state_dict, **program.constants}
    signature = program.graph_signature
    stored = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            graph.names[node] = graph.constant(node.name, tensors[stored[node.name]]) if node.name in stored else INPUT
        elif node.op == "call_function":
            kind = _name(node)
            if kind in _NOTHING:
                continue
            if kind not in _NODES or node.kwargs:
                what = f"operator {kind} ({node.name}{f', {dict(node.kwargs)}' if node.kwargs else ''})"
                raise ValueError(f"{what} has no translation to ONNX; nas/export/graph.py lists {sorted(_NODES)}, without keywords")
            graph.names[node] = _NODES[kind](graph, node)
        elif node.op == "output":
            graph.add("Identity", [graph.names[node.args[0][0]]], OUTPUT)
    made = helper.make_graph(
        graph.nodes,
        "classifier",
        [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, [BATCH, 3, side, side])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [BATCH, classes])],
        graph.constants,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="pareto-nas", ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return onnx.shape_inference.infer_shapes(model)


class _Graph:
    """ONNX nodes and constants while they are collected."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.names: dict[Node, str] = {}  # of the values that nodes of the program have here

    def constant(self, name: str, value: torch.Tensor) -> str:
        self.constants.append(numpy_helper.from_array(value.detach().cpu().contiguous().numpy(), name))
        return name

    def add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def inputs(self, node: Node, count: int) -> list[str]:
        """The names of the first inputs; those that are not there are left out, numbers become constants."""
        present = [(place, value) for place, value in enumerate(node.args[:count]) if value is not None]
        return [
            self.names[value] if isinstance(value, Node) else self.constant(f"{node.name}.{place}", torch.tensor(float(value)))
            for place, value in present
        ]


def _name(node: Node) -> str:
    """`conv2d` of torch.ops.aten.conv2d.default."""
    return node.target.__name__.partition(".")[0] if node.target is not operator.getitem else "getitem"


def _option(node: Node, place: int, default: Any) -> Any:
    return node.args[place] if len(node.args) > place else default


def _plain(kind: str, count: int = 1, **attributes: Any) -> Callable[[_Graph, Node], str]:
    return lambda graph, node: graph.add(kind, graph.inputs(node, count), node.name, **attributes)


def _conv(graph: _Graph, node: Node) -> str:
    stride, padding, dilation = (list(_option(node, place, [default] * 2)) for place, default in ((3, 1), (4, 0), (5, 1)))
    kernel = list(node.args[1].meta["val"].shape[2:])
    groups = _option(node, 6, 1)
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
    if list(node.args[1]) != [2, 3] or not _option(node, 2, False):
        raise ValueError(f"{node.name}: only the mean over height and width that keeps both has a translation to ONNX")
    return graph.add("GlobalAveragePool", graph.inputs(node, 1), node.name)


def _average(graph: _Graph, node: Node) -> str:
    kernel, padding = list(node.args[1]), list(_option(node, 3, [0, 0]))
    stride = list(_option(node, 2, kernel))
    return graph.add(
        "AveragePool",
        graph.inputs(node, 1),
        node.name,
        kernel_shape=kernel,
        strides=stride,
        pads=[*padding, *padding],
        count_include_pad=1,  # torch's default: zeros of the border are counted
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


_NOTHING = {"_assert_tensor_metadata"}  # checks of the program's own
_NODES: dict[str, Callable[[_Graph, Node], str]] = {
    "add": _plain("Add", 2),
    "sub": _plain("Sub", 2),
    "mul": _plain("Mul", 2),
    "div": _plain("Div", 2),
    "relu": _plain("Relu"),
    "hardsigmoid": _plain("HardSigmoid", alpha=1 / 6, beta=0.5),
    "flatten": _plain("Flatten", axis=1),
    "linear": _plain("Gemm", 3, transB=1),
    "conv2d": _conv,
    "silu": _silu,
    "silu_": _silu,  # who reads the overwritten value reads this node in the program
    "mean": _mean,
    "avg_pool2d": _average,
    "upsample_bicubic2d": _bicubic,
    "to": _cast,
    "dropout": _unchanged,  # in eval mode
}

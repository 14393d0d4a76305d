"""ONNX Runtime on the processor; graphs are written directly from the modules.

`torch.onnx.export` takes seconds per module and a table has hundreds of modules; this writer takes milliseconds and uses
the operators of the exporter.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from nas.latency.backends.torch_backend import Backend, Call, versions
from nas.latency.modules import HeadModule, StemModule
from nas.latency.timing import HostClock
from nas.models.blocks import SqueezeExcite
from nas.models.extract import MBConv, Network
from nas.runtime.processes import processor

OPSET = 18
IR_VERSION = 10


class OnnxRuntimeBackend(Backend):
    """Sessions with all graph optimisations and no parallel branches, on numpy arrays.

    A network is one session; a chain of blocks would be many sessions that evict each other from the caches. So each block
    is measured by itself.
    """

    in_chains = False

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self.clock = HostClock()

    def random(self, batch: int, channels: int, side: int) -> np.ndarray:
        return np.random.default_rng(side).standard_normal((batch, channels, side, side), dtype=np.float32)

    def prepare(self, module: nn.Module, example: np.ndarray) -> Call:
        return self._session(graph(module, example.shape))

    def empty(self) -> Call:
        call, nothing = self._session(_model([helper.make_node("Identity", ["x"], ["y"])], [], (1,))), np.zeros(1, np.float32)
        return lambda x: call(nothing)

    def _session(self, model: onnx.ModelProto) -> Call:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # warnings about the machine would come once per session
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return lambda x: session.run(None, {"x": x})[0]

    @contextmanager
    def running(self) -> Iterator[None]:
        yield

    def facts(self) -> dict[str, Any]:
        return {
            "device": processor(),
            "backend": "onnxruntime",
            "threads": self._threads,
            "opset": OPSET,
            "versions": versions() | {"onnxruntime": onnxruntime.__version__, "onnx": onnx.__version__},
        }


def graph(module: nn.Module, shape: tuple[int, ...]) -> onnx.ModelProto:
    """A folded network or block as an ONNX model from `x` of this shape to `y`.

    A network takes images of its own resolution: the resizing before it belongs to the loading of images.

    Raises:
        TypeError: for any other module.
    """
    writer = _Writer(shape[-1])
    if isinstance(module, Network):
        x = writer.stem("x", module)
        for block in (b for stage in module.stages for b in stage):
            x = writer.block(x, block)
        x = writer.head(x, module)
    elif isinstance(module, StemModule):
        x = writer.stem("x", module)
    elif isinstance(module, MBConv):
        x = writer.block("x", module)
    elif isinstance(module, HeadModule):
        x = writer.head("x", module)
    else:
        raise TypeError(f"{type(module).__name__} is neither a network nor a block")
    return _model([*writer.nodes, helper.make_node("Identity", [x], ["y"])], writer.weights, shape)


def _model(nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto], shape: tuple[int, ...]) -> onnx.ModelProto:
    """A model from `x` of this shape to `y`, whose shape is not stated."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name, size in (("x", shape), ("y", None)))
    made = helper.make_graph(nodes, "network", [x], [y], weights)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


class _Writer:
    """Collects nodes and weights; each method adds some and returns the name of their result."""

    def __init__(self, side: int) -> None:
        self.side = side  # of the next node's input, pixels
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, value: np.ndarray) -> str:
        name = f"w_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def conv(self, x: str, module: nn.Conv2d) -> str:
        weights = [self.constant(w.detach().cpu().contiguous().numpy()) for w in (module.weight, module.bias) if w is not None]
        pad, stride = list(module.padding), list(module.stride)
        self.side = ceil(self.side / stride[0])
        return self.node("Conv", x, *weights, pads=pad * 2, strides=stride, group=module.groups, kernel_shape=list(module.kernel_size))

    def silu(self, x: str) -> str:
        return self.node("Mul", x, self.node("Sigmoid", x))

    def mean(self, x: str) -> str:
        return self.node("ReduceMean", x, self.constant(np.array([2, 3])), keepdims=1)

    def stem(self, x: str, module: StemModule | Network) -> str:
        return self.silu(self.conv(x, module.stem))

    def block(self, x: str, module: MBConv) -> str:
        short = x if module.stride == 1 else self.pool(x)
        y = x if module.expand is None else self.silu(self.conv(x, module.expand))
        y = self.silu(self.conv(y, module.depthwise))
        y = y if module.se is None else self.squeeze(y, module.se)
        y = self.conv(y, module.project)
        return self.node("Add", y, short if module.shortcut is None else self.conv(short, module.shortcut))

    def pool(self, x: str) -> str:
        """`nas.models.layers.pool_shortcut`; an odd side is padded by one pixel on all sides."""
        return self.node("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2], pads=[self.side % 2] * 4, count_include_pad=1)

    def squeeze(self, x: str, module: SqueezeExcite) -> str:
        """With ReLU and hard sigmoid, those of `MBConv`."""
        reduced = self.node("Relu", self.conv(self.mean(x), module.reduce))
        return self.node("Mul", x, self.node("HardSigmoid", self.conv(reduced, module.expand), alpha=1 / 6, beta=0.5))

    def head(self, x: str, module: HeadModule | Network) -> str:
        x = self.silu(self.conv(x, module.head_expand))
        x = self.node("Flatten", self.silu(self.conv(self.mean(x), module.head_mix)))
        weights = [self.constant(w.detach().cpu().contiguous().numpy()) for w in (module.classifier.weight, module.classifier.bias)]
        return self.node("Gemm", x, *weights, transB=1)

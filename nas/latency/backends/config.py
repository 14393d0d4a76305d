"""Section `latency.backend` of params.yaml: torch on a processor or a GPU, or ONNX Runtime on a processor."""

from typing import Annotated, Literal

import torch
from pydantic import Field

from nas.latency.backends.torch_backend import Backend, TorchBackend
from nas.runtime.params import Section


class Torch(Section):
    """Section `latency.backend` for torch."""

    runtime: Literal["torch"]
    device: str  # cpu, cuda, cuda:1, ...
    threads: Annotated[int, Field(ge=1)]  # of an operator
    channels_last: bool

    def start(self) -> TorchBackend:
        """
        Raises:
            ValueError: if the device is not available.
        """
        try:
            device = torch.device(self.device)
            torch.zeros(1, device=device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(
                f"params.yaml: latency.backend.device: {self.device!r} cannot be used here ({error}); cpu always can"
            ) from None
        return TorchBackend(device, self.threads, self.channels_last)


class OnnxRuntime(Section):
    """Section `latency.backend` for ONNX Runtime on the processor."""

    runtime: Literal["onnxruntime"]
    threads: Annotated[int, Field(ge=1)]

    def start(self) -> Backend:
        """
        Raises:
            ValueError: if its packages are not installed.
        """
        try:
            from nas.latency.backends.onnx_backend import OnnxRuntimeBackend
        except ImportError as error:
            raise ValueError(
                f"params.yaml: latency.backend.runtime: onnxruntime needs the packages onnx and onnxruntime ({error}): "
                "pip install onnx onnxruntime, or use torch"
            ) from None
        return OnnxRuntimeBackend(self.threads)

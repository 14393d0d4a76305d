"""The interface of backends, and eager torch on a processor or a GPU."""

import ctypes
import os
import platform
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nas.latency.timing import Clock, HostClock
from nas.runtime.processes import processor

Call = Callable[[Any], Any]

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of mallopt, in malloc.h


class Backend(ABC):
    """Hardware and software that run networks as they would be used."""

    clock: Clock
    in_chains: bool  # whether consecutive calls run as they would in one network

    @abstractmethod
    def random(self, batch: int, channels: int, side: int) -> Any:
        """Random numbers (batch, channels, side, side) as the calls take them."""

    @abstractmethod
    def prepare(self, module: nn.Module, example: Any) -> Call:
        """The module as a call; it need not work for other shapes than the example's."""

    @abstractmethod
    def empty(self) -> Call:
        """A call that takes anything and does nothing: the cost of calling a block by itself."""

    @abstractmethod
    def running(self) -> AbstractContextManager:
        """The context of all calls: threads, no gradients."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Device, versions and settings, for the table."""


@dataclass(frozen=True)
class EventClock:
    """A clock for a GPU: events in its queue, read when all work is done."""

    device: torch.device

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def seconds(self, marks: list[torch.cuda.Event]) -> np.ndarray:
        marks[-1].synchronize()
        return np.array([a.elapsed_time(b) / 1000 for a, b in pairwise(marks)])  # elapsed_time is in ms


class TorchBackend(Backend):
    """Eager torch.

    oneDNN caches the kernels of 1,024 layers; a table has more, and building one takes many times its run. The cache is
    enlarged, which works if nothing has run in this process yet. Freed memory is kept too: see `keep_memory`.
    """

    in_chains = True

    def __init__(self, device: torch.device, threads: int, channels_last: bool) -> None:
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "20000")
        keep_memory()
        self._device, self._threads = device, threads
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self.clock = EventClock(device) if device.type == "cuda" else HostClock()

    def random(self, batch: int, channels: int, side: int) -> Tensor:
        return torch.randn(batch, channels, side, side).to(self._device, memory_format=self._format)

    def prepare(self, module: nn.Module, example: Tensor) -> Call:
        return module.to(self._device, memory_format=self._format)

    def empty(self) -> Call:
        return lambda x: x  # a network calls its blocks as a chain does

    @contextmanager
    def running(self) -> Iterator[None]:
        before = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            with torch.inference_mode():
                yield
        finally:
            torch.set_num_threads(before)

    def facts(self) -> dict[str, Any]:
        gpu = self._device.type == "cuda"
        return {
            "device": torch.cuda.get_device_name(self._device) if gpu else processor(),
            "backend": "torch",
            "threads": self._threads,
            "memory_format": str(self._format).removeprefix("torch."),
            "versions": versions() | ({"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()} if gpu else {}),
        }


@cache
def keep_memory() -> None:
    """From now on this process keeps the memory that it frees; no effect where the C library is not glibc.

    glibc returns large allocations to the system or not, depending on the state of its heap. Returned memory costs a page
    fault per 4 KiB when it is allocated again: the same blocks of 288-pixel networks took 1.4 times as long between some
    neighbours as between others. A server that runs one network keeps its memory anyway.
    """
    change = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if change is not None:
        change(M_TRIM_THRESHOLD, 2**31 - 1)
        change(M_MMAP_MAX, 0)


def versions() -> dict[str, str]:
    """Versions that affect latency, besides the backend's own."""
    return {"python": platform.python_version(), "torch": torch.__version__, "system": platform.platform(), "cores": str(os.cpu_count())}

"""The latency table of a TF-NAS space: one curve per operator over its hidden channels, interpolated between measured ones.

TF-NAS (arXiv:2008.05314), section 3.4: LAT is a sum over the operations of a network. Hidden channels are any number, so a
table holds a curve per operator, measured at both ends of its range: nothing is extrapolated, and no latency is below zero.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from pydantic import Field, model_validator

from nas.cost import latency
from nas.cost.latency import LatencyTableError, Line, Ms, line_of, values
from nas.spaces.tf_nas import Arch, Space


@dataclass(frozen=True, order=True)
class Operator:
    """An operation in its layer, without its hidden channels; equal operators have equal latency."""

    side: int  # of the input, pixels
    c_in: int
    se: int  # channels of the squeeze-and-excitation
    c_out: int
    kernel: int
    stride: int
    act: str


def operator(space: Space, layer: int, operation: int) -> Operator:
    """The operator of an operation in a layer."""
    row = space.row(layer, operation, 1)
    return Operator(space.layers[layer].side, row.c_in, row.se, row.c_out, row.kernel, row.stride, row.act)


def operators(space: Space) -> dict[Operator, tuple[int, int]]:
    """Every operator of the space, in order, with its least and most hidden channels over all layers."""
    low, high = space.bounds()
    ranges: dict[Operator, tuple[int, int]] = {}
    for layer in range(len(space.layers)):
        for op in range(len(space.operations)):
            key = operator(space, layer, op)
            before = ranges.get(key, (low[layer, op], high[layer, op]))
            ranges[key] = int(min(before[0], low[layer, op])), int(max(before[1], high[layer, op]))
    return ranges


class Curve(Line):
    """Latency of an operator within a network, of a whole batch, at some numbers of hidden channels."""

    hidden: Annotated[tuple[int, ...], Field(min_length=1)]  # ascending
    latency_ms: tuple[Ms, ...]
    spread: tuple[float, ...]  # of the measurements: interquartile range over median

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not len(self.hidden) == len(self.latency_ms) == len(self.spread) or list(self.hidden) != sorted(set(self.hidden)):
            raise ValueError("hidden has to ascend, and latency_ms and spread need an entry for each")
        return self

    def at(self, hidden: np.ndarray) -> np.ndarray:
        """Latencies in ms, linear between measured numbers of hidden channels.

        Raises:
            ValueError: for a number outside the measured range.
        """
        if np.min(hidden) < self.hidden[0] or np.max(hidden) > self.hidden[-1]:
            raise ValueError(f"{hidden} hidden channels: the latency is known from {self.hidden[0]} to {self.hidden[-1]}")
        return np.interp(hidden, self.hidden, self.latency_ms)


@dataclass(frozen=True, eq=False)
class TfNasLatencyTable(latency.LatencyTable[Arch]):
    """Latency curves of a TF-NAS space; `entries` by operator."""

    NAME: ClassVar = "latency table of hidden widths"
    COMMAND: ClassVar = "dvc repro -f pipelines/tf_nas/dvc.yaml:latency"
    LINE: ClassVar = line_of(Operator, Curve)
    VERSION_1: ClassVar = {"given_latency_ms": "fixed_latency_ms", "curves": "entries"}

    def check_entries(self) -> None:
        for key, (low, high) in operators(self.space).items():
            if key not in self.entries:
                raise LatencyTableError(f"no latency of {key}, which space {self.space.name!r} has")
            known = self.entries[key].hidden
            if low < known[0] or high > known[-1]:
                raise LatencyTableError(f"latency of {key} from {known[0]} to {known[-1]} hidden channels; {low} to {high} are needed")

    def latencies_ms(self, widths: np.ndarray) -> np.ndarray:
        """(layers, operations) hidden channels -> (layers, operations) ms.

        Raises:
            ValueError: for a width that the space does not offer.
        """
        return np.array([[float(self.operation_ms(i, o, widths[i, o])) for o in range(widths.shape[1])] for i in range(len(widths))])

    def operation_ms(self, layer: int, operation: int, hidden: np.ndarray | int) -> np.ndarray:
        """Latency of an operation in a layer, ms, for one or many numbers of hidden channels."""
        return self.entries[operator(self.space, layer, operation)].at(np.asarray(hidden))

    def latency_ms(self, arch: Arch) -> float:
        used = self.space.active_layers(arch.depths)
        return self.fixed_latency_ms + float(sum(self.operation_ms(i, arch.operations[i], arch.widths[i]) for i in used))

    @property
    def range_ms(self) -> tuple[float, float]:
        low, high = self.space.bounds()
        ends = []
        for pick in (np.min, np.max):
            total = self.fixed_latency_ms
            for s in range(len(self.space.stages)):
                layers = [i for i, layer in enumerate(self.space.layers) if layer.stage == s]
                best = [pick([pick(self._within(i, o, low[i, o], high[i, o])) for o in range(low.shape[1])]) for i in layers]
                total += pick(np.cumsum(best))
            ends.append(float(total))
        return ends[0], ends[1]

    def _within(self, layer: int, operation: int, low: int, high: int) -> np.ndarray:
        """Latencies where a piecewise linear curve can have its extremes, ms."""
        inner = [h for h in self.entries[operator(self.space, layer, operation)].hidden if low < h < high]
        return self.operation_ms(layer, operation, np.array([low, *inner, high]))

    def lines(self) -> Iterator[dict[str, Any]]:
        return (asdict(operator) | curve.model_dump() for operator, curve in self.entries.items())

    @classmethod
    def item(cls, line: Any) -> tuple[Operator, Curve]:
        return Operator(**values(line, Operator)), Curve(**{name: getattr(line, name) for name in Curve.model_fields})

"""Latency of every network of a TF-NAS space, from operations measured at several widths; between those it is interpolated.

TF-NAS (arXiv:2008.05314), section 3.4: LAT is a sum over what a network is made of. Hidden widths are any number, so a
table holds a curve an operation, measured at both ends of its range: nothing is extrapolated, and no latency can be
below zero.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from nas.cost.latency_file import File, LatencyTableError, Ms, digits, read, text
from nas.spaces.tf_nas import Arch, Space

FORMAT = "latency table of hidden widths 1"
AGAIN = "dvc repro -f pipelines/tf_nas/dvc.yaml:latency"


@dataclass(frozen=True, order=True)
class Operator:
    """An operation in its place, but for its hidden channels; equal ones take equally long."""

    side: int  # of the input, pixels
    c_in: int
    se: int  # channels of the squeeze-and-excitation
    c_out: int
    kernel: int
    stride: int
    act: str


def operator(space: Space, layer: int, operation: int) -> Operator:
    """What an operation is in a layer."""
    row = space.row(layer, operation, 1)
    return Operator(space.layers[layer].side, row.c_in, row.se, row.c_out, row.kernel, row.stride, row.act)


def operators(space: Space) -> dict[Operator, tuple[int, int]]:
    """Every operator of the space, in order, with the least and the most hidden channels that it may have anywhere."""
    low, high = space.bounds()
    found: dict[Operator, tuple[int, int]] = {}
    for layer in range(len(space.layers)):
        for op in range(len(space.operations)):
            key = operator(space, layer, op)
            before = found.get(key, (low[layer, op], high[layer, op]))
            found[key] = int(min(before[0], low[layer, op])), int(max(before[1], high[layer, op]))
    return found


class Curve(BaseModel):
    """Latency of an operator within a network, of a whole batch, at some numbers of hidden channels."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    hidden: Annotated[tuple[int, ...], Field(min_length=1)]  # ascending
    latency_ms: tuple[Ms, ...]
    spread: tuple[float, ...]  # of the measurements: interquartile range over median

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not len(self.hidden) == len(self.latency_ms) == len(self.spread) or list(self.hidden) != sorted(set(self.hidden)):
            raise ValueError("hidden has to ascend, and latency_ms and spread need an entry for each")
        return self

    def at(self, hidden: np.ndarray) -> np.ndarray:
        """Latencies in ms, linear between the widths that were measured.

        Raises:
            ValueError: for a width outside them, about which nothing is known.
        """
        if np.min(hidden) < self.hidden[0] or np.max(hidden) > self.hidden[-1]:
            raise ValueError(f"{hidden} hidden channels: the latency is known from {self.hidden[0]} to {self.hidden[-1]}")
        return np.interp(hidden, self.hidden, self.latency_ms)


@dataclass(frozen=True, eq=False)
class LatencyTable:
    """What was measured on a device, for one space and number of classes.

    Raises:
        LatencyTableError: if an operator of the space is missing, or not known over all of its widths.
    """

    space: Space
    classes: int
    curves: Mapping[Operator, Curve]
    given_latency_ms: float  # of what every network has: the parts that are not searched, and what is paid once a network
    setting: Mapping[str, Any] = field(default_factory=dict)  # device, backend, versions, batch, threads, repetitions, ...

    def __post_init__(self) -> None:
        for key, (low, high) in operators(self.space).items():
            if key not in self.curves:
                raise LatencyTableError(f"no latency of {key}, which space {self.space.name!r} has")
            known = self.curves[key].hidden
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
        return self.curves[operator(self.space, layer, operation)].at(np.asarray(hidden))

    def latency_ms(self, choice: Arch) -> float:
        """Of a whole network and batch.

        Raises:
            ValueError: for a network that is not in the space.
        """
        used = self.space.active_layers(choice.depths)
        return self.given_latency_ms + float(sum(self.operation_ms(i, choice.operations[i], choice.widths[i]) for i in used))

    def range_ms(self) -> tuple[float, float]:
        """Latency of the cheapest and of the most expensive network of the space."""
        low, high = self.space.bounds()
        ends = []
        for pick in (np.min, np.max):
            total = self.given_latency_ms
            for s in range(len(self.space.stages)):
                layers = [i for i, layer in enumerate(self.space.layers) if layer.stage == s]
                best = [pick([pick(self._within(i, o, low[i, o], high[i, o])) for o in range(low.shape[1])]) for i in layers]
                total += pick(np.cumsum(best))
            ends.append(float(total))
        return ends[0], ends[1]

    def _within(self, layer: int, operation: int, low: int, high: int) -> np.ndarray:
        """Where a curve that is linear between points can have its extremes, ms."""
        inner = [h for h in self.curves[operator(self.space, layer, operation)].hidden if low < h < high]
        return self.operation_ms(layer, operation, np.array([low, *inner, high]))

    def to_json(self) -> str:
        """A text that a person can read: what it was measured with, then a line an operator."""
        entries = (
            {**vars(key), "hidden": c.hidden, "latency_ms": [*map(digits, c.latency_ms)], "spread": [*map(digits, c.spread)]}
            for key, c in self.curves.items()
        )
        return text(FORMAT, self.space, self.classes, self.given_latency_ms, self.setting, "curves", entries)

    def save(self, path: str | Path) -> None:
        """Write `to_json`."""
        Path(path).write_text(self.to_json())


class _CurveEntry(Curve):
    """A line of the file."""

    side: int
    c_in: int
    se: int
    c_out: int
    kernel: int
    stride: int
    act: str


class _File(File):
    format: Literal["latency table of hidden widths 1"]
    curves: list[_CurveEntry]


def load(path: str | Path, space: Space, classes: int) -> LatencyTable:
    """Read what `LatencyTable.save` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        LatencyTableError: if it is damaged, incomplete, in another unit, or of another space or number of classes.
    """
    file, setting = read(Path(path), _File, space, classes, AGAIN)
    curves = {
        Operator(*(getattr(c, key) for key in Operator.__dataclass_fields__)): Curve(
            hidden=c.hidden, latency_ms=c.latency_ms, spread=c.spread
        )
        for c in file.curves
    }
    try:
        return LatencyTable(space, classes, curves, file.given_latency_ms, setting)
    except LatencyTableError as error:
        raise LatencyTableError(f"{path}: {error}; measure again: {AGAIN}") from None

"""The list of costs: what searches minimise or bound, what reports label, and what params.yaml may name.

A new cost is one module that builds its `CostTable` and one entry in `COSTS`; its name is a column of
outputs/search/evaluated.parquet and may stand in `search.costs`, `search.bounds` and `search.targets`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from nas.cost import flops, latency_mbconv, parameters
from nas.cost.table import CostTable
from nas.spaces.mbconv import SearchSpace


@dataclass(frozen=True)
class Cost:
    """A cost of every architecture of a space."""

    name: str  # in params.yaml and of the column, with the unit where there is one
    unit: str  # of its table
    label: str  # of a plot's axis
    build: Callable[..., CostTable]  # (space, classes), and the path of the file where `file_key` names one
    file_key: str | None = None  # key of section `search` that holds the path of the file it is read from


COSTS: dict[str, Cost] = {
    cost.name: cost
    for cost in (
        Cost("mflops", "MFLOPs", "cost, MFLOPs", flops.table),
        Cost("parameters", "parameters", "parameters", parameters.table),
        Cost("latency_ms", "ms", "latency, ms", latency_mbconv.cost_table, "latency_table"),
    )
}

CostName = Literal[*COSTS]  # for sections of params.yaml


def tables(space: SearchSpace, classes: int, files: Mapping[str, str | None]) -> dict[str, CostTable]:
    """The cost tables of a space by name, in the order of the list.

    Args:
        files: path by `Cost.file_key`; a cost whose file is not set is left out.

    Raises:
        FileNotFoundError, ValueError: if a file is missing, damaged or of another space.
    """
    paths = {cost.name: files.get(cost.file_key) for cost in COSTS.values() if cost.file_key is not None}
    return {
        name: cost.build(space, classes, *((paths[name],) if name in paths else ()))
        for name, cost in COSTS.items()
        if paths.get(name, "none needed") is not None
    }

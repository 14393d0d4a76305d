"""Latency lookup tables: per-block latencies of one device for one search space, as a JSON file.

HardCoRe-NAS (arXiv:2102.11646), section 3.1: the latency of a network is a fixed overhead plus the latency of each of its
blocks. `nas.latency` measures tables; each kind of space has a subclass: `latency_mbconv`, `latency_tf_nas`,
`latency_hardcore_nas`. Every number in milliseconds has `latency_ms` in its name: HardCoRe-NAS's release mixed a table in
seconds with a target in milliseconds, so its constraint had no effect.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from nas.runtime.io import is_file, read_json, short
from nas.spaces.rows import Row

MAX_MS = 1e9  # eleven days; sums of such are finite
Ms = Annotated[float, Field(gt=0, le=MAX_MS)]


class LatencyTableError(ValueError):
    """A latency table is damaged, incomplete, or of another space."""


@dataclass(frozen=True)
class Entry:
    """Measured latency of a block within a network."""

    latency_ms: float  # of a whole batch
    spread: float  # of the measurements: interquartile range over median
    times: int = 1  # number of measurements


@dataclass(frozen=True)
class RowBlock:
    """A searched block of a network of rows; equal blocks have equal latency."""

    side: int  # of its input, pixels
    row: Row


class Line(BaseModel):
    """A line of the file: a block and its latency."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class EntryLine(Line):
    """A line with one measured latency."""

    latency_ms: Ms
    spread: float = 0.0
    times: int = 1

    @property
    def entry(self) -> Entry:
        return Entry(self.latency_ms, self.spread, self.times)


LineOf = TypeVar("LineOf")


class File(BaseModel, Generic[LineOf]):
    """The keys that every file has; what else it holds is the setting of the measurement."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    format: str
    classes: int
    fixed_latency_ms: Annotated[float, Field(ge=0, le=MAX_MS)]
    space: dict[str, Any]
    entries: list[LineOf]


Arch = TypeVar("Arch")


@dataclass(frozen=True, eq=False)
class LatencyTable(ABC, Generic[Arch]):
    """Per-block latencies of one device, for one search space and number of classes.

    Raises:
        LatencyTableError: if a block of the space is missing, or a latency is out of range.
    """

    NAME: ClassVar[str]  # of the file format, without its version
    COMMAND: ClassVar[str]  # that measures a table
    LINE: ClassVar[Any]  # type of a line of the file
    VERSION_1: ClassVar[Mapping[str, str]]  # keys of version 1 that are called otherwise now

    space: Any
    classes: int
    entries: Mapping[Any, Any]
    fixed_latency_ms: float  # fixed overhead: blocks that are not searched, and what is left when no block runs
    setting: Mapping[str, Any] = field(default_factory=dict)  # device, backend, versions, batch, threads, repetitions, ...

    def __post_init__(self) -> None:
        if not 0 <= self.fixed_latency_ms <= MAX_MS:
            raise LatencyTableError(f"fixed_latency_ms {self.fixed_latency_ms}: a number from 0 to {MAX_MS:g} is needed")
        self.check_entries()

    @abstractmethod
    def check_entries(self) -> None:
        """
        Raises:
            LatencyTableError: if a block of the space is missing, or a latency is out of range.
        """

    @abstractmethod
    def latency_ms(self, arch: Arch) -> float:
        """Latency of a network and a whole batch: the fixed overhead plus the sum over its blocks.

        Raises:
            ValueError: if the architecture is not in the space.
        """

    @property
    @abstractmethod
    def range_ms(self) -> tuple[float, float]:
        """Latencies of the fastest and of the slowest network of the space."""

    @abstractmethod
    def lines(self) -> Iterable[Mapping[str, Any]]:
        """The entries as lines of the file."""

    @classmethod
    @abstractmethod
    def item(cls, line: Any) -> tuple[Any, Any]:
        """Key and value of `entries` from a line of the file."""

    def to_json(self) -> str:
        """A text that a person can read: the setting of the measurement, then one line per entry."""
        top = {
            "format": f"{self.NAME} 2",
            **self.setting,
            "classes": self.classes,
            "fixed_latency_ms": _digits(self.fixed_latency_ms),
            "space": _document(self.space),
        }
        lines = (json.dumps({key: _digits(value) for key, value in line.items()}) for line in self.lines())
        head = json.dumps(top, indent=2, ensure_ascii=False).removesuffix("\n}")
        return head + ',\n  "entries": [\n    ' + ",\n    ".join(lines) + "\n  ]\n}\n"

    def save(self, path: str | Path) -> None:
        """Write `to_json`."""
        Path(path).write_text(self.to_json())

    @classmethod
    def load(cls, path: str | Path, space: Any, classes: int) -> Self:
        """Read what `save` wrote, or a file of version 1.

        Raises:
            FileNotFoundError: if there is no such file.
            LatencyTableError: if it is damaged, incomplete, in another unit, or of another space or number of classes.
        """
        if not is_file(Path(path)):
            raise FileNotFoundError(f"there is no latency table {path}; {cls.COMMAND} measures one of this device")
        document = read_json(Path(path), lambda message: LatencyTableError(f"{message}; measure again: {cls.COMMAND}"))
        try:
            return cls._parse(document, space, classes)
        except ValueError as error:
            raise LatencyTableError(f"{path}: {error}; measure again: {cls.COMMAND}") from None

    @classmethod
    def _parse(cls, document: Any, space: Any, classes: int) -> Self:
        kind = document.get("format") if isinstance(document, dict) else type(document).__name__
        if kind not in (f"{cls.NAME} 1", f"{cls.NAME} 2"):
            raise LatencyTableError(f"format {short(kind)} is not {cls.NAME + ' 2'!r}")
        if kind == f"{cls.NAME} 1":
            document = {cls.VERSION_1.get(key, key): value for key, value in document.items()}
        try:
            file = File[cls.LINE].model_validate_json(json.dumps(document))
        except ValidationError as error:
            raise LatencyTableError(_explain(error.errors()[0])) from None
        _check_space(file, space, classes)
        items = [cls.item(line) for line in file.entries]
        if twice := len(items) - len(dict(items)):
            raise LatencyTableError(f"{twice} of {len(items)} entries are listed twice")
        setting = {key: value for key, value in document.items() if key not in File.model_fields}
        return cls(space, classes, dict(items), file.fixed_latency_ms, setting)


def line_of(block: type, base: type[Line], **more: Any) -> type[Line]:
    """The model of a line of the file: the fields of a block's dataclass beside those of its latency."""
    return create_model(f"{block.__name__}Line", __base__=base, **more, **{f.name: (f.type, ...) for f in fields(block)})


def values(line: Line, block: type) -> dict[str, Any]:
    """The fields of a block's dataclass in a line."""
    return {f.name: getattr(line, f.name) for f in fields(block)}


def _explain(error: Mapping[str, Any]) -> str:
    where, value = ".".join(map(str, error["loc"])), error["input"]
    units = sorted(key for key in value if "latency" in key) if isinstance(value, dict) else []
    if error["type"] == "missing" and where.endswith(".latency_ms") and units:
        return f"{where} is missing, but there is {units[0]}: another unit"
    return f"{where}: {error['msg']}, found {short(value)}"


def _check_space(file: File, space: Any, classes: int) -> None:
    expected = json.loads(json.dumps(_document(space)))
    if file.space != expected:
        differing = sorted(key for key in expected | file.space if file.space.get(key) != expected.get(key))
        raise LatencyTableError(
            f"measured for the space {short(file.space.get('name'))}, not for {space.name!r} as it is now (they differ in {differing})"
        )
    if file.classes != classes:
        raise LatencyTableError(f"measured with {file.classes} classes, not {classes}")


def _document(space: Any) -> dict[str, Any]:
    return asdict(space) if is_dataclass(space) else space.model_dump(mode="json")


def _digits(value: Any) -> Any:
    """Floats to six significant digits: more would be noise."""
    if isinstance(value, list | tuple):
        return [_digits(one) for one in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value

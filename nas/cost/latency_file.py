"""What the latency tables of both kinds of space share: a measured block, and the JSON file.

Every number in milliseconds has `latency_ms` in its name: users of HardCoRe-NAS's release had a table in seconds and a
target in milliseconds, and a constraint that never bound.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nas.runtime.io import is_file, read_json, short
from nas.runtime.params import Section
from nas.spaces.rows import Row

Ms = Annotated[float, Field(gt=0, le=1e9)]  # a sum of such is finite


class LatencyTableError(ValueError):
    """A latency table is damaged, incomplete or of something else."""


@dataclass(frozen=True)
class Block:
    """A searched block; equal ones take equally long."""

    side: int  # of its input, pixels
    row: Row


class File(BaseModel):
    """What is needed of a file, besides its entries."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    format: str
    classes: int
    given_latency_ms: Ms
    space: dict[str, Any]


Found = TypeVar("Found", bound=File)


def text(form: str, space: Section, classes: int, given_latency_ms: float, setting: Mapping, key: str, entries: Iterable[Mapping]) -> str:
    """A text that a person can read: what was measured and with what, then a line an entry.

    Args:
        form: name of the kind of file, with its version.
        key: of the entries.
    """
    top = {
        "format": form,
        **setting,
        "classes": classes,
        "given_latency_ms": digits(given_latency_ms),
        "space": space.model_dump(mode="json"),
    }
    head = json.dumps(top, indent=2, ensure_ascii=False).removesuffix("\n}")
    return head + f',\n  "{key}": [\n    ' + ",\n    ".join(map(json.dumps, entries)) + "\n  ]\n}\n"


def read(path: Path, form: type[Found], space: Section, classes: int, again: str) -> tuple[Found, dict[str, Any]]:
    """The file, and the setting that it was measured with.

    Args:
        again: command that measures such a table.

    Raises:
        FileNotFoundError: if there is no such file.
        LatencyTableError: if it is damaged, in another unit, or of another space or number of classes.
    """
    if not is_file(path):
        raise FileNotFoundError(f"there is no latency table {path}; {again} measures one of this device")
    found = read_json(path, lambda message: LatencyTableError(f"{message}; measure again: {again}"))
    try:
        file = form.model_validate_json(json.dumps(found))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise LatencyTableError(
            f"{path} is damaged: {where}: {first['msg']}, found {short(first['input'])}; measure again: {again}"
        ) from None
    other = None
    if file.space != space.model_dump(mode="json"):
        other = f"measured for the space {short(file.space.get('name'))}, which is not {space.name!r} as it is now"
    elif file.classes != classes:
        other = f"measured with {file.classes} classes, not {classes}"
    if other:
        raise LatencyTableError(f"{path}: {other}; measure again: {again}")
    return file, {k: v for k, v in found.items() if k not in form.model_fields}


def digits(value: float) -> float:
    """Six significant ones: more would be noise."""
    return float(f"{value:.6g}")

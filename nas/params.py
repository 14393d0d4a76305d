"""A section of params.yaml as a frozen object: unknown, missing and impossible values stop the run.

Sections are pydantic models that derive from `Section`. Each message names the file, the key with
its section, what was found and, where there is one, the nearest right key.
"""

import difflib
import json
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

FILE = Path("params.yaml")


class Section(BaseModel):
    """Base of every section: frozen, no unknown keys, no silent conversions of text to numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ParamsError(ValueError):
    """params.yaml does not say what a stage needs."""


S = TypeVar("S", bound=Section)


def read(section: str, model: type[S], file: Path = FILE) -> S:
    """The section of the parameter file, checked.

    Raises:
        ParamsError: for a missing file or section, and for unknown, missing or impossible values.
    """
    return check(read_all(file), section, model, file)


def check(found: dict, section: str, model: type[S], file: Path = FILE) -> S:
    """`read` on parameters that are in memory already."""
    if section not in found:
        raise ParamsError(f"{file}: the section {section!r} is missing; found {sorted(found)}")
    try:
        # JSON has lists only, so lists become tuples here while numbers stay strict
        return model.model_validate_json(json.dumps(found[section], default=str))
    except ValidationError as error:
        lines = [_explain(file, section, model, e) for e in error.errors()]
        raise ParamsError("\n".join(lines)) from None


def value(key: str, file: Path = FILE) -> str | int | float | bool | None:
    """A single top-level entry that is not a section, e.g. `space` or `seed`.

    Raises:
        ParamsError: if it is missing.
    """
    found = read_all(file)
    if key not in found:
        raise ParamsError(f"{file}: the key {key!r} is missing; found {sorted(found)}")
    return found[key]


def read_all(file: Path = FILE) -> dict:
    """The whole parameter file.

    Raises:
        ParamsError: if it is missing or not a mapping of sections.
    """
    if not file.is_file():
        raise ParamsError(f"there is no {file} in {Path.cwd()}; run from the project's root folder")
    try:
        found = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise ParamsError(f"{file} is not valid YAML: {error}") from None
    if not isinstance(found, dict):
        raise ParamsError(f"{file}: expected sections, found {type(found).__name__}")
    return found


def _explain(file: Path, section: str, model: type[BaseModel], error: dict) -> str:
    key = ".".join(str(part) for part in (section, *error["loc"]))
    if error["type"] == "missing":
        return f"{file}: {key} is missing"
    if error["type"] == "extra_forbidden":
        known = _keys_beside(model, error["loc"])
        near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; allowed are {sorted(known)}"
        return f"{file}: {key} is not a known key{hint}"
    message = error["msg"].removeprefix("Value error, ")
    return f"{file}: {key}: {message}; found {error['input']!r}"


def _keys_beside(model: type[BaseModel], loc: tuple) -> list[str]:
    """Keys allowed in the (nested) section that an unknown key stands in."""
    for part in loc[:-1]:
        field = model.model_fields.get(part) if isinstance(part, str) else None
        inner = getattr(field, "annotation", None) if field else None
        args = [inner, *getattr(inner, "__args__", ())]
        model = next((a for a in args if isinstance(a, type) and issubclass(a, BaseModel)), model)
    return list(model.model_fields)

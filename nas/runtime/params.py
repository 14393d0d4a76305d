"""A section of params.yaml as a frozen object: unknown, missing and impossible values stop the run.

Sections are pydantic models that derive from `Section`. Each message names the file, the key with
its section, what was found and, where there is one, the nearest right key.
"""

import difflib
import json
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from nas.runtime.io import is_file, read_yaml, short

FILE = Path("params.yaml")
RENAMED = {  # former keys, with their section
    "split.monitor": "split.val",
    "search.members": "search.models",
    "search.guided": "search.bayesian",
    "search.evolution.mutants": "search.evolution.mutations",
    "measure.mutants": "measure.mutations",
    "oneshot.evolution.mutants": "oneshot.evolution.mutations",
    "export.calibration_pictures": "export.calibration_images",
    "export.checked_pictures": "export.checked_images",
    "transfer.members": "transfer.models",
    "scratch.members": "scratch.models",
}


class Section(BaseModel):
    """Base of every section: frozen, no unknown keys, no silent conversions of text to numbers, only finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


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
    if not is_file(file):
        raise ParamsError(f"there is no {file} in {Path.cwd()}; run from the project's root folder")
    found = read_yaml(file, ParamsError)
    if not isinstance(found, dict):
        raise ParamsError(f"{file}: expected sections, found {type(found).__name__}")
    return found


def _explain(file: Path, section: str, model: type[BaseModel], error: dict) -> str:
    loc, inner, choice = _place(model, error["loc"])
    key = ".".join(str(part) for part in (section, *loc))
    chosen = f" beside {choice}" if choice else ""
    if error["type"] == "missing":
        return f"{file}: {key} is missing{chosen}"
    if key in RENAMED:
        return f"{file}: {key} is now called {RENAMED[key]}"
    if error["type"] == "extra_forbidden":
        known = list(inner.model_fields)
        near = difflib.get_close_matches(str(loc[-1]), known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; allowed are {sorted(known)}"
        return f"{file}: {key} is not a known key{chosen}{hint}"
    if error["type"] == "union_tag_not_found":
        return f"{file}: {key}.{_discriminator(error)} is missing"
    if error["type"] == "union_tag_invalid":
        expected, tag = error["ctx"]["expected_tags"], short(error["ctx"]["tag"])
        return f"{file}: {key}.{_discriminator(error)}: Input should be one of {expected}; found {tag}"
    message = error["msg"].removeprefix("Value error, ")
    return f"{file}: {key}: {message}; found {short(error['input'])}"


def _discriminator(error: dict) -> str:
    """The key that says which of several sections is meant."""
    return error["ctx"]["discriminator"].strip("'")


def _place(model: type[BaseModel], loc: tuple) -> tuple[list, type[BaseModel], str]:
    """Where a mistake is: its keys as they stand in the file, the (nested) section around it, and `key: value` that chose this section.

    pydantic puts the chosen value among the keys, where the file has none: (loss, kl, weight) is loss.weight.
    """
    keys, choice, options = [], "", {}
    for i, part in enumerate(loc):
        if part in options:
            model, choice = options[part]
            options = {}
            continue
        keys.append(part)
        field = model.model_fields.get(part) if isinstance(part, str) else None
        options = _options(field) if field else {}
        if i + 1 < len(loc) and not options and (sections := _sections(field)):
            model, choice = sections[0], ""
    return keys, model, choice


def _options(field: FieldInfo) -> dict[str, tuple[type[BaseModel], str]]:
    """Of a field that one of several sections may stand in: value of the key that tells them apart -> section, `key: value`."""
    key = field.discriminator
    if not isinstance(key, str):
        return {}
    return {tag: (s, f"{key}: {tag}") for s in _sections(field) for tag in s.model_fields[key].annotation.__args__}


def _sections(field: FieldInfo | None) -> list[type[BaseModel]]:
    """The sections among the types that a field may have."""
    found = field.annotation if field else None
    return [a for a in (found, *getattr(found, "__args__", ())) if isinstance(a, type) and issubclass(a, BaseModel)]

"""Sections of params.yaml as frozen objects; unknown, missing and impossible values stop the run.

Sections are pydantic models that derive from `Section`. Each error names the file, the key with its section, the value
and, if there is one, the closest known key or the new name of a renamed one.
"""

import difflib
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from nas.runtime.io import is_file, read_yaml, short

FILE = Path("params.yaml")
RENAMED = {  # former keys, with their section, of all parameter files -> new keys
    "split.monitor": "split.val",
    "search.members": "search.models",
    "search.guided": "search.bayesian",
    "search.evolution.mutants": "search.evolution.mutations",
    "measure.mutants": "measure.mutations",
    "oneshot.evolution.mutants": "oneshot.evolution.mutations",
    "oneshot.pictures": "oneshot.images",
    "export.calibration_pictures": "export.calibration_images",
    "export.checked_pictures": "export.checked_images",
    "search.method.strengths": "search.method.architecture_parameters",
    "transfer.members": "transfer.models",
    "scratch.members": "scratch.models",
    "pictures": "images",
    "train.heaviest": "train.largest",
    "train.how": "train.optimisation",
    "search.every": "search.record_every",
}
RENAMED_VALUES = {"search.method: guided": "bayesian"}  # former values -> new values


class Section(BaseModel):
    """Base of all sections: frozen, no unknown keys, no silent conversion of text to numbers, finite numbers only."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ParamsError(ValueError):
    """A parameter file lacks a key, or has an unknown or impossible one."""


S = TypeVar("S", bound=Section)


def read(section: str, model: type[S], file: Path = FILE) -> S:
    """One section of the parameter file, checked.

    Raises:
        ParamsError: for a missing file or section, and for unknown, missing or impossible values.
    """
    return check(read_all(file), section, model, file)


def check(values: Mapping[str, Any], section: str, model: type[S], file: Path = FILE) -> S:
    """`read` for parameters in memory."""
    if section not in values:
        raise ParamsError(f"{file}: the section {section!r} is missing; found {sorted(values)}")
    try:
        # JSON has lists only, so lists become tuples here while numbers stay strict
        return model.model_validate_json(json.dumps(values[section], default=str))
    except ValidationError as error:
        lines = [_explain(file, section, model, e) for e in error.errors()]
        raise ParamsError("\n".join(lines)) from None


def check_keys(values: Iterable[str], known: Collection[str], file: Path = FILE) -> None:
    """Check that the top-level keys of a parameter file are exactly the known ones.

    Raises:
        ParamsError: for the first unknown key, with its new name or the closest known one; else for the first missing key.
    """
    for key in sorted(set(values) - set(known)):
        raise ParamsError(f"{file}: {_unknown(key, key, known)}")
    for key in sorted(set(known) - set(values)):
        raise ParamsError(f"{file}: the key {key!r} is missing; found {sorted(values)}")


def check_seed(values: Mapping[str, Any], file: Path = FILE) -> int:
    """The top-level key `seed`.

    Raises:
        ParamsError: if it is missing or not a whole number from 0 on.
    """
    seed = _top_level(values, "seed", file)
    if type(seed) is not int or seed < 0:
        raise ParamsError(f"{file}: seed: a whole number from 0 on is needed; found {seed!r}")
    return seed


def value(key: str, file: Path = FILE) -> str | int | float | bool | None:
    """A top-level key that is not a section, e.g. `space`.

    Raises:
        ParamsError: if it is missing.
    """
    return _top_level(read_all(file), key, file)


def seed(file: Path = FILE) -> int:
    """`check_seed` of a file."""
    return check_seed(read_all(file), file)


def read_all(file: Path = FILE) -> dict[str, Any]:
    """The whole parameter file.

    Raises:
        ParamsError: if it is missing or not a mapping of sections.
    """
    if not is_file(file):
        raise ParamsError(f"there is no {file} in {Path.cwd()}; run from the project's root folder")
    values = read_yaml(file, ParamsError)
    if not isinstance(values, dict):
        raise ParamsError(f"{file}: expected sections, found {type(values).__name__}")
    return values


def _top_level(values: Mapping[str, Any], key: str, file: Path) -> Any:
    if key not in values:
        raise ParamsError(f"{file}: the key {key!r} is missing; found {sorted(values)}")
    return values[key]


def _unknown(key: str, last: str, known: Collection[str], chosen: str = "") -> str:
    """The message for an unknown key; `last` is its last part, to be compared with the known ones."""
    if key in RENAMED:
        return f"{key} is now called {RENAMED[key]}"
    close = difflib.get_close_matches(last, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else f"; allowed are {sorted(known)}"
    return f"{key} is not a known key{chosen}{hint}"


def _explain(file: Path, section: str, model: type[BaseModel], error: dict) -> str:
    loc, inner, choice = _locate(model, error["loc"])
    key = ".".join(str(part) for part in (section, *loc))
    chosen = f" beside {choice}" if choice else ""
    if error["type"] == "missing":
        return f"{file}: {key} is missing{chosen}"
    if error["type"] == "extra_forbidden":
        return f"{file}: {_unknown(key, str(loc[-1]), list(inner.model_fields), chosen)}"
    if error["type"] == "union_tag_not_found":
        return f"{file}: {key}.{_discriminator(error)} is missing"
    if error["type"] == "union_tag_invalid":
        expected, tag = error["ctx"]["expected_tags"], short(error["ctx"]["tag"])
        return f"{file}: {key}.{_discriminator(error)}: Input should be one of {expected}; found {tag}"
    if new_value := RENAMED_VALUES.get(f"{key}: {error['input']}"):
        return f"{file}: {key}: {error['input']} is now called {new_value}"
    message = error["msg"].removeprefix("Value error, ")
    return f"{file}: {key}: {message}; found {short(error['input'])}"


def _discriminator(error: dict) -> str:
    """The key that selects one of several sections."""
    return error["ctx"]["discriminator"].strip("'")


def _locate(model: type[BaseModel], loc: tuple) -> tuple[list, type[BaseModel], str]:
    """The keys of an error as in the file, the (nested) section around it, and the `key: value` that selected this section.

    pydantic puts the selecting value among the keys, the file does not: (loss, kl, weight) is loss.weight.
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
    """For a field that takes one of several sections: value of the selecting key -> (section, `key: value`)."""
    key = field.discriminator
    if not isinstance(key, str):
        return {}
    return {tag: (s, f"{key}: {tag}") for s in _sections(field) for tag in s.model_fields[key].annotation.__args__}


def _sections(field: FieldInfo | None) -> list[type[BaseModel]]:
    """The sections among the types of a field."""
    annotation = field.annotation if field else None
    types = (annotation, *getattr(annotation, "__args__", ()))
    return [a for a in types if isinstance(a, type) and issubclass(a, BaseModel)]

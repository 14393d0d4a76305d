"""Files from outside as plain values: YAML, JSON and tables; one error that names the file, whatever is in it.

The readers of PyYAML, json and pandas run no code here, but a strange file makes them raise a dozen kinds of error, take
the last of two equal keys in silence, or hand back a few lines of YAML that stand for billions of values. Refused with
one error each: what is no UTF-8 text, too large or too deep; a key that stands twice or is no text; YAML's aliases; a
text that holds a NUL or half a character; whole numbers that no array holds.
"""

import json
import os
from collections.abc import Callable
from datetime import date
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    import pandas as pd

LARGEST_YAML = 2**18  # bytes: PyYAML takes seconds for them
LARGEST_JSON = 2**28  # bytes
DEEPEST = 50  # lists and mappings within each other
SHOWN = 200  # characters of a value in a message


class DocumentError(ValueError):
    """A file is not what it should be; the message names it."""


ErrorKind = Callable[[str], Exception]


def read_yaml(path: Path, error: ErrorKind = DocumentError) -> Any:
    """What a YAML file says: mappings with text for keys, lists, text, numbers, dates.

    Raises:
        error: for anything else.
    """
    text = _text(path, LARGEST_YAML, error)
    try:
        found = _Loader(text).get_single_data()
    except yaml.YAMLError as wrong:
        raise error(f"{path} is not valid YAML: {wrong}") from None
    except RecursionError:
        raise error(f"{path} is not valid YAML: it is too deep") from None
    except Exception as wrong:  # PyYAML passes on what int, float or datetime make of a value that its tag does not fit
        raise error(f"{path} is not valid YAML: a value does not fit its type ({type(wrong).__name__}: {short(str(wrong))})") from None
    _check(found, path, error)
    return found


def read_json(path: Path, error: ErrorKind = DocumentError) -> Any:
    """What a JSON file says; numbers may be NaN or infinite.

    Raises:
        error: if it is not JSON, or something that is refused.
    """
    return parse_json(_text(path, LARGEST_JSON, error), path, error)


def parse_json(text: str, where: Path | str, error: ErrorKind = DocumentError) -> Any:
    """`read_json` of a text that is in memory; `where` is what the message calls it."""
    try:
        found = json.loads(text, object_pairs_hook=_once)
    except RecursionError:
        raise error(f"{where} is damaged: it is too deep") from None
    except ValueError as wrong:
        raise error(f"{where} is damaged: {wrong}") from None
    _check(found, where, error)
    return found


def read_table(path: Path, again: str, **options: Any) -> "pd.DataFrame":
    """A parquet or CSV file.

    Args:
        again: how to make the file anew, for the message.
        options: of `pandas.read_parquet` or `pandas.read_csv`.

    Raises:
        FileNotFoundError: if there is no such file.
        DocumentError: if it is something else, or lacks a column that was asked for.
    """
    import pandas as pd  # half a second, which reading a search space need not wait for

    try:
        return (pd.read_csv if Path(path).suffix == ".csv" else pd.read_parquet)(path, **options)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no {path}; {again}") from None
    except Exception as wrong:  # pandas and pyarrow raise many kinds for a file that is none of theirs
        raise DocumentError(f"{path} is no whole table ({short(str(wrong))}); {again}") from None


def is_file(path: Path) -> bool:
    """Whether there is such a file; False also for what cannot be a path, on which `Path.is_file` raises."""
    return os.path.isfile(path)


def short(found: object) -> str:
    """The value for a message, as Python writes it, cut where it gets long."""
    try:
        text = repr(found)
    except ValueError:  # Python writes no whole number of more than 4300 digits
        return "a number of thousands of digits"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text)} characters)"


class _Loader(yaml.SafeLoader):
    """Plain values only, as `SafeLoader`; no aliases, no key twice."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(None, None, f"the alias *{event.anchor}: write the value out", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key)
            if name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {short(key.value)} stands twice", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {short(next(key for i, key in enumerate(keys) if key in keys[:i]))} stands twice")
    return found


def _text(path: Path, most: int, error: ErrorKind) -> str:
    try:
        if (size := os.stat(path).st_size) > most:
            raise error(f"{path} has {size} bytes, at most {most} are read: is it another file?")
        return Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as wrong:
        raise error(f"{path} is no UTF-8 text: byte {wrong.object[wrong.start]:#04x} at {wrong.start}") from None
    except OSError as wrong:
        raise error(f"{path} cannot be read: {wrong.strerror}") from None


def _check(found: object, where: Path | str, error: ErrorKind) -> None:
    """Depth, keys and texts, without recursion."""
    left = [(found, 1)]
    while left:
        value, depth = left.pop()
        if depth > DEEPEST:
            raise error(f"{where}: more than {DEEPEST} lists and mappings within each other")
        if isinstance(value, dict):
            if odd := [key for key in value if not isinstance(key, str)]:
                raise error(f"{where}: the key {short(odd[0])} is no text; put it in quotes")
            left += ((part, depth + 1) for pair in value.items() for part in pair)
        elif isinstance(value, list):
            left += ((part, depth + 1) for part in value)
        elif isinstance(value, str):
            if "\0" in value or (not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value)):
                raise error(f"{where}: the text {short(value)} holds a NUL or half a character")
        elif isinstance(value, int) and value.bit_length() > 63:
            raise error(f"{where}: {short(value)}: whole numbers have at most 63 bits")
        elif not isinstance(value, int | float | date | NoneType):
            raise error(f"{where}: {type(value).__name__} is no type of value that is used here; found {short(value)}")

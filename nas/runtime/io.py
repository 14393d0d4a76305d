"""Reading of external files as plain values: YAML, JSON and tables; any invalid content raises one error that names the file.

PyYAML, json and pandas run no code here, but for unusual files they raise a dozen kinds of error, silently keep the last
of two equal keys, or expand a few lines of YAML to billions of values. One error covers: content that is not UTF-8, too
large or too deeply nested; duplicate keys and keys that are not strings; YAML aliases; strings with a NUL or an unpaired
surrogate; integers of more than 63 bits.
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

MAX_YAML_BYTES = 2**18  # PyYAML takes seconds for them
MAX_JSON_BYTES = 2**28
MAX_DEPTH = 50  # of nested lists and mappings
MAX_SHOWN = 200  # characters of a value in a message


class DocumentError(ValueError):
    """A file has invalid content; the message names it."""


ErrorKind = Callable[[str], Exception]


def read_yaml(path: Path, error: ErrorKind = DocumentError) -> Any:
    """The content of a YAML file: mappings with string keys, lists, strings, numbers, dates.

    Raises:
        error: for any other content.
    """
    text = _text(path, MAX_YAML_BYTES, error)
    try:
        content = _Loader(text).get_single_data()
    except yaml.YAMLError as cause:
        raise error(f"{path} is not valid YAML: {cause}") from None
    except RecursionError:
        raise error(f"{path} is not valid YAML: it is nested too deeply") from None
    except Exception as cause:  # PyYAML passes on the errors of int, float and datetime for a value that does not match its tag
        raise error(f"{path} is not valid YAML: a value does not fit its type ({type(cause).__name__}: {short(str(cause))})") from None
    _check(content, path, error)
    return content


def read_json(path: Path, error: ErrorKind = DocumentError) -> Any:
    """The content of a JSON file; numbers may be NaN or infinite.

    Raises:
        error: for invalid content.
    """
    return parse_json(_text(path, MAX_JSON_BYTES, error), path, error)


def parse_json(text: str, where: Path | str, error: ErrorKind = DocumentError) -> Any:
    """`read_json` for text in memory; `where` is its name in messages."""
    try:
        content = json.loads(text, object_pairs_hook=_unique_keys)
    except RecursionError:
        raise error(f"{where} is damaged: it is nested too deeply") from None
    except ValueError as cause:
        raise error(f"{where} is damaged: {cause}") from None
    _check(content, where, error)
    return content


def read_table(path: Path, remedy: str, **options: Any) -> "pd.DataFrame":
    """A parquet or CSV file.

    Args:
        remedy: how to create the file again, for the message.
        options: of `pandas.read_parquet` or `pandas.read_csv`.

    Raises:
        FileNotFoundError: if there is no such file.
        DocumentError: if it is not a table, or lacks a requested column.
    """
    import pandas as pd  # takes half a second, which reading a search space does not need

    try:
        return (pd.read_csv if Path(path).suffix == ".csv" else pd.read_parquet)(path, **options)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no {path}; {remedy}") from None
    except Exception as cause:  # pandas and pyarrow raise many kinds
        raise DocumentError(f"{path} is not a complete table ({short(str(cause))}); {remedy}") from None


def is_file(path: Path) -> bool:
    """Whether the file exists; False also for an invalid path, on which `Path.is_file` raises."""
    return os.path.isfile(path)


def short(value: object) -> str:
    """The repr of a value for a message, truncated if long."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses integers of more than 4300 digits
        return "a number of thousands of digits"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}... ({len(text)} characters)"


class _Loader(yaml.SafeLoader):
    """SafeLoader without aliases and duplicate keys."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(None, None, f"alias *{event.anchor}: write the value out", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict:
        names = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key)
            if name in names:
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key {short(key.value)}", key.start_mark)
            names.add(name)
        return super().construct_mapping(node, deep)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"duplicate key {short(next(key for i, key in enumerate(keys) if key in keys[:i]))}")
    return mapping


def _text(path: Path, max_bytes: int, error: ErrorKind) -> str:
    try:
        if (size := os.stat(path).st_size) > max_bytes:
            raise error(f"{path} has {size} bytes, at most {max_bytes} are read: is it the right file?")
        return Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as cause:
        raise error(f"{path} is not UTF-8: byte {cause.object[cause.start]:#04x} at {cause.start}") from None
    except OSError as cause:
        raise error(f"{path} cannot be read: {cause.strerror}") from None


def _check(content: object, where: Path | str, error: ErrorKind) -> None:
    """Check depth, keys and values, without recursion."""
    stack = [(content, 1)]
    while stack:
        value, depth = stack.pop()
        if depth > MAX_DEPTH:
            raise error(f"{where}: lists and mappings are nested more than {MAX_DEPTH} deep")
        if isinstance(value, dict):
            if others := [key for key in value if not isinstance(key, str)]:
                raise error(f"{where}: the key {short(others[0])} is not a string; put it in quotes")
            stack += ((part, depth + 1) for pair in value.items() for part in pair)
        elif isinstance(value, list):
            stack += ((part, depth + 1) for part in value)
        elif isinstance(value, str):
            if "\0" in value or (not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value)):
                raise error(f"{where}: the string {short(value)} has a NUL or an unpaired surrogate")
        elif isinstance(value, int) and value.bit_length() > 63:
            raise error(f"{where}: {short(value)}: whole numbers have at most 63 bits")
        elif not isinstance(value, int | float | date | NoneType):
            raise error(f"{where}: values of type {type(value).__name__} are not supported; found {short(value)}")

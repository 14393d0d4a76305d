"""Fuzzing of all files that are read: a reader accepts a file or raises its own error, which names the file.

Valid files are mutated in their structure (keys dropped, renamed, duplicated; values of other types, huge, negative,
nested) and sometimes in their bytes (anchors, tags, byte-order marks, surrogates, garbage). `make test` tries a few thousand,
always the same; `make test-slow` tries a hundred thousand, different ones each time.
"""

import copy
import json
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from nas.cost import latency_mbconv
from nas.cost.latency import Entry, LatencyTableError
from nas.cost.latency_mbconv import MBConvLatencyTable, distinct_blocks
from nas.export import bundle
from nas.runtime import io, params
from nas.runtime.params import ParamsError
from nas.search.predictor import Forest, PredictorError
from nas.spaces import FOLDER, encoding, mbconv
from nas.spaces.encoding import ArchitectureError
from nas.spaces.mbconv import SpaceError
from nas.stages import config

ROOT = Path(__file__).parents[2]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
SECTIONS = config.SECTIONS
PAPER = mbconv.load(FOLDER / "attentive_nas.yaml")
FAST_SHARE = 40  # `make test` tries one file in this many of `make test-slow`
TIMEOUT_S = 20  # per file
MAX_BRANCHES = 97  # choices per level of a document
MAX_MEGABYTES = 500  # memory growth of a test

UNUSUAL: list[Any] = [None, True, False, 0, 1, -1, 2, 2**31, 2**63, -(2**63), 10**400, 0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf")]
UNUSUAL += ["", " ", "1", "nan", "null", "é", "\u202e", "\ud800", "\0", "\x1b[2J", "a" * 1000, "../../x", "/", "~", "${seed}", "a\nb: c"]
UNUSUAL += [[], {}, [[]], [None], {"a": 1}, {"": {}}, [1, 2, 3], ["a"], [0.5, 1.0], {"name": "x"}, [[[[[[]]]]]]]
VALUES = st.sampled_from(UNUSUAL) | st.integers() | st.floats() | st.text(max_size=8)
TAGS = [
    b"!!int ''",
    b"!!float ''",
    b"!!timestamp x",
    b"!!bool 3",
    b"!!binary '@'",
    b"!!set {a}",
    b"!!omap [a: 1]",
    b"!!pairs [a: 1]",
    b"!x ",
]
TAGS += [b"!!null 3", b"!!python/object/apply:os.system [exit]", b"!!python/tuple [1]", b"&a ", b"*a", b"&a [*a]", b"<<: *a", b"<<: {a: 1}"]
SIGNS = [b"\x00", b"\xef\xbb\xbf", b"\xff\xfe", b"\xc3", b"\x80", b"---\n", b"...\n", b"? ", b"? [a]\n: b\n", b"[", b"]", b"{", b"}", b'"']
SIGNS += [b"'", b"\t", b"\r", b"%YAML 9.9\n", b"#", b":", b"|\n", b">-\n", b",", b"\n", b"[" * 2000, b"{a: " * 60, b"- " * 3000]
NUMBERS = [b"1e999", b"-1", b"NaN", b"Infinity", b"0x" + b"f" * 5000, b"9" * 5000, b"0b_", b"1:99:99", b"2020-13-45", b"2020-01-01"]
TOKENS = [*TAGS, *SIGNS, *NUMBERS, b'"\\ud800"', b'"\\0"', "💥".encode()]
PATHS = st.integers(0, MAX_BRANCHES**7 - 1)  # a path into a document, one digit per level


def locate(document: dict[str, Any], path: int) -> tuple[Any, Any]:
    """A mapping or list at some depth, and one of its keys."""
    box, key = document, ""
    while path and isinstance(box[key], dict | list) and box[key]:
        box = box[key]
        path, number = divmod(path, MAX_BRANCHES)
        key = list(box)[number % len(box)] if isinstance(box, dict) else number % len(box)
    return box, key


def drop(box: Any, key: Any, other: Any, value: Any) -> None:
    del box[key]


def replace(box: Any, key: Any, other: Any, value: Any) -> None:
    box[key] = copy.deepcopy(value)


def copy_from(box: Any, key: Any, other: Any, value: Any) -> None:
    box[key] = json.loads(json.dumps(other))


def rename(box: Any, key: Any, other: Any, value: Any) -> None:
    if isinstance(box, dict):
        box[str(value)] = box.pop(key)


def double(box: Any, key: Any, other: Any, value: Any) -> None:
    if isinstance(box, list):
        box.insert(key, json.loads(json.dumps(box[key])))
    else:
        box[f"{key}2"] = box[key]


def nest(box: Any, key: Any, other: Any, value: Any) -> None:
    for _ in range(value if type(value) is int and 0 < value < 200 else 1):
        box[key] = [box[key]]


def scale(box: Any, key: Any, other: Any, value: Any) -> None:
    if isinstance(box[key], int | float):
        box[key] = -box[key] if value else box[key] * 1e9


def quote(box: Any, key: Any, other: Any, value: Any) -> None:
    box[key] = str(box[key])


CHANGES = st.tuples(st.sampled_from([drop, replace, replace, copy_from, rename, double, nest, scale, quote]), PATHS, PATHS, VALUES)
CUTS = st.tuples(st.integers(0, 2**20), st.integers(0, 20), st.sampled_from(TOKENS) | st.binary(max_size=6) | st.just(b""))


@st.composite
def changed(draw: st.DrawFn, text: str) -> Any:
    """The document of a JSON text, changed in one to three places."""
    document = {"": json.loads(text)}
    for change, path, elsewhere, value in draw(st.lists(CHANGES, min_size=1, max_size=3)):
        box, key = locate(document, path)
        other, name = locate(document, elsewhere)
        if box is not document or change is replace:
            change(box, key, other[name], value)
    return document[""]


@st.composite
def cut(draw: st.DrawFn, data: bytes) -> bytes:
    """The bytes with up to three places overwritten or inserted."""
    for start, length, token in draw(st.lists(CUTS, min_size=1, max_size=3)):
        start %= len(data) + 1
        data = data[:start] + token + data[start + length :]
    return data


def dumped(document: Any) -> bytes:
    """JSON, which is also YAML, with surrogates escaped."""
    return json.dumps(document).encode()


def files(*documents: str, raw: tuple[bytes, ...] = ()) -> st.SearchStrategy[bytes]:
    """Files from JSON texts and from `raw` bytes: mutated in structure, in bytes, in both; and garbage."""
    structured = st.one_of(*(changed(text) for text in documents)).map(dumped)
    texts = st.sampled_from([text.encode() for text in documents] + list(raw))
    return st.one_of(structured, structured, structured.flatmap(cut), texts.flatmap(cut), st.binary(max_size=64))


@dataclass(frozen=True)
class Reader:
    """A reader of one kind of file."""

    read: Callable[[Path], object]
    inputs: st.SearchStrategy[bytes]
    errors: tuple[type[Exception], ...]  # exact types: a UnicodeDecodeError is a ValueError but not an error of the project
    tried: int  # files, in `make test-slow`
    file: str = "fuzzed.json"


def read_sections(path: Path) -> None:
    """Reads every section as its stage does."""
    for name in params.read_all(path):
        if name in SECTIONS:
            params.read(name, SECTIONS[name], path)


def check_sections(path: Path) -> None:
    """Runs `params.check` on a JSON file, which is faster to read than YAML."""
    values = io.read_json(path, ParamsError)
    if isinstance(values, dict):
        for name in values:
            if name in SECTIONS:
                params.check(values, name, SECTIONS[name], path)


def check_all_sections(path: Path) -> None:
    """Checks params.yaml as the first stage does, in the project's root."""
    before = Path.cwd()
    try:
        os.chdir(path.parent)
        config.check_all()
    finally:
        os.chdir(before)


def read_space(path: Path) -> None:
    """An accepted space has architectures."""
    space = mbconv.load(path)
    assert space.size >= 1 and space.largest() in space and space.random(np.random.default_rng(0)) in space


def read_architecture(path: Path) -> None:
    """An accepted architecture is hashable, can be looked up in a space and is restored from JSON."""
    arch = encoding.from_json(io.read_json(path, ArchitectureError))
    assert encoding.from_json(json.loads(json.dumps(encoding.to_json(arch)))) == arch
    assert arch in PAPER or isinstance(hash(arch), int)


def read_family(path: Path) -> None:
    """The names of an accepted family are files in its folder."""
    for entry in encoding.read_family(path):
        assert (path.parent / f"{entry['name']}.safetensors").parent == path.parent


def table_reader(tiny_space: mbconv.SearchSpace) -> Callable[[Path], None]:
    """A reader: an accepted table has finite, positive costs."""

    def read(path: Path) -> None:
        costs = latency_mbconv.cost_table(tiny_space, 5, path)
        assert 0 < costs.smallest <= costs.largest < float("inf")

    return read


def read_predictor(path: Path) -> None:
    """An accepted predictor predicts."""
    forest = Forest.load(path)
    assert forest.predict(np.zeros((3, int(forest.genes)))).shape == (3,)


@pytest.fixture(scope="module")
def readers(tiny_space, tmp_path_factory) -> dict[str, Reader]:
    """Readers by the kind of file."""
    folder = tmp_path_factory.mktemp("valid")
    rng = np.random.default_rng(0)
    by_space = [json.dumps(yaml.safe_load((FOLDER / f"{name}.yaml").read_text())) for name in ("smoke", "glyphs")]
    by_section = [json.dumps({name: PARAMS[name]}) for name in SECTIONS]
    arch = encoding.to_json(PAPER.random(rng))
    model = {"name": "a0", "arch": arch, "mflops": 1.5, "parameters": 9, "top1_search": 90.0, "top1_val": 91.0}
    entries = {block: Entry(round(rng.uniform(0.01, 0.2), 5), 0.02, 40) for block in distinct_blocks(tiny_space)}
    table = MBConvLatencyTable(tiny_space, 5, entries, 0.05, {"device": "toy"}).to_json()
    Forest.fit(rng.integers(3, size=(40, 5)), rng.random(40), trees=3, max_depth=4).save(folder / "forest.npz")
    architecture = bundle.Architecture.of(tiny_space, tiny_space.largest())
    prepared = bundle.Preparation(side=20, mean=(0.5,) * 3, std=(0.2,) * 3)
    described = {"name": "a", "dataset": "A", "classes": ("x", "y"), "images": prepared, "architecture": architecture}
    description = bundle._HashedDescription(**described, weights_sha256="0").model_dump_json()
    blocks = (FOLDER / "smoke.yaml").read_bytes()
    return {
        "sections of params.yaml": Reader(check_sections, st.one_of(*map(changed, by_section)).map(dumped), (ParamsError,), 30_000),
        "params.yaml": Reader(
            read_sections, files(*by_section, raw=tuple(yaml.safe_dump({n: PARAMS[n]}).encode() for n in SECTIONS)), (ParamsError,), 14_000
        ),
        "all of params.yaml": Reader(
            check_all_sections,
            st.one_of(changed(json.dumps(PARAMS)).map(dumped), cut((ROOT / "params.yaml").read_bytes())),
            (ParamsError, SpaceError, FileNotFoundError),
            1_000,
            file="params.yaml",
        ),
        "search space": Reader(read_space, files(*by_space, raw=(blocks,)), (SpaceError,), 20_000, file="fuzzed.yaml"),
        "architecture": Reader(read_architecture, files(json.dumps(arch)), (ArchitectureError,), 15_000),
        "family": Reader(read_family, files(json.dumps([model, model])), (ArchitectureError,), 5_000),
        "latency table": Reader(table_reader(tiny_space), files(table), (LatencyTableError,), 15_000),
        "bundle": Reader(bundle._description, files(description), (bundle.BundleError,), 5_000),
        "predictor": Reader(read_predictor, cut((folder / "forest.npz").read_bytes()), (PredictorError,), 2_000, file="forest.npz"),
    }


NAMES = ["sections of params.yaml", "params.yaml", "all of params.yaml", "search space", "architecture", "family", "latency table"]
NAMES += ["bundle", "predictor"]


def fuzz(reader: Reader, folder: Path, files: int, reproducible: bool) -> None:
    """Read this many files; a file is accepted or raises one of the reader's errors, which names it."""
    path, done = folder / reader.file, 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def time_out(number: int, frame: object) -> None:
        raise AssertionError(f"not read within {TIMEOUT_S} s")

    @settings(
        max_examples=files,
        deadline=None,
        database=None,
        derandomize=reproducible,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(reader.inputs)
    def read_one(data: bytes) -> None:
        nonlocal done
        done += 1
        path.write_bytes(data)
        signal.alarm(TIMEOUT_S)
        try:
            reader.read(path)
        except reader.errors as error:
            assert type(error) in reader.errors, f"{type(error).__name__} is not an error of the reader: {error}"
            assert path.name in str(error) or reader.read is read_architecture, error
        finally:
            signal.alarm(0)

    handler = signal.signal(signal.SIGALRM, time_out)
    try:
        read_one()
    finally:
        signal.signal(signal.SIGALRM, handler)
    assert done >= files
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MAX_MEGABYTES * 1024  # KiB on Linux


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with the search spaces that params.yaml may name."""
    shutil.copytree(ROOT / "nas" / "spaces", tmp_path / "nas" / "spaces")
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_mutated_files_are_accepted_or_raise(readers, folder, name):
    """A few hundred files per kind, the same in every run."""
    fuzz(readers[name], folder, readers[name].tried // FAST_SHARE, reproducible=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_hundred_thousand_mutated_files_are_accepted_or_raise(readers, folder, name):
    """A hundred thousand files in total, different in every run."""
    fuzz(readers[name], folder, readers[name].tried, reproducible=False)


def test_enough_files_are_tried(readers):
    """All kinds together have at least a hundred thousand files."""
    assert list(readers) == NAMES and sum(reader.tried for reader in readers.values()) >= 100_000


BILLION = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefghi", "bcdefghij")
)
MERGED = "a: &a {x: 1}\n" + "".join(f"{b}: &{b} {{<<: [{', '.join([f'*{a}'] * 9)}]}}\n" for a, b in zip("abcdefghi", "bcdefghij"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BILLION, "alias *a: write the value out"),
        (MERGED, "alias *a: write the value out"),
        ("a: &a [*a]", "alias *a"),
        ("[" * 100_000, "it is nested too deeply"),
        ("a: " + "[" * 60 + "]" * 60, "lists and mappings are nested more than 50 deep"),
        ("seed: 1\nseed: 2", "duplicate key 'seed'"),
        ("1: a", "the key 1 is not a string; put it in quotes"),
        ("a: !!python/object/apply:os.system [exit]", "could not determine a constructor"),
        ("a: !!set {b}", "values of type set are not supported"),
        ("a: 2020-13-45", "a value does not fit its type (ValueError: 'month must be in 1..12')"),
        ("a: !!int ''", "a value does not fit its type (IndexError"),
        ("a: 0x" + "f" * 5000, "a number of thousands of digits: whole numbers have at most 63 bits"),
        ('a: "\\ud800"', "has a NUL or an unpaired surrogate"),
        ("# " + "x" * io.MAX_YAML_BYTES, "bytes, at most 262144 are read"),
    ],
)
def test_invalid_yaml_is_an_error_with_a_reason(tmp_path, text, message):
    """Files that expand to large values and unsupported values raise with the reason."""
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ParamsError) as error:
        params.read_all(path)
    assert "params.yaml" in str(error.value) and message in str(error.value)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_other_encodings_are_an_error(tmp_path, encoding):
    """The message names the first byte that is not UTF-8."""
    path = tmp_path / "params.yaml"
    path.write_text("näme: 1", encoding=encoding)
    with pytest.raises(ParamsError, match=r"params\.yaml is not UTF-8: byte 0x"):
        params.read_all(path)


def test_a_byte_order_mark_is_ignored(tmp_path):
    """Some editors write one."""
    path = tmp_path / "params.yaml"
    path.write_bytes(b"\xef\xbb\xbfseed: 1")
    assert params.read_all(path) == {"seed": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "it is nested too deeply"),
        ("[" * 60 + "]" * 60, "nested more than 50 deep"),
        ('{"a": 1, "b": 2, "a": 3}', "duplicate key 'a'"),
        ("1" * 5000, "damaged"),
        ('"\\ud800"', "an unpaired surrogate"),
    ],
)
def test_invalid_json_is_an_error_with_a_reason(tmp_path, text, message):
    """Deep nesting, duplicate keys, huge numbers and surrogates raise with the reason."""
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.raises(io.DocumentError) as error:
        io.read_json(path)
    assert "table.json" in str(error.value) and message in str(error.value)


def test_pythons_recursion_limit_is_the_default():
    """With a raised limit the tests of depth would show nothing."""
    assert sys.getrecursionlimit() <= 3000

"""No code runs from data: unsafe calls are not used, hostile files raise wherever they are read, servers stay local."""

import ast
import io
import json
import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import torch

import nas
from nas.cost.latency import Entry, LatencyTableError
from nas.cost.latency_mbconv import MBConvLatencyTable, distinct_blocks
from nas.data import sources
from nas.data.dataset import open_dataset
from nas.data.sources import ImageError, Source
from nas.data.splits import Split
from nas.export.bundle import BundleError
from nas.export.import_checkpoint import find_images
from nas.models.published import WeightsError, read_weights
from nas.runtime import params, presets
from nas.runtime.checkpoint import Checkpoint, CheckpointError, load_weights
from nas.runtime.io import DocumentError, read_table
from nas.runtime.params import ParamsError
from nas.search.archive import ScoreCache
from nas.search.predictor import Forest, PredictorError
from nas.spaces import FOLDER, encoding, mbconv
from nas.spaces.encoding import ArchitectureError
from nas.spaces.mbconv import SpaceError
from nas.stages import runner
from nas.stages.split import divide

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for folder in ("nas", "studies", "flows", "benchmarks", ".ci") for path in (ROOT / folder).rglob("*.py"))

MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "tarfile", "zipfile", "skops"}
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "runpy.run_path", "runpy.run_module", "shutil.unpack_archive"}
CALLS |= {"yaml.load", "yaml.load_all", "yaml.full_load", "yaml.full_load_all", "yaml.unsafe_load", "yaml.unsafe_load_all"}
CALLS |= {"torch.jit.load", "torch.hub.load", "torch.package.PackageImporter", "pandas.read_pickle", "pandas.read_hdf", "numpy.fromregex"}
NAMES = {"yaml.Loader", "yaml.FullLoader", "yaml.UnsafeLoader", "yaml.CLoader", "yaml.CFullLoader", "yaml.CUnsafeLoader"}
NEEDED = {"torch.load": ("weights_only", True), "numpy.load": ("allow_pickle", False)}  # arguments that a call must have explicitly
ONLY_IN = {  # calls that are safe in these files
    "torch.export.load": {"nas/export/torch_export.py"},  # of a file written just before
    "importlib.import_module": {"nas/__init__.py"},  # names that are constants there
}


def unsafe_uses(text: str, file: str = "x.py") -> Iterator[str]:
    """Forbidden modules, calls and names of a module that could run code from data, by their full names."""
    tree = ast.parse(text)
    known = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            known |= {
                (alias.asname or alias.name.split(".")[0]): alias.name if alias.asname else alias.name.split(".")[0] for alias in node.names
            }
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom):
            known |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            yield from (node.module for _ in [0] if node.module.split(".")[0] in MODULES)

    def full_name(node: ast.AST) -> str:
        name, _, rest = ast.unparse(node).partition(".")
        if rest and name not in known:
            return ""  # of a variable
        return ".".join(filter(None, [known.get(name, name), rest]))

    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name) and full_name(node) in NAMES:
            yield full_name(node)
        if not isinstance(node, ast.Call):
            continue
        name, keywords = full_name(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
        if name in CALLS or keywords.get("shell") == "True" or keywords.get("allow_pickle", "False") != "False":
            yield name
        if name.endswith("YAML") and (node.args or "typ" in keywords):
            yield name
        if name in NEEDED and keywords.get(NEEDED[name][0]) != str(NEEDED[name][1]):
            yield name
        if name in ONLY_IN and file not in ONLY_IN[name]:
            yield name


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_that_runs_code_from_data_is_used(path):
    """The rule covers modules, calls and arguments in all code but the tests."""
    assert not list(unsafe_uses(path.read_text(), path.relative_to(ROOT).as_posix()))


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from joblib import load",
        "import os.path, dill.source",
        "import yaml\nyaml.load(x, yaml.SafeLoader)",
        "from yaml import unsafe_load as safe_load\nsafe_load(x)",
        "import yaml\nclass L(yaml.FullLoader): pass",
        "import torch\ntorch.load(x)",
        "from torch import load\nload(x, weights_only=False)",
        "import torch as t\nt.load(x, weights_only=maybe)",
        "import numpy as np\nnp.load(x)",
        "import numpy as np\nnp.load(x, allow_pickle=True)",
        "import pandas as pd\npd.read_pickle(x)",
        "eval('1')",
        "import subprocess\nsubprocess.run(x, shell=True)",
        "import torch\ntorch.export.load(x)",
        "from ruamel.yaml import YAML\nYAML(typ='unsafe')",
    ],
)
def test_the_rule_finds_unsafe_uses(text):
    """It resolves import aliases."""
    assert list(unsafe_uses(text))


@pytest.mark.parametrize(
    "text",
    ["import torch\ntorch.load(x, weights_only=True)", "network.eval()", "import re\nre.compile(x)", "import yaml\nyaml.safe_load(x)"],
)
def test_the_rule_allows_safe_uses(text):
    """Methods of the same name are allowed."""
    assert not list(unsafe_uses(text))


class Hostile:
    """An object that creates a file when unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def written(save: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    save(file)
    return file.getvalue()


def archive_of(data: bytes, kind: str) -> bytes:
    """An archive with a member whose path leads out of the target folder."""

    def zipped(file: io.BytesIO) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("../executed", data)

    def tarred(file: io.BytesIO) -> None:
        with tarfile.open(fileobj=file, mode="w:gz") as archive:
            entry = tarfile.TarInfo("../executed")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))

    return written(zipped if kind == "zip" else tarred)


def contents(marker: Path) -> dict[str, bytes]:
    """Files that would create the marker if their content were executed."""
    evil = Hostile(marker)
    array = np.array([evil], dtype=object)
    state = {"state_dict": {"first_conv.conv.conv.weight": torch.zeros(1)}, "top1": [], "extra": evil}
    return {
        "pickle 0": pickle.dumps(evil, 0),
        "pickle 5": pickle.dumps({"state_dict": evil}, 5),
        "torch": written(lambda file: torch.save(state, file)),
        "old torch": written(lambda file: torch.save(state, file, _use_new_zipfile_serialization=False)),
        "npy": written(lambda file: np.save(file, array, allow_pickle=True)),
        "npz": written(lambda file: np.savez(file, allow_pickle=True, **dict.fromkeys(Forest.__dataclass_fields__, array))),
        "yaml": f"name: !!python/object/apply:os.mkdir ['{marker}']\n".encode(),
        "zip": archive_of(pickle.dumps(evil), "zip"),
        "tar": archive_of(pickle.dumps(evil), "tar"),
    }


CONTENTS = list(contents(Path("x")))


@pytest.fixture(scope="module")
def divided(tmp_path_factory) -> Path:
    """Output of stage split for 120 images. Do not change it; copy it."""
    folder = tmp_path_factory.mktemp("split")
    drawn = Source(name="glyphs", images=120, difficulty=0.0, alphabet="AB")
    fractions = {"test": 0.2, "predictor": 0.2, "search": 0.2, "val": 0.2}
    divide(
        Split(root="x", data=drawn, transfer_root="x", transfer=(), side=8, check_files=False, broken_files=0, **fractions),
        0,
        False,
        folder,
    )
    return folder


@pytest.fixture
def places(tiny_space, bundled, divided, tmp_path) -> dict[str, tuple[Path, type[Exception], Callable[[], object]]]:
    """Every place that reads a file: the path, the error and the reader."""
    folder = tmp_path / "files"
    shutil.copytree(divided, folder / "split")
    for name in ("description", "weights"):
        shutil.copytree(bundled, folder / name)
    for name in ("images", "imagenet", "stanford_cars/devkit", "stanford_cars/cars_train", "presets"):
        (folder / name).mkdir(parents=True)
    for i in range(40):
        (folder / "images" / f"{i}.jpg").touch()
    checkpoint = Checkpoint(folder, "train", "0" * 16)
    checkpoint.folder.mkdir(parents=True)
    shutil.copy(ROOT / "params.yaml", folder / "good.yaml")

    def read_dataset() -> object:
        return open_dataset(folder / "split")

    def torchvision(name: str) -> Callable[[], object]:
        return lambda: sources.open_source(Source(name=name), folder / ("imagenet" if name == "imagenet" else ""), 0, 8)

    network = torch.nn.Linear(1, 1)
    readers = {
        "checkpoint": (checkpoint.folder / "state.pt", CheckpointError, checkpoint.load),
        "weights": (folder / "w.safetensors", CheckpointError, lambda: load_weights(folder / "w.safetensors", network)),
        "predictor": (folder / "forest.npz", PredictorError, lambda: Forest.load(folder / "forest.npz")),
        "authors' checkpoint": (folder / "authors.pth.tar", WeightsError, lambda: read_weights(folder / "authors.pth.tar")),
        "image": (folder / "images" / "0.jpg", ImageError, lambda: find_images(folder / "images", 40)),
        "pixels": (folder / "split" / "images" / "glyphs.npy", DocumentError, read_dataset),
        "parts": (folder / "split" / "splits.parquet", DocumentError, read_dataset),
        "sets": (folder / "split" / "sets.json", DocumentError, read_dataset),
        "metrics": (folder / "metrics.json", DocumentError, lambda: runner.count_classes(folder / "metrics.json")),
        "table": (folder / "measured.parquet", DocumentError, lambda: read_table(folder / "measured.parquet", "again")),
        "family": (folder / "family.json", ArchitectureError, lambda: encoding.read_family(folder / "family.json")),
        "latency table": (folder / "table.json", LatencyTableError, lambda: MBConvLatencyTable.load(folder / "table.json", tiny_space, 5)),
        "scores": (folder / "scores.jsonl", DocumentError, lambda: ScoreCache("w", folder / "scores.jsonl")),
        "bundle's description": (folder / "description" / "bundle.json", BundleError, lambda: nas.load(folder / "description")),
        "bundle's weights": (folder / "weights" / "weights.safetensors", BundleError, lambda: nas.load(folder / "weights")),
        "bundle": (folder / "model.pt", BundleError, lambda: nas.load(folder / "model.pt")),
        "space": (folder / "space.yaml", SpaceError, lambda: mbconv.load(folder / "space.yaml")),
        "params.yaml": (folder / "params.yaml", ParamsError, lambda: params.read_all(folder / "params.yaml")),
        "preset": (folder / "evil.yaml", ParamsError, lambda: presets.apply("evil", folder / "good.yaml", folder)),
        "ImageNet's classes": (folder / "imagenet" / "meta.bin", FileNotFoundError, torchvision("imagenet")),
        "cars' labels": (folder / "stanford_cars" / "devkit" / "cars_train_annos.mat", FileNotFoundError, torchvision("stanford_cars")),
        "CIFAR-10": (folder / "cifar-10-batches-py" / "data_batch_1", FileNotFoundError, torchvision("cifar10")),
    }
    for path, _, _ in readers.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    return readers


PLACES = ["checkpoint", "weights", "predictor", "authors' checkpoint", "image", "pixels", "parts", "sets", "metrics", "table", "family"]
PLACES += ["latency table", "scores", "bundle's description", "bundle's weights", "bundle", "space", "params.yaml", "preset"]
PLACES += ["ImageNet's classes", "cars' labels", "CIFAR-10"]


@pytest.mark.parametrize("place", PLACES)
def test_a_hostile_file_raises_wherever_it_is_read(places, place, tmp_path):
    """Pickles of Python, torch and numpy, YAML with calls and archives run nothing, and the error names the file."""
    assert list(places) == PLACES
    path, error, read = places[place]
    for kind, data in contents(tmp_path / "executed").items():
        path.write_bytes(data if place != "scores" else data + b"\n")  # an incomplete last line is ignored
        with pytest.raises(error) as caught:
            read()
        assert not list(tmp_path.rglob("*executed*")), kind
        message = str(caught.value)
        assert type(caught.value) is error and (path.name in message or "complete in" in message), (kind, message)


@pytest.mark.parametrize("kind", CONTENTS)
def test_the_files_are_hostile(kind, tmp_path):
    """An unsafe reader of each kind does create the marker."""
    import yaml

    data = contents(tmp_path / "executed")[kind]
    file = io.BytesIO(data)
    match kind:
        case "pickle 0" | "pickle 5":
            pickle.load(file)
        case "torch" | "old torch":
            torch.load(file, weights_only=False)
        case "npy":
            np.load(file, allow_pickle=True)
        case "npz":
            list(np.load(file, allow_pickle=True).values())
        case "yaml":
            yaml.unsafe_load(data)
        case "zip":
            pickle.loads(zipfile.ZipFile(file).read("../executed"))
        case "tar":
            with tarfile.open(fileobj=file) as archive:
                pickle.loads(archive.extractfile("../executed").read())
    assert (tmp_path / "executed").exists()


def test_a_compressed_predictor_is_an_error(tmp_path):
    """A compressed file of 1 MB may expand to 1 GB."""
    rng = np.random.default_rng(0)
    forest = Forest.fit(rng.integers(3, size=(40, 5)), rng.random(40), trees=2, max_depth=2)
    np.savez_compressed(tmp_path / "forest.npz", **vars(forest))
    with pytest.raises(PredictorError, match="compressed"):
        Forest.load(tmp_path / "forest.npz")


def test_a_bundle_that_would_take_all_memory_is_an_error(bundled, tmp_path):
    """Too many channels or blocks in a description raise before the network is built."""
    folder = Path(shutil.copytree(bundled, tmp_path / "easy-a0"))
    described = json.loads((folder / "bundle.json").read_text())
    for stage in described["architecture"]["stages"]:
        stage |= {"width": mbconv.MAX_VALUE, "depth": 400}
    (folder / "bundle.json").write_text(json.dumps(described))
    with pytest.raises(BundleError, match=r"values, bundle\.json describes \d{12}"):
        nas.load(folder)
    described["architecture"]["stages"][0]["depth"] = 1000
    (folder / "bundle.json").write_text(json.dumps(described))
    with pytest.raises(BundleError, match="1400 blocks, the maximum is 1000"):
        nas.load(folder)


def test_a_family_cannot_name_files_elsewhere(tmp_path):
    """Names in family.json are file names in its folder."""
    arch = encoding.to_json(mbconv.load(FOLDER / "smoke.yaml").smallest())
    for name in ("../evil", "/evil", "", "..", "a/b"):
        entry = {"name": name, "arch": arch, "mflops": 1, "parameters": 1, "top1_search": 1, "top1_val": 1}
        (tmp_path / "family.json").write_text(json.dumps([entry]))
        with pytest.raises(ArchitectureError, match="cannot name a file"):
            encoding.read_family(tmp_path / "family.json")


def test_a_latency_in_quotes_is_an_error(tiny_space, tmp_path):
    """Strings are not converted to numbers, and a block cannot be listed twice."""
    table = json.loads(MBConvLatencyTable(tiny_space, 5, dict.fromkeys(distinct_blocks(tiny_space), Entry(1.0, 0.0)), 0.0).to_json())
    for change, message in [
        (table["entries"][0] | {"latency_ms": "1.5"}, r"entries\.0\.\w+\.latency_ms: Input should be a valid number"),
        (table["entries"][1], "twice"),
    ]:
        (tmp_path / "table.json").write_text(json.dumps(table | {"entries": [change, *table["entries"][1:]]}))
        with pytest.raises(LatencyTableError, match=message):
            MBConvLatencyTable.load(tmp_path / "table.json", tiny_space, 5)


TEXTS = [ROOT / "Makefile", ROOT / "README.md", ROOT / "pyproject.toml", *ROOT.glob("prefect*.yaml"), *(ROOT / "docs").rglob("*.md")]
TEXTS += [*(ROOT / "flows").rglob("*"), *(ROOT / "nas").rglob("*.py"), *(ROOT / "studies").rglob("*.py")]
SERVERS = re.compile(r"(?:prefect server start|mlflow (?:ui|server) )[^\n`;]*")
CHECKS_OFF = re.compile(r"0\.0\.0\.0|--allowed-hosts|--cors-allowed-origins|ALLOWED_HOSTS|DISABLE_SECURITY|disable-security|host[= ]\"?\*")


@pytest.mark.parametrize(
    "path", [p for p in TEXTS if p.suffix != ".pyc" and p.is_file()], ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_servers_listen_on_this_machine_only(path):
    """In code and documentation every server is started with 127.0.0.1, and no host check is turned off."""
    text = path.read_text()
    commands = SERVERS.findall(text)
    assert all("--host 127.0.0.1" in command for command in commands), commands
    assert not CHECKS_OFF.search(text)


def test_the_rule_finds_servers():
    """The pattern matches the existing commands."""
    assert len(SERVERS.findall((ROOT / "Makefile").read_text())) == 1
    assert any(SERVERS.findall((ROOT / name).read_text()) for name in ("prefect.yaml", "README.md"))


@pytest.fixture
def served(tmp_path):
    """Start a server in its own folder; returns a function that sends requests to it."""
    running = []

    def served(command: list[str], port: int, path: str) -> Callable[..., httpx.Response]:
        shutil.copy(ROOT / "pyproject.toml", tmp_path)
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "MAKE")) and k != "MFLAGS"}
        environment |= {"PREFECT_HOME": str(tmp_path / "prefect"), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        running.append(subprocess.Popen(command, cwd=tmp_path, env=environment, start_new_session=True))
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"http://127.0.0.1:{port}{path}", timeout=5).is_success:
                    break
            except httpx.TransportError:
                time.sleep(0.2)

        def ask(method: str = "GET", **headers: str) -> httpx.Response:
            return httpx.request(method, f"http://127.0.0.1:{port}{path}", headers={k.replace("_", "-"): v for k, v in headers.items()})

        return ask

    yield served
    for process in running:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def listening(port: int) -> set[str]:
    """Addresses that listen at the port."""
    return {c.laddr.ip for c in psutil.net_connections("inet") if c.status == psutil.CONN_LISTEN and c.laddr.port == port}


@pytest.mark.slow
def test_mlflow_answers_this_machine_only(served, port):
    """`make ui` listens on 127.0.0.1, and a request with a foreign host name (DNS rebinding) is refused."""
    command = ["make", "-f", str(ROOT / "Makefile"), "-o", "none/.ready", "VENV=none", "ui", f"PORT={port}"]
    ask = served(command, port, "/api/2.0/mlflow/experiments/search?max_results=1")
    assert listening(port) == {"127.0.0.1"}
    assert ask().status_code == 200 and ask(host="evil.example").status_code == 403


@pytest.mark.slow
def test_prefect_does_not_answer_other_origins(served, port):
    """Its server listens on 127.0.0.1 and allows no other origin."""
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    ask = served(command, port, "/api/health")
    assert listening(port) == {"127.0.0.1"}
    request = {"access_control_request_method": "POST"}
    assert "access-control-allow-origin" not in ask("OPTIONS", origin="http://evil.example", **request).headers
    assert ask("OPTIONS", origin="http://127.0.0.1:4200", **request).headers["access-control-allow-origin"] == "http://127.0.0.1:4200"

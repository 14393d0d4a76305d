"""No code runs from data: nothing that could run it is used, a hostile file is refused wherever one is read, servers stay local."""

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
from nas.cost.latency_mbconv import LatencyTable, distinct_blocks
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
SOURCES = sorted(path for folder in ("nas", "flows", "benchmarks", ".ci") for path in (ROOT / folder).rglob("*.py"))

MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "tarfile", "zipfile", "skops"}
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "runpy.run_path", "runpy.run_module", "shutil.unpack_archive"}
CALLS |= {"yaml.load", "yaml.load_all", "yaml.full_load", "yaml.full_load_all", "yaml.unsafe_load", "yaml.unsafe_load_all"}
CALLS |= {"torch.jit.load", "torch.hub.load", "torch.package.PackageImporter", "pandas.read_pickle", "pandas.read_hdf", "numpy.fromregex"}
NAMES = {"yaml.Loader", "yaml.FullLoader", "yaml.UnsafeLoader", "yaml.CLoader", "yaml.CFullLoader", "yaml.CUnsafeLoader"}
NEEDED = {"torch.load": ("weights_only", True), "numpy.load": ("allow_pickle", False)}  # what a call must say in so many words
ONLY_IN = {  # calls that are safe where they stand
    "torch.export.load": {"nas/export/torch_export.py"},  # of a file that has just been written
    "importlib.import_module": {"nas/__init__.py", "nas/stages/check.py"},  # names that are constants there
}


def offences(text: str, file: str = "x.py") -> Iterator[str]:
    """What in a module could run code from data: forbidden modules, calls and names, by their full names."""
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

    def full(node: ast.AST) -> str:
        name, _, rest = ast.unparse(node).partition(".")
        if rest and name not in known:
            return ""  # of a variable
        return ".".join(filter(None, [known.get(name, name), rest]))

    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name) and full(node) in NAMES:
            yield full(node)
        if not isinstance(node, ast.Call):
            continue
        name, said = full(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
        if name in CALLS or said.get("shell") == "True" or said.get("allow_pickle", "False") != "False":
            yield name
        if name.endswith("YAML") and (node.args or "typ" in said):
            yield name
        if name in NEEDED and said.get(NEEDED[name][0]) != str(NEEDED[name][1]):
            yield name
        if name in ONLY_IN and file not in ONLY_IN[name]:
            yield name


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_that_runs_code_from_data_is_used(path):
    """By module, call and argument, in everything but the tests."""
    assert not list(offences(path.read_text(), path.relative_to(ROOT).as_posix()))


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
def test_the_rule_finds_each_of_them(text):
    """Under whatever name it was imported."""
    assert list(offences(text))


@pytest.mark.parametrize(
    "text",
    ["import torch\ntorch.load(x, weights_only=True)", "network.eval()", "import re\nre.compile(x)", "import yaml\nyaml.safe_load(x)"],
)
def test_the_rule_lets_the_rest_be(text):
    """Methods of the same name are others."""
    assert not list(offences(text))


class Hostile:
    """Unpickled, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def written(save: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    save(file)
    return file.getvalue()


def archive_of(data: bytes, kind: str) -> bytes:
    """An archive with a model that would lead out of the folder it were unpacked into."""

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
    """Files that would make the marker if whatever is in them were executed."""
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
    """What stage split wrote of 120 letters. Not to be changed: copy it."""
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
    """Every place that reads a file: the file, the error, and the reading."""
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

    def read_set() -> object:
        return open_dataset(folder / "split")

    def torchvision(name: str) -> Callable[[], object]:
        return lambda: sources.open_source(Source(name=name), folder / ("imagenet" if name == "imagenet" else ""), 0, 8)

    network = torch.nn.Linear(1, 1)
    at = {
        "checkpoint": (checkpoint.folder / "state.pt", CheckpointError, checkpoint.load),
        "weights": (folder / "w.safetensors", CheckpointError, lambda: load_weights(folder / "w.safetensors", network)),
        "predictor": (folder / "forest.npz", PredictorError, lambda: Forest.load(folder / "forest.npz")),
        "authors' checkpoint": (folder / "authors.pth.tar", WeightsError, lambda: read_weights(folder / "authors.pth.tar")),
        "image": (folder / "images" / "0.jpg", ImageError, lambda: find_images(folder / "images", 40)),
        "pixels": (folder / "split" / "images" / "glyphs.npy", DocumentError, read_set),
        "parts": (folder / "split" / "splits.parquet", DocumentError, read_set),
        "sets": (folder / "split" / "sets.json", DocumentError, read_set),
        "metrics": (folder / "metrics.json", DocumentError, lambda: runner.count_classes(folder / "metrics.json")),
        "table": (folder / "measured.parquet", DocumentError, lambda: read_table(folder / "measured.parquet", "again")),
        "family": (folder / "family.json", ArchitectureError, lambda: encoding.read_family(folder / "family.json")),
        "latency table": (folder / "table.json", LatencyTableError, lambda: LatencyTable.load(folder / "table.json", tiny_space, 5)),
        "scores": (folder / "scores.jsonl", DocumentError, lambda: ScoreCache("w", folder / "scores.jsonl")),
        "bundle's description": (folder / "description" / "bundle.json", BundleError, lambda: nas.load(folder / "description")),
        "bundle's weights": (folder / "weights" / "weights.safetensors", BundleError, lambda: nas.load(folder / "weights")),
        "bundle": (folder / "model.pt", BundleError, lambda: nas.load(folder / "model.pt")),
        "space": (folder / "space.yaml", SpaceError, lambda: mbconv.load(folder / "space.yaml")),
        "params.yaml": (folder / "params.yaml", ParamsError, lambda: params.read_all(folder / "params.yaml")),
        "profile": (folder / "evil.yaml", ParamsError, lambda: presets.apply("evil", folder / "good.yaml", folder)),
        "ImageNet's classes": (folder / "imagenet" / "meta.bin", FileNotFoundError, torchvision("imagenet")),
        "cars' labels": (folder / "stanford_cars" / "devkit" / "cars_train_annos.mat", FileNotFoundError, torchvision("stanford_cars")),
        "CIFAR-10": (folder / "cifar-10-batches-py" / "data_batch_1", FileNotFoundError, torchvision("cifar10")),
    }
    for path, _, _ in at.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    return at


PLACES = ["checkpoint", "weights", "predictor", "authors' checkpoint", "image", "pixels", "parts", "sets", "metrics", "table", "family"]
PLACES += ["latency table", "scores", "bundle's description", "bundle's weights", "bundle", "space", "params.yaml", "profile"]
PLACES += ["ImageNet's classes", "cars' labels", "CIFAR-10"]


@pytest.mark.parametrize("place", PLACES)
def test_a_hostile_file_is_refused_wherever_one_is_read(places, place, tmp_path):
    """Pickles as Python, torch and numpy write them, YAML that calls, archives: none does anything, each is told by its name."""
    assert list(places) == PLACES
    path, error, read = places[place]
    for kind, data in contents(tmp_path / "executed").items():
        path.write_bytes(data if place != "scores" else data + b"\n")  # a last line without an end counts as torn
        with pytest.raises(error) as caught:
            read()
        assert not list(tmp_path.rglob("*executed*")), kind
        told = str(caught.value)
        assert type(caught.value) is error and (path.name in told or "complete in" in told), (kind, told)


@pytest.mark.parametrize("kind", CONTENTS)
def test_the_files_are_hostile(kind, tmp_path):
    """What is refused above would have made its file: as the careless reading of each kind shows."""
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


def test_a_predictor_that_would_swell_is_refused(tmp_path):
    """A compressed file of 1 MB may stand for 1 GB."""
    rng = np.random.default_rng(0)
    forest = Forest.fit(rng.integers(3, size=(40, 5)), rng.random(40), trees=2, max_depth=2)
    np.savez_compressed(tmp_path / "forest.npz", **vars(forest))
    with pytest.raises(PredictorError, match="compressed"):
        Forest.load(tmp_path / "forest.npz")


def test_a_bundle_that_would_take_all_memory_is_refused(bundled, tmp_path):
    """A description of 16384 channels everywhere is told before such a network is made, and one of endless depth is read no further."""
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


def test_a_family_cannot_lead_elsewhere(tmp_path):
    """Names in family.json are names of files beside it."""
    arch = encoding.to_json(mbconv.load(FOLDER / "smoke.yaml").smallest())
    for name in ("../evil", "/evil", "", "..", "a/b"):
        entry = {"name": name, "arch": arch, "mflops": 1, "parameters": 1, "top1_search": 1, "top1_val": 1}
        (tmp_path / "family.json").write_text(json.dumps([entry]))
        with pytest.raises(ArchitectureError, match="can name no file"):
            encoding.read_family(tmp_path / "family.json")


def test_a_number_in_quotes_is_no_latency(tiny_space, tmp_path):
    """Text is not converted to numbers, and a block cannot be listed twice."""
    found = json.loads(LatencyTable(tiny_space, 5, dict.fromkeys(distinct_blocks(tiny_space), Entry(1.0, 0.0)), 0.0).to_json())
    for change, told in [
        (found["entries"][0] | {"latency_ms": "1.5"}, r"entries\.0\.\w+\.latency_ms: Input should be a valid number"),
        (found["entries"][1], "twice"),
    ]:
        (tmp_path / "table.json").write_text(json.dumps(found | {"entries": [change, *found["entries"][1:]]}))
        with pytest.raises(LatencyTableError, match=told):
            LatencyTable.load(tmp_path / "table.json", tiny_space, 5)


TEXTS = [ROOT / "Makefile", ROOT / "README.md", ROOT / "pyproject.toml", *ROOT.glob("prefect*.yaml"), *(ROOT / "docs").rglob("*.md")]
TEXTS += [*(ROOT / "flows").rglob("*"), *(ROOT / "nas").rglob("*.py")]
SERVERS = re.compile(r"(?:prefect server start|mlflow (?:ui|server) )[^\n`;]*")
CHECKS_OFF = re.compile(r"0\.0\.0\.0|--allowed-hosts|--cors-allowed-origins|ALLOWED_HOSTS|DISABLE_SECURITY|disable-security|host[= ]\"?\*")


@pytest.mark.parametrize(
    "path", [p for p in TEXTS if p.suffix != ".pyc" and p.is_file()], ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_servers_listen_on_this_machine_alone(path):
    """Wherever one is started, in code or in words, with 127.0.0.1; nowhere is a check of hosts turned off."""
    text = path.read_text()
    started = SERVERS.findall(text)
    assert all("--host 127.0.0.1" in command for command in started), started
    assert not CHECKS_OFF.search(text)


def test_servers_are_found():
    """The rule sees those that there are."""
    assert len(SERVERS.findall((ROOT / "Makefile").read_text())) == 1
    assert any(SERVERS.findall((ROOT / name).read_text()) for name in ("prefect.yaml", "README.md"))


@pytest.fixture
def served(tmp_path):
    """Start a server from a folder of its own; answers of it by path and headers, once it is there."""
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
    """Addresses on which someone listens at the port."""
    return {c.laddr.ip for c in psutil.net_connections("inet") if c.status == psutil.CONN_LISTEN and c.laddr.port == port}


@pytest.mark.slow
def test_mlflow_answers_this_machine_alone(served, port):
    """`make ui` listens on 127.0.0.1, and a page that has another name lead here (DNS rebinding) gets nothing."""
    command = ["make", "-f", str(ROOT / "Makefile"), "-o", "none/.ready", "VENV=none", "ui", f"PORT={port}"]
    ask = served(command, port, "/api/2.0/mlflow/experiments/search?max_results=1")
    assert listening(port) == {"127.0.0.1"}
    assert ask().status_code == 200 and ask(host="evil.example").status_code == 403


@pytest.mark.slow
def test_prefect_answers_no_page_of_another_site(served, port):
    """Started in the project, its server listens on 127.0.0.1 and gives no other origin leave to use it."""
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    ask = served(command, port, "/api/health")
    assert listening(port) == {"127.0.0.1"}
    asked = {"access_control_request_method": "POST"}
    assert "access-control-allow-origin" not in ask("OPTIONS", origin="http://evil.example", **asked).headers
    assert ask("OPTIONS", origin="http://127.0.0.1:4200", **asked).headers["access-control-allow-origin"] == "http://127.0.0.1:4200"

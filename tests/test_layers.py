"""Imports point one way: each module knows those below it, never those above."""

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = (
    {"nas", "nas.documents", "nas.space", "nas.seeding", "nas.pareto", "nas.progress", "nas.parallel"},
    {"nas.encoding", "nas.params", "nas.data", "nas.tracking", "nas.journal", "nas.provenance", "nas.checkpoint", "nas.distributed"}
    | {"nas.cost", "nas.sampling", "nas.supernet", "nas.spaces", "nas.fold"},
    {"nas.training", "nas.evaluation", "nas.search", "nas.latency", "nas.differentiable"} | {"nas.published_networks", "nas.torchrun"},
    {"nas.transfer", "nas.reports", "nas.profile", "nas.bundle", "nas.export", "nas.import_checkpoint"},
    {"nas.stages"},
    {"flows"},
)
FILES = sorted([*(ROOT / "nas").rglob("*.py"), *(ROOT / "flows").rglob("*.py")])


def name(path: Path) -> str:
    """nas/cost/flops.py -> nas.cost.flops, nas/cost/__init__.py -> nas.cost."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name(path): path for path in FILES}


@cache
def imports(module: str) -> frozenset[str]:
    """What a module imports anywhere in its text; modules of this project by their full name."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: relative imports are not followed here"
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES.keys()
            found |= inner or {node.module}
    return frozenset(found)


def layer(module: str) -> int:
    """The number of the layer that holds a module or the package it is in."""
    place = ".".join(module.split(".")[:2]) if module.startswith("nas.") else module.split(".")[0]
    numbers = [i for i, names in enumerate(LAYERS) if place in names]
    assert len(numbers) == 1, f"{module}: put {place} into one layer of {__file__}"
    return numbers[0]


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    """No module imports one of a layer above its own."""
    above = {found for found in imports(module) & MODULES.keys() if layer(found) > layer(module)}
    assert not above


def test_imports_make_no_circle():
    """Within a layer too there is an order."""
    order = list(TopologicalSorter({m: imports(m) & MODULES.keys() - {m} for m in MODULES}).static_order())
    assert order.index("nas.space") < order.index("nas.sampling.flops") < order.index("nas.stages.train")


def tops(modules: frozenset[str]) -> set[str]:
    return {m.split(".")[0] for m in modules}


def test_only_tracking_imports_mlflow():
    """Another record keeper would touch one file."""
    assert {m for m in MODULES if "mlflow" in tops(imports(m))} == {"nas.tracking"}


def test_only_flows_import_prefect():
    """The library runs without it."""
    assert {m.split(".")[0] for m in MODULES if "prefect" in tops(imports(m))} == {"flows"}


def test_flows_know_no_stage():
    """They call the dvc command: of the library they need where runs come from, nothing else."""
    used = {found for m in MODULES if m.startswith("flows") for found in imports(m) if found.split(".")[0] == "nas"}
    assert used <= {"nas", "nas.provenance"}


@pytest.mark.parametrize("package", ["nas.sampling", "nas.search"])
def test_sampling_and_search_name_neither_torch_nor_the_supernet(package):
    """Scores and costs are handed to them as functions, so the same evolution runs on a table."""
    found = set().union(*(imports(m) for m in MODULES if m.startswith(package)))
    assert "torch" not in tops(frozenset(found))
    assert not {m for m in found if m.startswith(("nas.supernet", "nas.training", "nas.evaluation"))}


LIGHT = ["nas", "nas.space", "nas.spaces", "nas.encoding", "nas.params", "nas.pareto", "nas.seeding", "nas.progress", "nas.tracking"]
LIGHT += [m for m in MODULES if m.startswith(("nas.cost", "nas.sampling", "nas.search"))]


def test_light_modules_load_nothing_heavy():
    """All of them in a fresh process: neither torch, nor the supernet, nor mlflow, nor prefect is loaded."""
    code = f"import sys, {', '.join(LIGHT)}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    assert set(LIGHT) <= set(loaded)
    assert not {"torch", "mlflow", "prefect", "nas.supernet.network", "nas.stages.common"} & set(loaded)

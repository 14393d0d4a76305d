"""Imports point one way: each module knows those below it, never those above."""

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = (  # from the bottom; a module of the library imports from its own package, from one beside it, or from below
    {"nas", "nas.runtime"},
    {"nas.spaces", "nas.evaluation.metrics"},
    {"nas.cost", "nas.data", "nas.tracking", "nas.models", "nas.sampling"},
    {"nas.training", "nas.evaluation", "nas.search", "nas.latency", "nas.differentiable"},
    {"nas.export", "nas.plots"},
    {"nas.stages"},
    {"flows"},
    {"studies"},
)
FILES = sorted(path for folder in ("nas", "flows", "studies") for path in (ROOT / folder).rglob("*.py"))


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
    numbers = {name: i for i, names in enumerate(LAYERS) for name in names}
    while module not in numbers:
        assert "." in module, f"{module} is in no layer of {__file__}"
        module = module.rpartition(".")[0]
    return numbers[module]


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    """No module imports one of a layer above its own."""
    above = {found for found in imports(module) & MODULES.keys() if layer(found) > layer(module)}
    assert not above


STAGES = {m for m, path in MODULES.items() if m.startswith(("nas.stages", "studies")) and 'if __name__ == "__main__"' in path.read_text()}


@pytest.mark.parametrize("module", MODULES)
def test_no_stage_is_imported(module):
    """What stages share is in the library, or in a module beside them that is not a stage."""
    assert {"nas.stages.train", "nas.stages.tf_nas.search", "studies.methods.oneshot"} <= STAGES
    assert not imports(module) & STAGES


def test_imports_make_no_circle():
    """Within a layer too there is an order."""
    order = list(TopologicalSorter({m: imports(m) & MODULES.keys() - {m} for m in MODULES}).static_order())
    assert order.index("nas.spaces.mbconv") < order.index("nas.sampling.exact") < order.index("nas.stages.train")


def tops(modules: frozenset[str]) -> set[str]:
    return {m.split(".")[0] for m in modules}


def test_only_tracking_imports_mlflow():
    """Another record keeper would touch one file."""
    users = {m for m in MODULES if "mlflow" in tops(imports(m))}
    assert users and all(m.startswith("nas.tracking.") for m in users)


def test_only_flows_import_prefect():
    """The library runs without it."""
    assert {m.split(".")[0] for m in MODULES if "prefect" in tops(imports(m))} == {"flows"}


def test_flows_know_no_stage():
    """They call the dvc command; of the library they use processes only."""
    used = {found for m in MODULES if m.startswith("flows") for found in imports(m) if found.split(".")[0] == "nas"}
    assert used <= {"nas", "nas.runtime.processes"}


@pytest.mark.parametrize("package", ["nas.sampling", "nas.search"])
def test_sampling_and_search_name_neither_torch_nor_the_supernet(package):
    """Scores and costs are handed to them as functions, so the same evolution runs on a table."""
    found = set().union(*(imports(m) for m in MODULES if m.startswith(package)))
    assert "torch" not in tops(frozenset(found))
    assert not {m for m in found if m.startswith(("nas.models", "nas.training", "nas.evaluation.evaluate"))}


LIGHT = [
    "nas",
    "nas.spaces.mbconv",
    "nas.spaces.published",
    "nas.spaces.encoding",
    "nas.runtime.params",
    "nas.evaluation.metrics",
    "nas.runtime.seeding",
    "nas.runtime.progress",
    "nas.tracking.session",
    "nas.tracking.provenance",
]
LIGHT += [m for m in MODULES if m.startswith(("nas.cost", "nas.sampling", "nas.search"))]


def test_light_modules_load_nothing_heavy():
    """All of them in a fresh process: neither torch, nor the supernet, nor mlflow, nor prefect is loaded."""
    code = f"import sys, {', '.join(LIGHT)}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    assert set(LIGHT) <= set(loaded)
    assert not {"torch", "mlflow", "prefect", "nas.models.supernet", "nas.stages.runner"} & set(loaded)

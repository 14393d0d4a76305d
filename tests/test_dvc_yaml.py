"""dvc.yaml: one name a stage, and every file and parameter that decides a stage's results among its dependencies.

Which code a stage needs is read off its text. All of the stage's own file counts. Of another file in
nas/stages and studies (runner.py, other stages) only the functions and classes that it names count, and what those
name in turn; a constant, such as another stage's output folder, makes no dependency. Every other module
of nas counts whole, with what it imports. Left out are modules that decide no result (`DECIDE_NOTHING`), and
`runner.stage`, `user_errors` and `check_all`, which only surround a stage: MLflow run, lock, errors.
"""

import ast
import importlib
from functools import cache
from pathlib import Path

import pytest
import yaml
from dvc_data.hashfile.meta import Meta

from nas.runtime.params import Section

ROOT = Path(__file__).parents[1]
DVC = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
# nas.runtime.io reads a file or refuses it. nas.runtime.distributed decides results: each process has batch-norm statistics of its own.
DECIDE_NOTHING = {
    "nas",
    "nas.runtime.io",
    "nas.runtime.processes",
    "nas.runtime.progress",
    "nas.runtime.torchrun",
    "nas.tracking.delivery",
    "nas.tracking.outbox",
    "nas.tracking.provenance",
    "nas.tracking.runs",
    "nas.tracking.session",
    "nas.tracking.store",
}
SURROUND = {("nas.stages.runner", "stage"), ("nas.stages.errors", "user_errors"), ("nas.stages.check", "check_all")}
PROCESSES = {"launcher.processes", "launcher.nodes"}  # each has batch norm of its own in training; a search is the same on any number
SHARED = ("recipe", "runtime", "evaluation")  # what runner.shared() returns, in this order


def path(module: str) -> Path | None:
    """Its file below the project's root."""
    place = Path(*module.split("."))
    return next((p for p in (place.with_suffix(".py"), place / "__init__.py") if (ROOT / p).is_file()), None)


@cache
def tree(module: str) -> ast.Module:
    return ast.parse((ROOT / path(module)).read_text())


def names(node: ast.AST) -> dict[str, str]:
    """What each imported name below a node stands for: `nas.data.loader` or `nas.runtime.checkpoint.save_weights`."""
    found = {}
    for n in ast.walk(node):
        if isinstance(n, ast.Import):
            found |= {alias.asname or alias.name: alias.name for alias in n.names}
        elif isinstance(n, ast.ImportFrom):
            found |= {alias.asname or alias.name: f"{n.module}.{alias.name}" for alias in n.names}
    return {k: v for k, v in found.items() if v.split(".")[0] in ("nas", "studies")}


def split(full: str) -> tuple[str, str | None]:
    """`nas.runtime.checkpoint.save_weights` -> (nas.runtime.checkpoint, save_weights); a module -> (module, None)."""
    if path(full):
        return full, None
    module, _, name = full.rpartition(".")
    return module, name


class Needed:
    """Modules whose code a stage runs, collected from its file."""

    def __init__(self, stage: str) -> None:
        self.modules: set[str] = set()
        self._seen: set[tuple[str, str | None]] = set()
        self.whole(stage)

    def whole(self, module: str) -> None:
        if (module, None) in self._seen or module in DECIDE_NOTHING:
            return
        self._seen.add((module, None))
        self.modules.add(module)
        self.follow(tree(module), names(tree(module)))

    def named(self, module: str, name: str) -> None:
        """A function or class of a file in nas/stages."""
        if (module, name) in self._seen | SURROUND:
            return
        self._seen.add((module, name))
        known = names(tree(module))
        if name in known:  # common.Runtime, which it has imported itself
            self.reach(known[name])
            return
        defined = [n for n in tree(module).body if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name == name]
        if defined:
            self.modules.add(module)
            self.follow(defined[0], known)
            own = {n.id for n in ast.walk(defined[0]) if isinstance(n, ast.Name)}
            for other in own & {n.name for n in tree(module).body if isinstance(n, ast.FunctionDef | ast.ClassDef)} - {name}:
                self.named(module, other)

    def follow(self, node: ast.AST, known: dict[str, str]) -> None:
        """Everything of nas that the text below a node names."""
        for n in ast.walk(node):
            if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id in known:
                self.reach(f"{known[n.value.id]}.{n.attr}")
            elif isinstance(n, ast.Name) and n.id in known:
                self.reach(known[n.id])

    def reach(self, full: str) -> None:
        while not path(split(full)[0]):  # a class's attribute
            full = full.rpartition(".")[0]
        module, name = split(full)
        if not module.startswith(("nas.stages", "studies")):
            self.whole(module)
        elif name:
            self.named(module, name)


def covered(file: Path, deps: list[str]) -> bool:
    return any(Path(dep) == file or Path(dep) in file.parents for dep in deps)


def paths(entries: list) -> list[str]:
    """Of outputs with or without settings."""
    return [next(iter(e)) if isinstance(e, dict) else e for e in entries]


def outputs(stage: str) -> list[str]:
    return [p for kind in ("outs", "metrics", "plots") for p in paths(DVC[stage].get(kind, []))]


@pytest.mark.parametrize("stage", DVC)
def test_every_module_that_decides_results_is_a_dependency(stage):
    """By the rule above."""
    needed = {module: path(module) for module in Needed(f"nas.stages.{stage}").modules}
    missing = {module for module, file in needed.items() if not covered(file, DVC[stage]["deps"])}
    assert not missing


@pytest.mark.parametrize(
    ("stage", "included", "excluded"),
    [
        ("train", {"nas.sampling.attentive", "nas.models.layers", "nas.sampling.exact", "nas.stages.runner"}, {"nas.stages.split"}),
        (
            "fit_predictor",
            {"nas.search.predictor", "nas.spaces.mbconv", "nas.runtime.seeding"},
            {"nas.models.supernet", "nas.training.trainer"},
        ),
        ("transfer", {"nas.stages.search", "nas.models.extract", "nas.training.recipe"}, {"nas.search.evolution"}),
        (
            "export",
            {"nas.export.bundle", "nas.export.onnx", "nas.models.fuse", "nas.data.sources"},
            {"nas.search.evolution", "nas.stages.search"},
        ),
        ("split", {"nas.data.embedded", "nas.data.splits"}, {"nas.stages.runner", "nas.data.loader"}),
    ],
)
def test_the_rule_finds_what_is_known(stage, included, excluded):
    """The collection itself, against some dependencies known from reading the stages."""
    found = Needed(f"nas.stages.{stage}").modules
    assert included <= found and not excluded & found


def test_no_dependency_is_gone():
    """Each code dependency and search-space placeholder leads to something that exists."""
    for stage in DVC.values():
        for dep in stage["deps"]:
            if dep.startswith("${"):
                value = PARAMS
                for key in dep[2:-1].split("."):
                    value = value[key]
                assert value.startswith("outputs/") or (ROOT / value).exists(), dep
            elif not dep.startswith("outputs/"):
                assert (ROOT / dep).exists(), dep


@pytest.mark.parametrize("stage", DVC)
def test_stage_file_section_and_folder_share_a_name(stage):
    """nas/stages/<stage>.py, `python -m` of it, section <stage>, and everything written below outputs/<stage>."""
    assert (ROOT / "nas" / "stages" / f"{stage}.py").is_file()
    assert DVC[stage]["cmd"] == f"python -m nas.stages.{stage}"
    assert stage in PARAMS and stage in DVC[stage]["params"]
    assert outputs(stage) and all(Path(p).parts[:2] == ("outputs", stage) for p in outputs(stage))


def test_every_stage_file_is_in_dvc_yaml():
    """A file to be run that DVC does not know would never run."""
    files = {p.stem for p in (ROOT / "nas" / "stages").glob("*.py") if "__main__" in p.read_text()}
    assert files == set(DVC)


@pytest.mark.parametrize("stage", DVC)
def test_metrics_are_kept_in_git_and_outputs_listed_one_by_one(stage):
    """metrics.json is cache: false; no output is the folder itself or lies in another."""
    assert DVC[stage]["metrics"] == [{f"outputs/{stage}/metrics.json": {"cache": False}}]
    found = [Path(p) for p in outputs(stage)]
    assert len(set(found)) == len(found)
    assert not [p for p in found if len(p.parts) < 3 or set(p.parents) & set(found)]


def test_what_a_stage_depends_on_is_made_by_another():
    """Every outputs/... among the dependencies is some other stage's output."""
    made = {p: stage for stage in DVC for p in outputs(stage)}
    for stage, entry in DVC.items():
        for dep in entry["deps"]:
            if dep.startswith("outputs/"):
                assert made[dep] != stage


def keys(found: object) -> set[str]:
    """Of all mappings within a mapping or list."""
    inner = found.values() if isinstance(found, dict) else found if isinstance(found, list) else ()
    return set(found if isinstance(found, dict) else ()).union(*map(keys, inner))


@pytest.mark.parametrize("file", ["params.yaml", *(f"presets/{p.name}" for p in (ROOT / "presets").glob("*.yaml"))])
def test_no_parameter_has_a_name_that_the_run_cache_passes_over(file):
    """DVC leaves `size` and `nfiles` out of its run cache's key, of parameters too: a changed one would bring back stale outputs."""
    assert not keys(yaml.safe_load((ROOT / file).read_text())) & {Meta.PARAM_SIZE, Meta.PARAM_NFILES}


def read_sections(stage: str) -> set[str]:
    """Sections that a stage's file reads, and those of runner.shared() that it gives a name."""
    module, found = tree(f"nas.stages.{stage}"), set()
    for n in ast.walk(module):
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute) and isinstance(n.func.value, ast.Name):
            call = (n.func.value.id, n.func.attr)
            if call in (("params", "read"), ("params", "value")):
                key, *model = (ast.unparse(a) for a in n.args)
                found |= {ast.literal_eval(key)} if not model else part(stage, ast.literal_eval(key), model[0])
            found |= {("runner", "seed"): {"seed"}, ("runner", "search_space"): {"space"}}.get(call, set())
        if isinstance(n, ast.Assign) and ast.unparse(n.value) == "runner.shared()":
            found |= {section for section, target in zip(SHARED, n.targets[0].elts, strict=True) if target.id != "_"}
    return found


def part(stage: str, section: str, model: str) -> set[str]:
    """The section, or only the keys that a model takes from it."""
    kind = getattr(importlib.import_module(f"nas.stages.{stage}"), model)
    assert issubclass(kind, Section)
    whole = kind.model_config["extra"] == "forbid"
    return {section} if whole else {f"{section}.{key}" for key in kind.model_fields}


@pytest.mark.parametrize("stage", DVC)
def test_params_are_the_sections_that_the_stage_reads(stage):
    """None is missing, which would leave results stale, and none is too many, which would run the stage for nothing."""
    assert set(DVC[stage]["params"]) == read_sections(stage) | (PROCESSES if stage in ("pretrain", "train") else set())

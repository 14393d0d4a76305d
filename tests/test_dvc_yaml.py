"""dvc.yaml: one name per stage, and every file and parameter that decides a stage's results among its dependencies.

Which code a stage needs is read off its text. All of the stage's own file counts. Of another file in nas/stages and studies
(runner.py, supernet_search.py) only the functions and classes that it names count, and what those name in turn; a constant, such as
a path, makes no dependency. Every other module of nas counts whole, with what it imports. Left out are modules that decide no
result (`DECIDE_NOTHING`), and of `DECLARATIONS`, which declare the keys of params.yaml, the file itself, though not what its
functions name. `runner.stage` and `runner.execute` surround a stage (MLflow run, checkpoint, errors): their file counts, what
they import does not.
"""

import ast
import importlib
import operator
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
DECLARATIONS = {"nas.stages.config"}  # a test below shows that no edit of it changes a result
SURROUND = {("nas.stages.runner", "stage"), ("nas.stages.runner", "execute")}
CHECKS = {("nas.stages.config", "check_all")}  # refuses wrong parameters of any stage
PROCESSES = {"launcher.processes", "launcher.nodes"}  # each has batch norm of its own in training; a search is the same on any number
SHARED = ("recipe", "runtime", "evaluation")  # what config.shared() returns, in this order


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
        self.read: set[str] = set()  # stages whose output folder it names
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
        if (module, name) in self._seen | CHECKS:
            return
        self._seen.add((module, name))
        if (module, name) in SURROUND:
            self.modules.add(module)
            return
        known = names(tree(module))
        if name in known:  # common.Runtime, which it has imported itself
            self.reach(known[name])
            return
        defined = [n for n in tree(module).body if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name == name]
        if defined:
            self.modules |= {module} - DECLARATIONS
            self.follow(defined[0], known)
            own = {n.id for n in ast.walk(defined[0]) if isinstance(n, ast.Name)}
            for other in own & {n.name for n in tree(module).body if isinstance(n, ast.FunctionDef | ast.ClassDef)} - {name}:
                self.named(module, other)

    def follow(self, node: ast.AST, known: dict[str, str]) -> None:
        """Everything of nas that the text below a node names, and the stages of `runner.out("stage")`."""
        for n in ast.walk(node):
            if isinstance(n, ast.Call) and ast.unparse(n.func) in ("runner.out", "out") and isinstance(n.args[0], ast.Constant):
                self.read.add(n.args[0].value)
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
        ("search", {"nas.stages.supernet_search", "nas.search.setup", "nas.search.nsga2"}, {"nas.stages.train", "nas.training.trainer"}),
        ("transfer", {"nas.training.transfer", "nas.models.extract", "nas.training.recipe"}, {"nas.search.evolution", "nas.stages.search"}),
        (
            "export",
            {"nas.export.bundle", "nas.export.onnx", "nas.models.fuse", "nas.data.sources"},
            {"nas.search.evolution", "nas.stages.search"},
        ),
        ("split", {"nas.data.embedded", "nas.data.splits", "nas.stages.runner"}, {"nas.data.loader", "nas.training.trainer"}),
    ],
)
def test_the_rule_finds_what_is_known(stage, included, excluded):
    """The collection itself, against some dependencies known from reading the stages."""
    found = Needed(f"nas.stages.{stage}").modules
    assert included <= found and not excluded & found


@pytest.mark.parametrize("stage", DVC)
def test_outputs_that_a_stage_reads_are_dependencies(stage):
    """Each folder that its code names by `runner.out` holds a dependency, or is its own."""
    deps = [Path(dep) for dep in DVC[stage]["deps"]]
    assert not {
        name for name in Needed(f"nas.stages.{stage}").read - {stage} if Path("outputs", name) not in {p for d in deps for p in d.parents}
    }


def test_declarations_decide_nothing():
    """Their classes have no default but None and no method but validators, so that any other value is in params.yaml."""
    for module in DECLARATIONS:
        for node in (n for n in tree(module).body if isinstance(n, ast.ClassDef)):
            kind = getattr(importlib.import_module(module), node.name)
            assert issubclass(kind, Section)
            assert all(field.is_required() or field.default is None for field in kind.model_fields.values())
            methods = [n for n in node.body if isinstance(n, ast.FunctionDef)]
            assert all("validator" in ast.unparse(m.decorator_list[0]) for m in methods)
        functions = {n.name for n in tree(module).body if isinstance(n, ast.FunctionDef)}
        assert functions == {"search_space", "shared", "check_all"}


def test_what_runs_on_several_processes_decides_results():
    """Each process has batch-norm statistics of its own, so their number counts in training."""
    assert "nas.runtime.distributed" not in DECIDE_NOTHING
    for stage in ("pretrain", "train"):
        assert "nas.runtime.distributed" in Needed(f"nas.stages.{stage}").modules and set(DVC[stage]["params"]) >= PROCESSES


@pytest.mark.parametrize("file", ["dvc.yaml", "pipelines/tf_nas/dvc.yaml", "pipelines/hardcore_nas/dvc.yaml"])
def test_no_pipeline_of_the_product_depends_on_studies(file):
    """Evidence depends on the product, never the other way round."""
    assert not [dep for entry in yaml.safe_load((ROOT / file).read_text())["stages"].values() for dep in entry["deps"] if "studies" in dep]


@pytest.mark.parametrize("file", sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("**/dvc.yaml") if ".checkpoints" not in p.parts))
def test_the_run_cache_takes_every_stage(file):
    """DVC's run cache skips a stage with an output that is neither cached nor a metric or plot."""
    outs = [out for entry in yaml.safe_load((ROOT / file).read_text())["stages"].values() for out in entry.get("outs", [])]
    assert not [out for out in outs if isinstance(out, dict) and next(iter(out.values())).get("cache") is False]


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
    """Sections that a stage's file reads, and those of config.shared() that it gives a name."""
    module, found = tree(f"nas.stages.{stage}"), set()
    for n in ast.walk(module):
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute) and isinstance(n.func.value, ast.Name):
            call = (n.func.value.id, n.func.attr)
            if call in (("params", "read"), ("params", "value")):
                key, *model = (ast.unparse(a) for a in n.args)
                found |= {ast.literal_eval(key)} if not model else part(stage, ast.literal_eval(key), model[0])
            found |= {("params", "seed"): {"seed"}, ("config", "search_space"): {"space"}}.get(call, set())
        if isinstance(n, ast.Assign) and ast.unparse(n.value) == "config.shared()":
            found |= {section for section, target in zip(SHARED, n.targets[0].elts, strict=True) if target.id != "_"}
    return found


def part(stage: str, section: str, model: str) -> set[str]:
    """The section, or only the keys that a model takes from it."""
    kind = operator.attrgetter(model)(importlib.import_module(f"nas.stages.{stage}"))
    assert issubclass(kind, Section)
    whole = kind.model_config["extra"] == "forbid"
    return {section} if whole else {f"{section}.{key}" for key in kind.model_fields}


@pytest.mark.parametrize("stage", DVC)
def test_params_are_the_sections_that_the_stage_reads(stage):
    """None is missing, which would leave results stale, and none is too many, which would run the stage for nothing."""
    assert set(DVC[stage]["params"]) == read_sections(stage) | (PROCESSES if stage in ("pretrain", "train") else set())

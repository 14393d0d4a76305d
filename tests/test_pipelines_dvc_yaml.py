"""pipelines/*/dvc.yaml: what `test_dvc_yaml` checks of the main one, for pipelines whose stages are matrices or build on each other.

Matrices are expanded here, without DVC: a stage is once there for each combination. Sections of a pipeline's params.yaml are
fields of the object that its `config.read` returns; which of them a stage reads is seen from the text of its functions.
"""

import ast
import dataclasses
import importlib
import itertools
import re
import subprocess
from pathlib import Path
from typing import get_type_hints

import pytest
import yaml
from dvc_data.hashfile.meta import Meta

from nas.runtime.params import Section
from tests.test_dvc_yaml import DVC, ROOT, Needed, covered, keys, path, paths
from tests.test_dvc_yaml import outputs as main_outputs

FOLDERS = {
    p.parent.name: p.parent.relative_to(ROOT) for parent in ("pipelines", "studies") for p in sorted((ROOT / parent).glob("*/dvc.yaml"))
}
PIPELINES = list(FOLDERS)
KINDS = ("outs", "metrics", "plots")
FOUND = {p: yaml.safe_load((ROOT / FOLDERS[p] / "dvc.yaml").read_text()) for p in PIPELINES}
PARAMS = {p: yaml.safe_load((ROOT / FOLDERS[p] / "params.yaml").read_text()) for p in PIPELINES}
STAGES = [(p, stage) for p in PIPELINES for stage in FOUND[p]["stages"]]
every_pipeline = pytest.mark.parametrize("pipeline", PIPELINES)
every_stage = pytest.mark.parametrize(("pipeline", "stage"), STAGES)


def package(pipeline: str) -> str:
    """Where its stages are: nas.stages.tf_nas, studies.methods."""
    return f"studies.{pipeline}" if FOLDERS[pipeline].parts[0] == "studies" else f"nas.stages.{pipeline}"


def value(found: dict, key: str) -> object:
    """Of `a.b` in nested mappings."""
    for part in key.split("."):
        found = found[part]
    return found


def filled(entry: object, known: dict) -> object:
    """The entry with every ${a.b} in its texts, keys too, replaced."""
    if isinstance(entry, dict):
        return {filled(k, known): filled(v, known) for k, v in entry.items()}
    if isinstance(entry, list):
        return [filled(e, known) for e in entry]
    if not isinstance(entry, str):
        return entry
    return re.sub(r"\$\{([^}]*)\}", lambda m: str(value(known, m[1])), entry)


def known(pipeline: str) -> dict:
    """What ${...} may name: the params.yaml beside the file, and what `vars` takes from others."""
    found = {}
    for entry in FOUND[pipeline].get("vars", []):
        file, _, names = entry.partition(":")
        other = yaml.safe_load((ROOT / FOLDERS[pipeline] / file).read_text())
        found |= {name: other[name] for name in names.split(",")}
    return found | PARAMS[pipeline]


def expanded(pipeline: str) -> dict[str, dict]:
    """Every stage that DVC runs by its address within the file, e.g. `train@uniform-0`."""
    found = {}
    for stage, entry in FOUND[pipeline]["stages"].items():
        matrix = {key: value(PARAMS[pipeline], values[2:-1]) for key, values in entry.get("matrix", {}).items()}
        for chosen in itertools.product(*matrix.values()):
            name = stage + ("@" + "-".join(map(str, chosen)) if matrix else "")
            found[name] = filled(entry, known(pipeline) | {"item": dict(zip(matrix, chosen))})
    return found


def outputs(entry: dict, *kinds: str) -> list[str]:
    return [p for kind in kinds or KINDS for p in paths(entry.get(kind, []))]


def cached(entry: dict) -> dict[str, bool]:
    """Whether DVC keeps each output, rather than git."""
    entries = [e for kind in KINDS for e in entry.get(kind, [])]
    return {p: not isinstance(e, dict) or e[p].get("cache", True) for p, e in zip(paths(entries), entries, strict=True)}


class Reads(Needed):
    """Keys of a pipeline's params.yaml that a stage reads, with the modules whose code it runs."""

    def __init__(self, pipeline: str, stage: str) -> None:
        self.keys: set[str] = set()
        self._settings = get_type_hints(importlib.import_module(f"{package(pipeline)}.config").read)["return"]
        super().__init__(f"{package(pipeline)}.{stage}")

    def follow(self, node: ast.AST, known: dict[str, str]) -> None:
        super().follow(node, known)
        for function in (n for n in ast.walk(node) if isinstance(n, ast.FunctionDef)):
            everything = list(ast.walk(function))
            given = {n.arg for n in everything if isinstance(n, ast.arg) and n.annotation and self._named(n.annotation)}
            made = [n for n in everything if isinstance(n, ast.Assign) and ast.unparse(n.value) == "config.read()"]
            self.keys |= self.fields(everything, given | {ast.unparse(t) for n in made for t in n.targets})
            self.keys |= {n.attr for n in everything if isinstance(n, ast.Attribute) and ast.unparse(n.value) == "config.read()"}

    def _named(self, annotation: ast.AST) -> bool:
        """Whether an argument is the object that `config.read` returns."""
        return ast.unparse(annotation).strip("'\"").split(".")[-1] == self._settings.__name__

    def fields(self, nodes: list[ast.AST], names: set[str]) -> set[str]:
        """`s.train.epochs` -> train.epochs, `s.train` and `s.train.method()` -> train, for each s among the names."""
        kinds = {field.name: field.type for field in dataclasses.fields(self._settings)}
        found = {}
        for n in nodes:
            if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id in names and n.attr in kinds:
                found.setdefault(id(n), n.attr)
            inner = getattr(n, "value", None)
            if isinstance(n, ast.Attribute) and isinstance(inner, ast.Attribute) and isinstance(inner.value, ast.Name):
                kind = kinds.get(inner.attr)
                if inner.value.id in names and isinstance(kind, type) and issubclass(kind, Section) and n.attr in kind.model_fields:
                    found[id(inner)] = f"{inner.attr}.{n.attr}"
        return set(found.values())


def listed(pipeline: str, stage: str) -> dict[str, list[str]]:
    """The parameters that dvc.yaml names for a stage, by their file: the one beside it, or one of a pipeline that it builds on."""
    files: dict[str, list[str]] = {}
    for entry in FOUND[pipeline]["stages"][stage]["params"]:
        for file, found in entry.items() if isinstance(entry, dict) else [("params.yaml", [entry])]:
            files.setdefault(file, []).extend(re.sub(r"\.\$\{item\..*", "", key) for key in found)  # of `losses.${item.x}` losses
    return files


def own(pipeline: str, stage: str) -> tuple[set[str], list[str]]:
    """Keys of the pipeline's own params.yaml: those that the stage reads, and those that dvc.yaml names."""
    read = {key for key in Reads(pipeline, stage).keys if key.split(".")[0] in PARAMS[pipeline]}
    return read, listed(pipeline, stage).get(f"{FOLDERS[pipeline]}/params.yaml", [])


def within(key: str, whole: str) -> bool:
    return key == whole or key.startswith(f"{whole}.")


@every_stage
def test_every_module_that_decides_results_is_a_dependency(pipeline, stage):
    """By the rule of `test_dvc_yaml`."""
    needed = {module: path(module) for module in Needed(f"{package(pipeline)}.{stage}").modules}
    deps = FOUND[pipeline]["stages"][stage]["deps"]
    assert not {module for module, file in needed.items() if not covered(file, deps)}


@pytest.mark.parametrize(
    ("stage", "included", "excluded"),
    [
        (
            "pretrain",
            {"nas.evaluation.measure", "nas.search.predictor", "nas.training.trainer"},
            {"studies.strategies.train", "nas.training.finetune", "nas.stages.pretrain"},
        ),
        ("wide", {"studies.strategies.training", "nas.search.evolution"}, {"nas.training.finetune", "nas.stages.split"}),
        ("distill", {"studies.strategies.training", "nas.training.losses"}, {"nas.training.finetune", "nas.search.bayesian"}),
        ("scratch", {"nas.training.finetune", "nas.models.extract"}, {"studies.strategies.claims", "nas.stages.pretrain"}),
        (
            "report",
            {"studies.strategies.claims", "nas.sampling.factorised", "nas.spaces"},
            {"nas.training.finetune", "studies.strategies.train"},
        ),
    ],
)
def test_the_rule_finds_what_is_known(stage, included, excluded):
    """The collection itself, against some dependencies of the comparison known from reading its stages."""
    found = Needed(f"studies.strategies.{stage}").modules
    assert included <= found and not excluded & found


@every_stage
def test_params_are_those_that_the_stage_reads(pipeline, stage):
    """None is missing, which would leave results stale, and none is too many, which would run the stage for nothing."""
    read, found = own(pipeline, stage)
    assert not {key for key in read if not any(within(key, whole) for whole in found)}
    assert not {whole for whole in found if not any(within(key, whole) or within(whole, key) for key in read)}


@pytest.mark.parametrize(
    ("stage", "included", "excluded"),
    [
        ("continued", {"space", "recipe", "runtime", "recipe.zero_init", "evaluation", "continued.epochs"}, {"pretrain", "train"}),
        ("wide", {"wide_space", "train", "measure", "recipe.zero_init"}, {"space", "seeds"}),
        ("distill", {"losses", "space", "train", "measure"}, {"distillations", "strategies", "seeds"}),
        ("scratch", {"space", "train.epochs", "scratch.strategy", "scratch.models"}, {"measure", "strategies"}),
        ("report", {"strategies", "seeds", "recipe.sampled", "measure.buckets", "report"}, {"scratch", "runtime"}),
    ],
)
def test_the_keys_found_are_those_known(stage, included, excluded):
    """The collection itself: some keys of the comparison known from reading its stages."""
    found = Reads("strategies", stage).keys
    assert included <= found and not {key for key in found for wrong in excluded if within(key, wrong)}


@every_stage
def test_search_spaces_are_dependencies(pipeline, stage):
    """A space is read from the file that its parameter names, so that file counts, not its name alone."""
    named = {f"${{{key}}}" for key in own(pipeline, stage)[0] if key.endswith("space")}
    assert named <= set(FOUND[pipeline]["stages"][stage]["deps"])


@every_pipeline
def test_params_and_placeholders_exist(pipeline):
    """Each key that dvc.yaml names is in params.yaml, and each dependency that no stage makes is a file or folder."""
    for stage in FOUND[pipeline]["stages"]:
        assert listed(pipeline, stage)
    for entry in expanded(pipeline).values():
        for file, names in ((f, n) for params in entry["params"] if isinstance(params, dict) for f, n in params.items()):
            for key in names:
                value(yaml.safe_load((ROOT / file).read_text()), key)
    code = {dep for entry in expanded(pipeline).values() for dep in entry["deps"] if "outputs" not in Path(dep).parts}
    assert code and not {dep for dep in code if not (ROOT / dep).exists()}


@every_pipeline
def test_no_parameter_has_a_name_that_the_run_cache_passes_over(pipeline):
    """DVC leaves `size` and `nfiles` out of its run cache's key: a changed one would bring back stale outputs."""
    assert not keys(PARAMS[pipeline]) & {Meta.PARAM_SIZE, Meta.PARAM_NFILES}


@every_stage
def test_stage_file_command_and_folder_share_a_name(pipeline, stage):
    """nas/stages/<pipeline>/<stage>.py, `python -m` of it with the matrix's values in order, from the project's root."""
    entry = FOUND[pipeline]["stages"][stage]
    assert (ROOT / package(pipeline).replace(".", "/") / f"{stage}.py").is_file()
    words = [f"python -m {package(pipeline)}.{stage}", *(f"${{item.{key}}}" for key in entry.get("matrix", {}))]
    assert entry["cmd"] == " ".join(words) and entry["wdir"] == "../.."
    folder = "-".join(f"${{item.{key}}}" for key in entry.get("matrix", {}))
    found = [p for p in outputs(entry) if p.split("/")[0] != "docs" and p != f"{FOLDERS[pipeline]}/outputs/summary.json"]
    assert found and {Path(p).parent for p in found} == {Path(FOLDERS[pipeline], "outputs", stage, folder)}


@every_pipeline
def test_every_stage_file_is_in_dvc_yaml(pipeline):
    """A file to be run that DVC does not know would never run."""
    files = {p.stem for p in (ROOT / package(pipeline).replace(".", "/")).glob("*.py") if "__main__" in p.read_text()}
    assert files == set(FOUND[pipeline]["stages"])


@every_pipeline
def test_no_file_is_an_output_twice(pipeline):
    """Of all stages of the project together, and none lies in another."""
    others = [p for other in PIPELINES for entry in expanded(other).values() for p in outputs(entry)]
    found = [Path(p) for p in [*others, *(p for stage in DVC for p in main_outputs(stage))]]
    assert len(set(found)) == len(found) and not [p for p in found if set(p.parents) & set(found)]


@every_pipeline
def test_what_a_stage_depends_on_is_made_by_another(pipeline):
    """Every ...outputs/... among the dependencies is an output of another stage of any pipeline, or holds some."""
    others = [other for other in PIPELINES if other != pipeline]
    made = {Path(p): f"{other}:{name}" for other in others for name, entry in expanded(other).items() for p in outputs(entry)}
    made |= {Path(p): name for name, entry in expanded(pipeline).items() for p in outputs(entry)}
    made |= {Path(p): f"dvc.yaml:{stage}" for stage in DVC for p in main_outputs(stage)}
    for name, entry in expanded(pipeline).items():
        for dep in (Path(d) for d in entry["deps"] if "outputs" in Path(d).parts):
            makers = {maker for p, maker in made.items() if dep == p or dep in p.parents}
            assert makers and name not in makers, (name, dep)


@every_pipeline
def test_git_keeps_what_dvc_does_not(pipeline):
    """Metrics and plots are cache: false; git ignores exactly the outputs that DVC caches."""
    found = {p: kept for entry in expanded(pipeline).values() for p, kept in cached(entry).items()}
    assert not [p for entry in expanded(pipeline).values() for p in outputs(entry, "metrics", "plots") if found[p]]
    command = ["git", "check-ignore", "--no-index", "--stdin"]
    done = subprocess.run(command, cwd=ROOT, input="\n".join(found), capture_output=True, text=True, check=False)
    assert set(done.stdout.splitlines()) == {p for p, kept in found.items() if kept}


@every_pipeline
def test_what_is_plotted_is_an_output(pipeline):
    """Files of the plots that are defined for the whole pipeline, by paths from dvc.yaml's folder."""
    made = {p for entry in expanded(pipeline).values() for p in outputs(entry)}
    drawn = {f"{FOLDERS[pipeline]}/{file}" for plot in FOUND[pipeline].get("plots", []) for d in plot.values() for file in d["y"]}
    assert drawn <= made

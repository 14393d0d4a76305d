"""Where a stage's run comes from: its DVC fingerprint, the git commit, and the stages that DVC need not run.

DVC decides by (cmd, hashes of deps, params) whether a stage has to run. A fingerprint is the sha256 of the same three, known
before the stage runs. Nothing here needs DVC's locks, so it works inside `dvc repro` as well as by hand; unchanged files are not
read again (DVC's state cache knows them by inode, size and time).
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from nas.runtime.io import read_json
from nas.runtime.processes import git, require_git, workspace


@dataclass(frozen=True)
class Origin:
    """What a stage is run from."""

    fingerprint: str  # sha256 over command, dependencies and parameters, hexadecimal
    inputs: dict[str, str]  # path -> md5 of each dependency, as DVC computes it (a folder's ends in .dir)
    description: str  # `desc` in dvc.yaml


@dataclass(frozen=True)
class Result:
    """A stage whose outputs belong to its present command, dependencies and parameters."""

    name: str
    description: str
    parameters: dict[str, Any]
    metrics: dict[str, float]  # of outputs/<name>/metrics.json


def origin(stage: str) -> Origin:
    """Of a stage as it is now.

    Args:
        stage: a DVC address, `train` or `other/dvc.yaml:train`.

    Raises:
        RuntimeError: outside git or DVC, or if a dependency or parameter is missing.
        ValueError: if dvc.yaml has no such stage.
    """
    from dvc.dependency import ParamsDependency
    from dvc.exceptions import DvcException

    loaded = _load(stage)
    try:
        values = {d.def_path: d.get_hash().value for d in loaded.params}
        inputs = {d.def_path: d.get_hash().value for d in loaded.deps if not isinstance(d, ParamsDependency)}
    except (DvcException, FileNotFoundError) as error:
        raise RuntimeError(f"stage {stage!r}: a dependency or parameter is missing: {error}; run the stages before it") from None
    text = json.dumps([loaded.cmd, inputs, values], sort_keys=True)
    return Origin(hashlib.sha256(text.encode()).hexdigest(), inputs, loaded.desc or "")


def fingerprint(stage: str) -> str:
    """`origin(stage).fingerprint`."""
    return origin(stage).fingerprint


def inputs(stage: str) -> dict[str, str]:
    """`origin(stage).inputs`."""
    return origin(stage).inputs


def up_to_date(stage: str) -> list[Result]:
    """The other stages of the same dvc.yaml that are up to date once this one has finished. Stages of a matrix are left out.

    Raises:
        RuntimeError: outside git or DVC.
        ValueError: if dvc.yaml has no such stage.
    """
    from dvc.dependency import ParamsDependency
    from dvc.exceptions import DvcException

    running = _load(stage)
    stages = {s.name: s for s in running.repo.stage.load_all(running.dvcfile.path) if "@" not in s.name}
    outputs = [(out.fs_path, s.name) for s in stages.values() for out in s.outs]
    hashes = {}  # by path; several stages depend on the same images

    def unchanged(dependency) -> bool:
        key = id(dependency) if isinstance(dependency, ParamsDependency) else dependency.fs_path
        if key not in hashes:
            hashes[key] = dependency.get_hash()
        return dependency.hash_info == hashes[key]

    @cache
    def current(name: str) -> bool:
        if name == running.name:
            return True
        candidate = stages[name]
        before = {writer for d in candidate.deps for path, writer in outputs if f"{d.fs_path}/".startswith(f"{path}/")}
        try:
            ran = not candidate.cmd_changed and all(out.hash_info for out in candidate.outs)
            return ran and all(current(writer) for writer in before) and all(unchanged(d) for d in candidate.deps)
        except (DvcException, OSError):  # something is missing
            return False

    return [_result(stages[name]) for name in stages if name != running.name and current(name)]


def _result(stage) -> Result:
    """From dvc.lock and the file of metrics."""
    values = {key: value for d in stage.params for key, value in (d.hash_info.value or {}).items()}
    files = [Path(out.fs_path) for out in stage.outs if out.fs_path.endswith(f"/{stage.name}/metrics.json")]
    metrics = {key: value for file in files if file.is_file() for key, value in read_json(file).items() if isinstance(value, int | float)}
    return Result(stage.name, stage.desc or "", values, metrics)


def git_state() -> tuple[str | None, bool]:
    """(commit, dirty); (None, False) without git, (None, True) before the first commit.

    dvc.lock and what stages write don't make a tree dirty: every finished stage of a running pipeline changes them.
    """
    written = ("**/dvc.lock", "outputs/**", "pipelines/*/outputs/**", "studies/*/outputs/**", "docs/**")
    status = git("status", "--porcelain", "--", ":/", *(f":(top,exclude,glob){place}" for place in written))
    if status is None:
        return None, False
    return git("rev-parse", "--verify", "--quiet", "HEAD"), bool(status)


def _load(stage: str):
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    root = workspace()
    require_git(root)
    try:
        file, _, name = stage.rpartition(":")
        return Repo(root).stage.load_one(str(root / (file or "dvc.yaml")), name)
    except DvcException as error:
        raise ValueError(f"no stage {stage!r} in {root}: {error}") from None

"""Where a stage's run comes from: its DVC fingerprint and the git commit.

DVC decides by (cmd, hashes of deps, params) whether a stage has to run. `fingerprint` is the sha256 of
the same three, known before the stage runs; dvc.lock holds them afterwards.
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
class Result:
    """A stage whose outputs belong to its present command, dependencies and parameters."""

    name: str
    description: str  # `desc` in dvc.yaml
    parameters: dict[str, Any]  # of params.yaml, dotted keys or sections
    metrics: dict[str, float]  # of outputs/<name>/metrics.json


def up_to_date(stage: str) -> list[Result]:
    """The stages beside this one in its dvc.yaml that DVC would not run, once this one has written its outputs.

    Stages of a matrix are left out. It needs none of DVC's locks, see `fingerprint`.

    Raises:
        RuntimeError: outside git or DVC.
        ValueError: if dvc.yaml has no such stage.
    """
    running = _load(stage)
    stages = [s for s in running.repo.stage.load_all(running.dvcfile.path) if "@" not in s.name]
    writer = {out.fs_path: s for s in stages for out in s.outs}

    @cache
    def current(name: str) -> bool:
        found = next(s for s in stages if s.name == name)
        before = {writer[d.fs_path].name for d in found.deps if d.fs_path in writer}
        return found.name == running.name or (_unchanged(found) and all(current(n) for n in before))

    return [_result(s) for s in stages if s.name != running.name and current(s.name)]


def _unchanged(stage) -> bool:
    """Whether dvc.lock holds the stage's present command, dependencies and parameters."""
    from dvc.exceptions import DvcException

    try:
        return not stage.cmd_changed and all(o.hash_info for o in stage.outs) and all(d.hash_info == d.get_hash() for d in stage.deps)
    except (DvcException, OSError):
        return False


def _result(stage) -> Result:
    from dvc.dependency import ParamsDependency

    values = {k: v for d in stage.deps if isinstance(d, ParamsDependency) for k, v in (d.hash_info.value or {}).items()}
    files = [Path(out.fs_path) for out in stage.outs if out.fs_path.endswith(f"/{stage.name}/metrics.json")]
    metrics = {k: v for file in files if file.is_file() for k, v in read_json(file).items() if isinstance(v, int | float)}
    return Result(stage.name, stage.desc or "", values, metrics)


def description(stage: str) -> str:
    """`desc` of the stage in dvc.yaml."""
    return _load(stage).desc or ""


def git_state() -> tuple[str | None, bool]:
    """(commit, dirty); (None, False) without git, (None, True) before the first commit.

    dvc.lock and what stages write don't make a tree dirty: every finished stage of a running pipeline changes them.
    """
    written = ("**/dvc.lock", "outputs/**", "pipelines/*/outputs/**", "studies/*/outputs/**", "docs/**")
    status = git("status", "--porcelain", "--", ":/", *(f":(top,exclude,glob){place}" for place in written))
    if status is None:
        return None, False
    return git("rev-parse", "--verify", "--quiet", "HEAD"), bool(status)


def inputs(stage: str) -> dict[str, str]:
    """Path -> md5 of every file or folder that the stage depends on, as DVC computes them (a folder's ends in .dir).

    Args:
        stage: a DVC address, `train` or `other/dvc.yaml:train`.

    Raises:
        RuntimeError: outside git or DVC, or if a dependency is missing.
        ValueError: if dvc.yaml has no such stage.
    """
    return _inputs(_load(stage))


def fingerprint(stage: str) -> str:
    """sha256 over the stage's command, the md5 of its dependencies and its parameters, hexadecimal.

    It needs none of DVC's locks, so it works inside `dvc repro` as well as by hand; unchanged files are
    not read again (DVC's state cache knows them by inode, size and time).

    Raises:
        RuntimeError: outside git or DVC, or if a dependency or parameter is missing.
        ValueError: if dvc.yaml has no such stage.
    """
    from dvc.dependency import ParamsDependency
    from dvc.exceptions import DvcException

    found = _load(stage)
    try:
        params = {d.def_path: d.get_hash().value for d in found.deps if isinstance(d, ParamsDependency)}
    except DvcException as error:
        raise RuntimeError(f"stage {stage!r}: {error}") from None
    return _digest(found.cmd, _inputs(found), params)


def _load(stage: str):
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    root = workspace()
    require_git(root)
    try:
        return Repo(root).stage.load_one(*_address(root, stage))
    except DvcException as error:
        raise ValueError(f"no stage {stage!r} in {root}: {error}") from None


def _address(root: Path, stage: str) -> tuple[str, str]:
    """Path of the dvc.yaml and name of the stage in it."""
    path, _, name = stage.rpartition(":")
    return str(root / (path or "dvc.yaml")), name


def _inputs(stage) -> dict[str, str]:
    from dvc.dependency import ParamsDependency
    from dvc.exceptions import DvcException

    try:
        return {d.def_path: d.get_hash().value for d in stage.deps if not isinstance(d, ParamsDependency)}
    except (DvcException, FileNotFoundError) as error:
        raise RuntimeError(f"stage {stage.addressing!r}: a dependency is missing: {error}; run the stages before it") from None


def _digest(cmd: str | list[str], deps: dict[str, str], params: dict) -> str:
    return hashlib.sha256(json.dumps([cmd, deps, params], sort_keys=True).encode()).hexdigest()

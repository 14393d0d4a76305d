"""Fixtures of the fault tests: a small project whose stages are run, killed and compared, one at a time."""

import contextlib
import hashlib
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
STAGES = ["split", "pretrain", "fit_predictor", "train", "latency", "search", "export", "transfer", "report"]
OUTER_VARIABLES = ("DVC_", "MLFLOW_", "NAS_", "PREFECT_", "PYTHONPATH", "GIT_")


@dataclass
class Project:
    """A copy of the project with the preset `smoke`."""

    folder: Path
    seconds: dict[str, float] = field(default_factory=dict)  # duration of each stage without faults
    hashes: dict[str, dict[str, str]] = field(default_factory=dict)  # of each stage's outputs without faults

    @property
    def environment(self) -> dict[str, str]:
        """Variables for the project's own code, without an outer DVC or pipeline, with an author for commits."""
        names = {f"GIT_{who}_{what}": "t@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        path = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(self.folder)}
        return {k: v for k, v in os.environ.items() if not k.startswith(OUTER_VARIABLES)} | names | path

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess:
        """Run a command; stdout has its errors too."""
        options = {"cwd": self.folder, "env": self.environment, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        done = subprocess.run(command, **options, check=False)
        assert not check or done.returncode == 0, done.stdout[-5000:]
        return done

    def start(self, stage: str, *options: str) -> subprocess.Popen:
        """Start the stage with deterministic clocks, in its own process group."""
        command = [sys.executable, str(Path(__file__).parent / "run_stage.py"), *options, stage]
        with open(self.folder / "stage.log", "a") as log:
            return subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=log, stderr=log, start_new_session=True)

    def finish(self, stage: str, *options: str) -> None:
        """Run the stage to its end."""
        assert self.start(stage, *options).wait() == 0, self.log()[-5000:]

    def log(self) -> str:
        """Output of the stages since the last `forget`."""
        return (self.folder / "stage.log").read_text()

    def outputs(self, stage: str) -> list[Path]:
        """All outputs that DVC tracks of a stage."""
        definition = yaml.safe_load((self.folder / "dvc.yaml").read_text())["stages"][stage]
        entries = [*definition["outs"], *definition["metrics"], *definition.get("plots", [])]
        return [self.folder / (e if isinstance(e, str) else next(iter(e))) for e in entries]

    def remove_outputs(self, stage: str) -> None:
        """As DVC does before each start."""
        for path in self.outputs(stage):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def forget(self, stage: str) -> None:
        """Remove outputs and checkpoints, as if the stage had never run."""
        self.remove_outputs(stage)
        (self.folder / "stage.log").write_text("")
        for folder in [*self.folder.glob(f".checkpoints/{stage}-*"), *self.folder.glob(".checkpoints/scores")]:
            shutil.rmtree(folder)

    def hashed(self, stage: str) -> dict[str, str]:
        """MD5 of every output file of the stage."""
        files = [f for path in self.outputs(stage) for f in (sorted(path.rglob("*")) if path.is_dir() else [path]) if not f.is_dir()]
        return {str(f.relative_to(self.folder)): hashlib.md5(f.read_bytes()).hexdigest() for f in files}

    def duplicates(self) -> list[tuple]:
        """Points of curves that MLflow has more than once."""
        query = "SELECT run_uuid, key, step FROM metrics WHERE key != 'seconds' AND key NOT LIKE 'system/%' "
        with contextlib.closing(sqlite3.connect(self.folder / "mlflow.db")) as database:
            return database.execute(query + "GROUP BY run_uuid, key, step HAVING COUNT(*) > 1").fetchall()


@pytest.fixture(scope="session")
def project(tmp_path_factory) -> Project:
    """A project whose stages ran once without faults. Tests restore the outputs of every stage."""
    copied = Project(tmp_path_factory.mktemp("faults") / "project")
    files = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in files.stdout.splitlines():
        is_output = name.endswith("dvc.lock") or re.match(r"((pipelines|studies)/\w+/)?outputs/|docs/", name)
        if (ROOT / name).is_file() and not is_output:
            (copied.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copied.folder / name)
    copied.run("git", "init", "--quiet")
    copied.run("git", "add", "--all")
    copied.run("git", "commit", "--quiet", "--message", "start")
    copied.run(sys.executable, "-m", "nas.runtime.presets", "smoke")
    for stage in STAGES:
        began = time.monotonic()
        copied.finish(stage)
        copied.seconds[stage] = time.monotonic() - began
        copied.hashes[stage] = copied.hashed(stage)
    return copied

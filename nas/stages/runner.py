"""One way to open and finish a stage, for every folder with a dvc.yaml: parameters, MLflow run, checkpoint, outputs, errors.

    def main() -> None:
        with runner.stage("fit_predictor", {"seed": seed, "fit_predictor": cfg}) as stage:
            ...
            stage.finish({"kendall_tau": tau})

and at the end of the file, as a script, `runner.execute(main)`.

Another pipeline passes its folder: `runner.stage("search", parameters, PIPELINE)`, `PIPELINE = Pipeline(Path("pipelines/tf_nas"))`.
Stages run from the project's root. PyTorch is loaded when a stage opens, not when this module is imported.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.runtime import params, processes
from nas.runtime.io import DocumentError, read_json, short
from nas.tracking import provenance, session
from nas.tracking.runs import StageRun
from nas.tracking.session import Group

if TYPE_CHECKING:
    from nas.runtime.checkpoint import Checkpoint
    from nas.runtime.distributed import RankZeroCheckpoint


@dataclass(frozen=True)
class Pipeline:
    """A folder with dvc.yaml, params.yaml and outputs: the project's root, one of pipelines/ or one of studies/."""

    folder: Path = Path()
    varied: tuple[str, ...] = ()  # keys of params.yaml that vary within one comparison: runs that differ in them share a parent in MLflow

    @property
    def name(self) -> str:
        """The folder's name; empty for the main pipeline."""
        return self.folder.name

    @property
    def parameters(self) -> Path:
        """Its params.yaml."""
        return self.folder / params.FILE

    @property
    def outputs(self) -> Path:
        """The folder of all outputs."""
        return self.folder / "outputs"

    def out(self, stage: str, key: str = "") -> Path:
        """The output folder of a stage; of one entry of its matrix if `key` names it."""
        return self.outputs / stage / key

    def address(self, stage: str, key: str = "") -> str:
        """The stage as DVC names it: `train`, `studies/strategies/dvc.yaml:train@uniform-0`."""
        return (f"{self.folder}/dvc.yaml:" if self.name else "") + stage + (f"@{key}" if key else "")

    def damaged(self, path: Path, error: Exception, stage: str) -> DocumentError:
        """The error for a file of a stage that holds something else; names the command that writes it again."""
        return DocumentError(f"{path} is damaged: {short(str(error))}; dvc repro -f {self.address(stage)}")

    def sections(self, models: Mapping[str, type[params.Section]], file: Path | None = None) -> tuple[int, str, dict[str, params.Section]]:
        """The seed, the path of the search space, and every section of the parameter file, all checked.

        Raises:
            ParamsError: for the first mistake; names the key.
        """
        file = file or self.parameters
        document = params.read_all(file)
        params.check_keys(document, {"seed", "space", *models}, file)
        checked = {name: params.check(document, name, model, file) for name, model in models.items()}
        return params.check_seed(document, file), str(document["space"]), checked


MAIN = Pipeline()


@dataclass(frozen=True)
class Stage:
    """An open stage."""

    title: str
    prefix: str  # of its metrics in MLflow
    out: Path  # its output folder
    run: StageRun
    checkpoint: "Checkpoint | RankZeroCheckpoint"

    def finish(self, metrics: Mapping[str, float], decimals: int | None = 6) -> None:
        """Write metrics.json and log the same values to MLflow as `<prefix>/<key>`; of several processes the first one does.

        Args:
            decimals: that are kept; None: all.
        """
        from nas.runtime import distributed

        if not distributed.is_first():
            return
        rounded = {
            key: value if isinstance(value, int) or decimals is None else round(float(value), decimals) for key, value in metrics.items()
        }
        write_json(self.out / "metrics.json", rounded)
        self.run.summary(rounded, self.prefix)
        print(f"{self.title}: " + ", ".join(f"{key} {value:g}" for key, value in rounded.items()), flush=True)


@contextmanager
def stage(
    name: str,
    parameters: Mapping[str, Any],
    pipeline: Pipeline = MAIN,
    *,
    key: str = "",
    title: str | None = None,
    prefix: str | None = None,
    strategy: str | None = None,
    shares: bool = True,
) -> Iterator[Stage]:
    """Open a stage: an MLflow run, a locked checkpoint folder, the output folder. Of several processes the first one has all of them.

    Args:
        name: the stage in the pipeline's dvc.yaml.
        parameters: what the stage reads from params.yaml, for MLflow.
        key: the entry of the stage's matrix, e.g. "bestup-3-loss-0".
        title: the name of the run in MLflow.
        prefix: of the metrics in MLflow; the stage's name if None.
        strategy: tag to compare by.
        shares: parameters and metrics are put on the parent run, too; not for one of many alike.

    Raises:
        ParamsError: for a mistake anywhere in params.yaml of the main pipeline, so that none shows only after hours of work.
    """
    from nas.runtime import distributed
    from nas.runtime.checkpoint import Checkpoint
    from nas.runtime.distributed import RankZeroCheckpoint
    from nas.stages import config

    if not pipeline.name:
        config.check_all()
    out = pipeline.out(name, key)
    out.mkdir(parents=True, exist_ok=True)
    address = pipeline.address(name, key)
    title = title or " ".join(filter(None, (pipeline.name, name, key)))
    with session.stage_run(address, parameters, strategy, title=title, group=_group(pipeline), shares=shares) as run:
        if not distributed.is_first():
            yield Stage(title, prefix or name, out, run, RankZeroCheckpoint(None))
            return
        folder = "-".join(filter(None, (pipeline.name, name, key)))
        with Checkpoint(processes.project_root(), folder, provenance.fingerprint(address)) as checkpoint:
            yield Stage(title, prefix or name, out, run, checkpoint if distributed.world_size() == 1 else RankZeroCheckpoint(checkpoint))


def _group(pipeline: Pipeline) -> Group | None:
    """The runs that are compared with each other: those of the same pipeline with equal parameters; None for the main pipeline."""
    if not pipeline.name:
        return None
    equal = {key: value for key, value in params.read_all(pipeline.parameters).items() if key not in pipeline.varied}
    text = json.dumps([equal, os.environ.get("DVC_EXP_NAME")], sort_keys=True)
    return Group(pipeline.name, hashlib.sha256(text.encode()).hexdigest()[:16])


def out(stage: str) -> Path:
    """The output folder of a stage of the main pipeline."""
    return MAIN.out(stage)


def execute(main: Callable[[], object], check: Callable[[], object] | None = None) -> None:
    """Call a stage's main; a mistake of the user's ends it with one line instead of a traceback (NAS_DEBUG=1 shows where it arose).

    Args:
        check: for a stage that runs on as many processes as section `launcher` says: raises for mistakes that show before they start.
    """
    try:
        if check is None:
            main()
        else:
            from nas.runtime import distributed

            distributed.launch(main, check)
    except (ValueError, OSError, ArithmeticError, RuntimeError, MemoryError) as error:
        if os.environ.get("NAS_DEBUG"):
            raise
        process = f" in process {rank}" if (rank := os.environ.get("RANK")) else ""  # torchrun's number
        print(f"\nerror{process}: {error}\n(NAS_DEBUG=1 shows where)", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(130)


def count_classes(path: Path | None = None) -> int:
    """The number of classes of the main data set.

    Args:
        path: of the metrics of stage split, if they are not in its output folder.

    Raises:
        DocumentError: if the number is not there.
    """
    path = path or out("split") / "metrics.json"
    metrics = read_json(path)
    classes = metrics.get("classes") if isinstance(metrics, dict) else None
    if type(classes) is not int or classes < 2:
        raise DocumentError(f"{path} is damaged: classes: a number from 2 on is needed, found {short(classes)}; dvc repro --force split")
    return classes


def write_json(path: Path, document: object) -> None:
    """JSON that a person can read and git can compare."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False, default=_plain) + "\n")


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not JSON")

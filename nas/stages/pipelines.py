"""Former names, until the studies use `nas.stages.runner` and `nas.stages.differentiable`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nas.data.splits import hold_out
from nas.stages import runner
from nas.stages.differentiable import TARGET_NAMES as NAMES
from nas.stages.differentiable import LatencyTarget as Target

__all__ = ["NAMES", "Pipeline", "Target", "divided", "placed"]


class Pipeline(runner.Pipeline):
    """`runner.Pipeline` with the former constructor, `stage` and `finish`."""

    def __init__(self, name: str, parent: Path = Path("pipelines")) -> None:
        super().__init__(parent / name)

    @contextmanager
    def stage(self, name: str, parameters: dict[str, Any]) -> Iterator[tuple]:
        with runner.stage(name, parameters, self) as stage:
            yield stage.run, stage.checkpoint, stage.out

    def finish(self, out: Path, metrics: dict[str, float], run: Any) -> None:
        runner.Stage(f"{self.name} {out.name}", out.name, out, run, None).finish(metrics)


def divided(data, items, held_out, seed):
    return hold_out(items, data.labels, held_out, seed)


def placed(batches, runtime, device):
    return runtime.to_device(batches, device)

"""What the stages latency of TF-NAS and HardCoRe-NAS write: the table, the validation networks, the metrics."""

from pathlib import Path

from nas.latency.profiler import Profile
from nas.stages.pipelines import Pipeline
from nas.tracking.runs import StageRun


def write(profiled: Profile, pipeline: Pipeline, run: StageRun, out: Path) -> None:
    """table.json, validation.csv and metrics.json into the stage's folder, and into MLflow."""
    profiled.table.save(out / "table.json")
    networks = profiled.validation()
    networks.to_csv(out / "validation.csv", index=False)
    run.artifact(out / "table.json")
    run.table(networks, "validation.json")
    pipeline.finish(out, profiled.metrics(), run)

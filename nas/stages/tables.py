"""What the stages latency of TF-NAS and HardCoRe-NAS write: the table, the networks that it is judged on, the figures."""

from pathlib import Path

from nas.latency import validation
from nas.latency.row_profiler import Survey, Surveyed, judged_on
from nas.stages.pipelines import Pipeline
from nas.tracking.session import StageRun


def write(found: Survey, surveyed: Surveyed, range_ms: tuple[float, float], pipeline: Pipeline, run: StageRun, out: Path) -> None:
    """table.json, validation.csv and metrics.json into the stage's folder, and into MLflow.

    Args:
        range_ms: of the fastest and of the slowest network.
    """
    found.table.save(out / "table.json")
    judged = judged_on(found, surveyed)
    judged.to_csv(out / "validation.csv", index=False)
    run.artifact(out / "table.json")
    run.table(judged, "validation.json")
    cheapest, most_expensive = range_ms
    metrics = {
        **validation.figures(*(judged[c].to_numpy() for c in ("predicted_latency_ms", "first_latency_ms", "second_latency_ms", "mflops"))),
        "min_latency_ms": cheapest,
        "max_latency_ms": most_expensive,
        "networks": len(judged),
        "seconds": found.table.setting["seconds"],
    }
    pipeline.finish(out, metrics, run)

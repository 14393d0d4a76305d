"""What the stages derive of TF-NAS and HardCoRe-NAS do: searched networks as rows, their latency by the table and measured."""

from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

from nas.cost.rows import multiply_adds, parameters
from nas.latency.row_profiler import Latency, Network, Surveyed, Table, measured
from nas.runtime.checkpoint import Checkpoint
from nas.stages.pipelines import Pipeline
from nas.stages.runner import write_json
from nas.tracking.session import StageRun

LOGGED = ("table_latency_ms", "measured_latency_ms", "noise_floor", "mflops")


def derive(
    found: Sequence[tuple[dict[str, Any], Network]],
    p: Latency,
    surveyed: Surveyed[Network],
    table: Table[Network],
    seed: int,
    pipeline: Pipeline,
    run: StageRun,
    checkpoint: Checkpoint,
    out: Path,
) -> None:
    """family.json and metrics.json into the stage's folder, and into MLflow.

    Args:
        found: what an entry of family.json starts with, name and target_latency_ms among it, and the network.
    """
    plans = [surveyed.plan(network) for _, network in found]
    whole = measured(plans, p, surveyed, table, seed, p.backend.start(), checkpoint)
    entries, metrics = [], {"slowness": whole.slowness}
    for (start, network), plan, ms, floor in zip(found, plans, whole.latency_ms, whole.noise):
        figures = {
            "table_latency_ms": round(table.latency_ms(network), 6),
            "measured_latency_ms": round(float(ms), 6),
            "noise_floor": round(float(floor), 6),
            "mflops": round(multiply_adds(plan, table.classes).total / 1e6, 6),
            "parameters": parameters(plan, table.classes),
        }
        entries.append({**start, **figures, "rows": [astuple(row) for row in plan.rows]})
        metrics |= {f"{start['name']}_{key}": figures[key] for key in LOGGED}
    write_json(out / "family.json", entries)
    run.artifact(out / "family.json")
    pipeline.finish(out, metrics, run)

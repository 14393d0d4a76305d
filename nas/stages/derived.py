"""What the stages derive of TF-NAS and HardCoRe-NAS do: searched networks as rows, their latency by the table and measured."""

from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

from nas.cost import parameters
from nas.cost.flops import multiply_adds
from nas.cost.latency import LatencyTable
from nas.latency.profiler import Arch, LatencyConfig, measure_networks
from nas.latency.rows import ProfiledRows
from nas.runtime.checkpoint import Checkpoint
from nas.stages.pipelines import Pipeline
from nas.stages.runner import write_json
from nas.tracking.runs import StageRun

LOGGED = ("table_latency_ms", "measured_latency_ms", "noise_floor", "mflops")


def derive(
    searched: Sequence[tuple[dict[str, Any], Arch]],
    p: LatencyConfig,
    space: ProfiledRows[Arch],
    table: LatencyTable[Arch],
    seed: int,
    pipeline: Pipeline,
    run: StageRun,
    checkpoint: Checkpoint,
    out: Path,
) -> None:
    """family.json and metrics.json into the stage's folder, and into MLflow.

    Args:
        searched: for each network the first keys of its entry in family.json, with name and target_latency_ms, and the network.
    """
    measured = measure_networks([network for _, network in searched], p, space, table, seed, p.backend.start(), checkpoint)
    entries, metrics = [], {"slowdown": measured.slowdown}
    for (start, network), ms, floor in zip(searched, measured.latency_ms, measured.noise):
        plan = space.plan(network)
        figures = {
            "table_latency_ms": round(table.latency_ms(network), 6),
            "measured_latency_ms": round(float(ms), 6),
            "noise_floor": round(float(floor), 6),
            "mflops": round(multiply_adds(plan, table.classes).total / 1e6, 6),
            "parameters": parameters.of_plan(plan, table.classes),
        }
        entries.append({**start, **figures, "rows": [astuple(row) for row in plan.rows]})
        metrics |= {f"{start['name']}_{key}": figures[key] for key in LOGGED}
    write_json(out / "family.json", entries)
    run.artifact(out / "family.json")
    pipeline.finish(out, metrics, run)

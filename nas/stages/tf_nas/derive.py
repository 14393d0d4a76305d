"""Stage derive of TF-NAS: the searched networks as rows, their latency by the table and measured.

params   pipelines/tf_nas/params.yaml: seed, space, latency
reads    outputs/split/metrics.json (the number of classes), latency/table.json, search/searched.json
writes   derive/family.json     a network: name, target_latency_ms, table_latency_ms, measured_latency_ms, noise_floor (how far
                                two measurements of it differ, a fraction), bounds_reached ("least" or "most" widths; null: none),
                                mflops, parameters, rows
         derive/metrics.json    {"<name>_table_latency_ms", "<name>_measured_latency_ms", "<name>_noise_floor", "<name>_mflops"}
"""

from dataclasses import astuple

import numpy as np
import torch

from nas import seeding
from nas.differentiable.rows import Plan, Row, multiply_adds, parameters
from nas.differentiable.tf_nas import latency
from nas.differentiable.tf_nas.scaling import bound
from nas.differentiable.tf_nas.space import Choice, Space
from nas.differentiable.tf_nas.survey import Taking, whole_program
from nas.documents import DocumentError, read_json, short
from nas.stages import latency as main_pipeline
from nas.stages.common import write_json
from nas.stages.errors import user_errors
from nas.stages.tf_nas import common

SEARCHED = common.OUTPUTS / "search" / "searched.json"
FAMILY = common.OUTPUTS / "derive" / "family.json"


def main() -> None:
    s = common.read()
    with common.stage("derive", s.sections("seed", "space", "latency")) as (run, checkpoint, out):
        classes = main_pipeline.counted(main_pipeline.CLASSES)
        table = latency.load(common.TABLE, s.space, classes)
        searched = read_json(SEARCHED)
        choices = [chosen(entry) for entry in searched]
        plans = [s.space.plan(choice) for choice in choices]
        measured, noise = measured_ms(plans, classes, s, checkpoint)
        entries, metrics = [], {}
        for entry, choice, plan, ms, floor in zip(searched, choices, plans, measured, noise):
            found = {
                "name": entry["name"],
                "target_latency_ms": entry["target_latency_ms"],
                "table_latency_ms": round(table.latency_ms(choice), 6),
                "measured_latency_ms": round(float(ms), 6),
                "noise_floor": round(float(floor), 6),
                "bounds_reached": bound(table, choice, entry["target_latency_ms"]),
                "mflops": round(multiply_adds(plan, classes).total / 1e6, 6),
                "parameters": parameters(plan, classes),
            }
            entries.append({**found, "rows": [astuple(row) for row in plan.rows]})
            metrics |= {
                f"{entry['name']}_{key}": found[key] for key in ("table_latency_ms", "measured_latency_ms", "noise_floor", "mflops")
            }
        write_json(FAMILY, entries)
        run.artifact(FAMILY)
        common.finish(out, metrics, run)


def chosen(entry: dict) -> Choice:
    """The network of an entry of searched.json.

    Raises:
        DocumentError: if the entry is none.
    """
    try:
        return Choice(*(tuple(entry[key]) for key in ("operations", "depths", "widths")))
    except (TypeError, KeyError) as error:
        raise DocumentError(f"{SEARCHED} is damaged: {short(str(error))}; dvc repro -f pipelines/tf_nas/dvc.yaml:search") from None


def measured_ms(plans: list[Plan], classes: int, s: common.Settings, checkpoint) -> tuple[np.ndarray, np.ndarray]:
    """(networks,) latency in ms of whole networks, and how far two measurements of each differ, as a fraction.

    Even and odd rounds are two measurements of the same network.
    """
    backend = s.latency.backend.start()
    with torch.random.fork_rng(devices=[]), backend.running():
        torch.default_generator.manual_seed(seeding.key(s.seed, "derive"))
        programs = [
            whole_program(plan, classes, lambda channels, side: backend.random(s.latency.batch, channels, side), backend) for plan in plans
        ]
        taking = Taking(backend.clock, s.latency.repetitions, s.seed, checkpoint)
        rounds = taking("derived", programs, programs[0], s.latency.limit_s)
    ms = 1000 * rounds.normalised([1] * len(programs))
    first, second = np.median(ms[::2], axis=0), np.median(ms[1::2], axis=0)
    return np.median(ms, axis=0), np.abs(second - first) / np.median(ms, axis=0)


def family(space: Space) -> list[tuple[dict, Plan]]:
    """The entries of family.json, each with its network.

    Raises:
        DocumentError: if the file holds something else.
    """
    entries, first = read_json(FAMILY), space.first
    try:
        return [(e, Plan(first.resolution, first.stem, tuple(Row(*row) for row in e["rows"]), first.head, first.squeeze)) for e in entries]
    except (TypeError, KeyError, ValueError) as error:
        raise DocumentError(f"{FAMILY} is damaged: {short(str(error))}; dvc repro -f pipelines/tf_nas/dvc.yaml:derive") from None


if __name__ == "__main__":
    user_errors(main)

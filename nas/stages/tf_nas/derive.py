"""Stage derive of TF-NAS: the searched networks as rows, their latency by the table and measured.

params   pipelines/tf_nas/params.yaml: seed, space, latency
reads    outputs/split/metrics.json (the number of classes), latency/table.json, search/searched.json
writes   derive/family.json     a network: name, target_latency_ms, table_latency_ms, measured_latency_ms, noise_floor (how far
                                two measurements of it differ, a fraction), bounds_reached ("least" or "most" widths; null: none),
                                mflops, parameters, rows
         derive/metrics.json    {"slowness" (of the machine, against that at stage latency: what is measured is divided by it),
                                "<name>_table_latency_ms", "<name>_measured_latency_ms", "<name>_noise_floor", "<name>_mflops"}
"""

from dataclasses import astuple
from typing import Any

from nas.differentiable.rows import Plan, multiply_adds, parameters
from nas.differentiable.survey import measured
from nas.differentiable.tf_nas import latency
from nas.differentiable.tf_nas.scaling import bound
from nas.differentiable.tf_nas.space import Choice, Space
from nas.differentiable.tf_nas.survey import Surveyed
from nas.documents import read_json
from nas.stages import latency as main_pipeline
from nas.stages.common import write_json
from nas.stages.errors import user_errors
from nas.stages.tf_nas import common

SEARCHED = common.PIPELINE.outputs / "search" / "searched.json"
FAMILY = common.PIPELINE.outputs / "derive" / "family.json"


def main() -> None:
    s = common.read()
    with common.PIPELINE.stage("derive", s.sections("seed", "space", "latency")) as (run, checkpoint, out):
        classes = main_pipeline.counted(main_pipeline.CLASSES)
        table = latency.load(common.TABLE, s.space, classes)
        searched = read_json(SEARCHED)
        choices = [chosen(entry) for entry in searched]
        plans = [s.space.plan(choice) for choice in choices]
        surveyed = Surveyed(s.space, s.latency.widths)
        found_ms = measured(plans, s.latency, surveyed, table, s.seed, s.latency.backend.start(), checkpoint)
        entries, metrics = [], {"slowness": found_ms.slowness}
        for entry, choice, plan, ms, floor in zip(searched, choices, plans, found_ms.latency_ms, found_ms.noise):
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
        common.PIPELINE.finish(out, metrics, run)


def chosen(entry: dict) -> Choice:
    """The network of an entry of searched.json.

    Raises:
        DocumentError: if the entry is none.
    """
    try:
        return Choice(*(tuple(entry[key]) for key in ("operations", "depths", "widths")))
    except (TypeError, KeyError) as error:
        raise common.PIPELINE.damaged(SEARCHED, error, "search") from None


def family(space: Space) -> list[tuple[dict[str, Any], Plan]]:
    """The entries of family.json, each with its network.

    Raises:
        DocumentError: if the file holds something else.
    """
    return common.PIPELINE.networks(FAMILY, space.first, "derive")


if __name__ == "__main__":
    user_errors(main)

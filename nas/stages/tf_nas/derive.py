"""Stage derive of TF-NAS: the searched networks as rows, their latency by the table and measured.

params   pipelines/tf_nas/params.yaml: seed, space, latency
reads    outputs/split/metrics.json (the number of classes), latency/table.json, search/searched.json
writes   derive/family.json     a network: name, target_latency_ms, table_latency_ms, measured_latency_ms, noise_floor (how far
                                two measurements of it differ, a fraction), bounds_reached ("least" or "most" widths; null: none),
                                mflops, parameters, rows
         derive/metrics.json    {"slowdown" (of the machine since stage latency; measured latencies are divided by it),
                                "<name>_table_latency_ms", "<name>_measured_latency_ms", "<name>_noise_floor", "<name>_mflops"}
"""

from typing import Any

from nas.cost import latency_tf_nas
from nas.differentiable.tf_nas.scaling import bound
from nas.latency.tf_nas import ProfiledTfNas
from nas.runtime.io import read_json
from nas.spaces.rows import Plan
from nas.spaces.tf_nas import Arch, Space
from nas.stages import runner
from nas.stages.derived import derive
from nas.stages.errors import user_errors
from nas.stages.tf_nas import config

SEARCHED = config.PIPELINE.outputs / "search" / "searched.json"
FAMILY = config.PIPELINE.outputs / "derive" / "family.json"


def main() -> None:
    s = config.read()
    with config.PIPELINE.stage("derive", s.sections("seed", "space", "latency")) as (run, checkpoint, out):
        table = latency_tf_nas.TfNasLatencyTable.load(config.TABLE, s.space, runner.count_classes())
        found = []
        for entry in read_json(SEARCHED):
            choice, target_ms = chosen(entry), entry["target_latency_ms"]
            start = {"name": entry["name"], "target_latency_ms": target_ms, "bounds_reached": bound(table, choice, target_ms)}
            found.append((start, choice))
        profiled = ProfiledTfNas(s.space, s.latency.step)
        derive(found, s.latency, profiled, table, s.seed, config.PIPELINE, run, checkpoint, out)


def chosen(entry: dict) -> Arch:
    """The network of an entry of searched.json.

    Raises:
        DocumentError: if the entry is none.
    """
    try:
        return Arch(*(tuple(entry[key]) for key in ("operations", "depths", "widths")))
    except (TypeError, KeyError) as error:
        raise config.PIPELINE.damaged(SEARCHED, error, "search") from None


def family(space: Space) -> list[tuple[dict[str, Any], Plan]]:
    """The entries of family.json, each with its network.

    Raises:
        DocumentError: if the file holds something else.
    """
    return config.PIPELINE.networks(FAMILY, space.fixed, "derive")


if __name__ == "__main__":
    user_errors(main)

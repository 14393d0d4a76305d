"""Stage derive of HardCoRe-NAS: the searched networks as rows, their latency by the table and measured.

params   pipelines/hardcore_nas/params.yaml: seed, space, latency
reads    outputs/split/metrics.json (the number of classes), latency/table.json, search/searched.json
writes   derive/family.json     a network: name, target_latency_ms, max_violation_ms (by the table, the most in the search), arch,
                                table_latency_ms, measured_latency_ms, noise_floor (how far two measurements of it differ, a
                                fraction), mflops, parameters, rows
         derive/metrics.json    {"slowdown" (of the machine since stage latency; measured latencies are divided by it),
                                "<name>_table_latency_ms", "<name>_measured_latency_ms", "<name>_noise_floor", "<name>_mflops"}
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nas.cost import latency_hardcore_nas
from nas.latency.hardcore_nas import ProfiledHardcoreNas
from nas.runtime.io import read_json
from nas.spaces.hardcore_nas import Arch, Space
from nas.stages import runner
from nas.stages.derived import derive
from nas.stages.errors import user_errors
from nas.stages.hardcore_nas import config

SEARCHED = config.PIPELINE.outputs / "search" / "searched.json"
SEARCHED_KEYS = ("name", "target_latency_ms", "max_violation_ms", "arch")  # that family.json keeps
FAMILY = config.PIPELINE.outputs / "derive" / "family.json"
FAMILY_KEYS = (*SEARCHED_KEYS, "table_latency_ms", "measured_latency_ms", "noise_floor", "mflops", "parameters")


def main() -> None:
    s = config.read()
    with config.PIPELINE.stage("derive", s.sections("seed", "space", "latency")) as (run, checkpoint, out):
        found = latency_hardcore_nas.HardcoreNasLatencyTable.load(config.TABLE, s.space, runner.count_classes())
        searched = networks(SEARCHED, s.space, "search", SEARCHED_KEYS)
        derive(searched, s.latency, ProfiledHardcoreNas(s.space), found, s.seed, config.PIPELINE, run, checkpoint, out)


def networks(path: Path, space: Space, stage: str, keys: Sequence[str]) -> list[tuple[dict[str, Any], Arch]]:
    """These entries of every network of a file with `arch`, and the network.

    Args:
        stage: that writes the file.

    Raises:
        DocumentError: if the file holds something else.
    """
    entries = read_json(path)
    try:
        return [({key: entry[key] for key in keys}, space.check(Arch(map(tuple, entry["arch"])))) for entry in entries]
    except (TypeError, KeyError, ValueError) as error:
        raise config.PIPELINE.damaged(path, error, stage) from None


if __name__ == "__main__":
    user_errors(main)

"""Stage devices: a network searched for each of two devices, judged by the tables of both and measured on both (supplement, Table 4).

The second device is this one with another number of threads; its target is the same share of its own range of latencies.

params   studies/tf_nas_claims/params.yaml: devices
         pipelines/tf_nas/params.yaml: seed, space, runtime, evaluation, latency, search, train
reads    outputs/split/, pipelines/tf_nas/outputs/latency/table.json, latency/metrics.json, search/searched.json
writes   devices/table.json     of the second device
         devices/results.csv    a network and device: network (the device that it was searched for), device, `common.reached`,
                                measured_latency_ms, noise_floor (how far two measurements of it differ, a fraction),
                                table_error (of the device's table on other networks: the 90th percentile, a fraction)
         devices/metrics.json   {"own_deviation", "other_deviation"}: mean distance from a device's target, a fraction of it, of
                                its own network and of the other's by its table; {"measured_deviation"} from the table, the mean
"""

from dataclasses import dataclass

import pandas as pd

from nas.cost.latency_tf_nas import LatencyTable
from nas.latency import validation
from nas.latency.row_profiler import judged_on, measured, survey
from nas.latency.tf_nas import Latency, Surveyed
from nas.runtime.checkpoint import Checkpoint
from nas.runtime.io import read_json
from nas.spaces.tf_nas import Arch
from nas.stages.errors import user_errors
from nas.stages.tf_nas import config as tf_nas
from nas.stages.tf_nas.derive import SEARCHED, chosen
from studies.tf_nas_claims import config

RESULTS = config.PIPELINE.outputs / "devices" / "results.csv"
JUDGED = tf_nas.PIPELINE.outputs / "latency" / "metrics.json"


@dataclass(frozen=True, eq=False)
class Device:
    """Something that networks are searched for and run on."""

    how: Latency  # it is measured
    table: LatencyTable
    table_error: float  # on networks that the table was not fitted on: the 90th percentile, a fraction
    target_ms: float

    @property
    def name(self) -> str:
        threads = self.how.backend.threads
        return f"{threads} thread{'s' if threads > 1 else ''}"


def main() -> None:
    s = config.read()
    own = s.tf_nas
    with config.PIPELINE.stage("devices", s.sections("devices") | {"tf_nas.latency": own.latency}) as (run, checkpoint, out):
        searches, surveyed = config.Searches(own, checkpoint, run), Surveyed(own.space, own.latency.step)
        first = Device(own.latency, searches.table, read_json(JUDGED)["p90_relative_error"], searches.target_ms)
        second = surveyed_device(own, surveyed, s.devices.threads, searches.table.classes, checkpoint)
        second.table.save(out / "table.json")
        run.artifact(out / "table.json")
        found = searches.search_on("second", config.varied(own, own.seed), second.table, second.target_ms).search
        networks, rows = {first.name: searched_before(first.target_ms), second.name: found.choice}, []
        for device in (first, second):
            plans, kept = [own.space.plan(choice) for choice in networks.values()], config.Kept(checkpoint, f"{device.name}-")
            ms = measured(plans, device.how, surveyed, device.table, own.seed, device.how.backend.start(), kept)
            for (network, choice), taken, noise in zip(networks.items(), ms.latency_ms, ms.noise):
                known = {"network": network, "device": device.name, **config.reached(device.table, choice, device.target_ms)}
                rows.append(known | {"measured_latency_ms": taken, "noise_floor": noise, "table_error": device.table_error})
        results = pd.DataFrame(rows)
        results.to_csv(RESULTS, index=False, float_format="%.6g")
        run.table(results, "results.json")
        config.PIPELINE.finish(out, figures(results), run)


def surveyed_device(s: tf_nas.Settings, surveyed: Surveyed, threads: int, classes: int, checkpoint: Checkpoint) -> Device:
    """This device with so many threads, its table measured as stage latency of TF-NAS does it."""
    how = s.latency.model_copy(update={"backend": s.latency.backend.model_copy(update={"threads": threads})})
    found = survey(how, surveyed, classes, s.seed, how.backend.start(), config.Kept(checkpoint, "survey-"))
    judged = judged_on(found, surveyed)
    told = [judged[c].to_numpy() for c in ("predicted_latency_ms", "first_latency_ms", "second_latency_ms", "mflops")]
    return Device(how, found.table, validation.figures(*told)["p90_relative_error"], config.middle_target(s, found.table))


def searched_before(target_ms: float) -> Arch:
    """TF-NAS's own network for the target.

    Raises:
        DocumentError: if its file holds none; says which stage makes it anew.
    """
    for entry in read_json(SEARCHED):
        if abs(entry["target_latency_ms"] - target_ms) < 1e-5:  # it is rounded there
            return chosen(entry)
    raise tf_nas.PIPELINE.damaged(SEARCHED, ValueError(f"no network for {target_ms:g} ms"), "search")


def figures(results: pd.DataFrame) -> dict[str, float]:
    """Metrics of the stage."""
    deviation = (results["table_latency_ms"] / results["target_latency_ms"] - 1).abs()
    own = results["network"] == results["device"]
    measured_deviation = (results["measured_latency_ms"] / results["table_latency_ms"] - 1).abs()
    return {
        "own_deviation": deviation[own].mean(),
        "other_deviation": deviation[~own].mean(),
        "measured_deviation": measured_deviation.mean(),
    }


if __name__ == "__main__":
    user_errors(main)

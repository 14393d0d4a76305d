"""Stage devices: a search for each of two devices, whose networks are measured on both (supplement, Table 4).

The second device is the first with another number of threads; its target is the same share of its own range of latencies.

params   studies/tf_nas_claims/params.yaml: devices
         pipelines/tf_nas/params.yaml: seed, space, runtime, evaluation, latency, search, train
reads    outputs/split/, pipelines/tf_nas/outputs/latency/table.json, latency/metrics.json, search/searched.json
writes   devices/table.json     of the second device
         devices/results.csv    per network and device: network (the device that it was searched for), device, `config.reached`,
                                measured_latency_ms, noise_floor (relative difference of two measurements),
                                table_error (of the device's table on other networks: the 90th percentile, a fraction)
         devices/history.csv    per search and epoch, as pipelines/tf_nas/outputs/search/history.csv
         devices/metrics.json   {"own_deviation", "other_deviation"}: mean deviation from a device's target, a fraction of it, of
                                its own network and of the other's by its table; {"measured_deviation"} from the table, the mean
"""

from dataclasses import dataclass

import pandas as pd

from nas.cost.latency_tf_nas import TfNasLatencyTable
from nas.latency.profiler import measure_networks, profile
from nas.latency.tf_nas import ProfiledTfNas, TfNasLatencyConfig
from nas.runtime.checkpoint import Checkpoint
from nas.runtime.io import read_json
from nas.spaces.tf_nas import Arch
from nas.stages import runner
from nas.stages.tf_nas import config as tf_nas
from nas.stages.tf_nas.config import SEARCHED
from nas.stages.tf_nas.config import read_arch as chosen
from studies.tf_nas_claims import config

VALIDATION = tf_nas.PIPELINE.outputs / "latency" / "metrics.json"


@dataclass(frozen=True, eq=False)
class Device:
    """A device of the search: how it is profiled, its latency table and its target."""

    latency: TfNasLatencyConfig
    table: TfNasLatencyTable
    table_error: float  # on networks that the table was not fitted to: the 90th percentile, a fraction
    target_ms: float

    @property
    def name(self) -> str:
        threads = self.latency.backend.threads
        return f"{threads} thread{'s' if threads > 1 else ''}"


def main() -> None:
    cfg = config.read()
    own = cfg.tf_nas
    with runner.stage("devices", cfg.sections("devices") | {"tf_nas.latency": own.latency}, config.PIPELINE) as stage:
        searches, space = config.Searches(own, stage.checkpoint, stage.run), ProfiledTfNas(own.space, own.latency.step)
        first = Device(own.latency, searches.table, read_json(VALIDATION)["p90_relative_error"], searches.target_ms)
        second = second_device(own, space, cfg.devices.threads, searches.table.classes, stage.checkpoint)
        second.table.save(stage.out / "table.json")
        stage.run.artifact(stage.out / "table.json")
        search = searches.search_on("second", config.varied(own, own.seed), second.table, second.target_ms).search
        networks, rows = {first.name: network_for(first.target_ms), second.name: search.arch}, []
        for device in (first, second):
            backend, timed = device.latency.backend.start(), config.TimedCheckpoint(stage.checkpoint, f"{device.name}-")
            ms = measure_networks(list(networks.values()), device.latency, space, device.table, own.seed, backend, timed)
            for (network, choice), latency_ms, noise in zip(networks.items(), ms.latency_ms, ms.noise):
                row = {"network": network, "device": device.name, **config.reached(device.table, choice, device.target_ms)}
                rows.append(row | {"measured_latency_ms": latency_ms, "noise_floor": noise, "table_error": device.table_error})
        searches.write_history(stage.out)
        results = pd.DataFrame(rows)
        results.to_csv(stage.out / "results.csv", index=False, float_format="%.6g")
        stage.run.table(results, "results.json")
        stage.finish(metrics(results))


def second_device(cfg: tf_nas.TfNasParams, space: ProfiledTfNas, threads: int, classes: int, checkpoint: Checkpoint) -> Device:
    """The device with this number of threads, profiled as in stage latency of TF-NAS."""
    latency = cfg.latency.model_copy(update={"backend": cfg.latency.backend.model_copy(update={"threads": threads})})
    profiled = profile(latency, space, classes, cfg.seed, latency.backend.start(), config.TimedCheckpoint(checkpoint, "profile-"))
    return Device(latency, profiled.table, profiled.metrics()["p90_relative_error"], config.median_target(cfg, profiled.table))


def network_for(target_ms: float) -> Arch:
    """TF-NAS's own network for the target.

    Raises:
        DocumentError: if its file has none; names the stage that makes it.
    """
    for entry in read_json(SEARCHED):
        if abs(entry["target_latency_ms"] - target_ms) < 1e-5:  # it is rounded there
            return chosen(entry)
    raise tf_nas.PIPELINE.damaged(SEARCHED, ValueError(f"no network for {target_ms:g} ms"), "search")


def metrics(results: pd.DataFrame) -> dict[str, float]:
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
    runner.execute(main)

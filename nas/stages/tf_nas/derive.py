"""Stage derive of TF-NAS: the searched networks as rows, their latency by the table and measured.

params   pipelines/tf_nas/params.yaml: seed, space, latency
reads    outputs/split/metrics.json (the number of classes), latency/table.json, search/searched.json
writes   derive/family.json     for each network: name, target_latency_ms, table_latency_ms, measured_latency_ms, noise_floor (how far
                                two measurements of it differ, a fraction), bounds_reached ("least" or "most" widths; null: none),
                                mflops, parameters, rows
         derive/metrics.json    {"slowdown" (of the machine since stage latency; measured latencies are divided by it),
                                "<name>_table_latency_ms", "<name>_measured_latency_ms", "<name>_noise_floor", "<name>_mflops"}
"""

from nas.cost.latency_tf_nas import TfNasLatencyTable
from nas.differentiable.tf_nas.scaling import bound
from nas.latency.tf_nas import ProfiledTfNas
from nas.runtime.io import read_json
from nas.stages import runner
from nas.stages.differentiable import derive
from nas.stages.tf_nas import config


def main() -> None:
    cfg = config.read()
    with runner.stage("derive", cfg.sections("seed", "space", "latency"), config.PIPELINE) as stage:
        table = TfNasLatencyTable.load(config.TABLE, cfg.space, runner.count_classes())
        searched = []
        for entry in read_json(config.SEARCHED):
            arch, target_ms = config.read_arch(entry), entry["target_latency_ms"]
            first_keys = {"name": entry["name"], "target_latency_ms": target_ms, "bounds_reached": bound(table, arch, target_ms)}
            searched.append((first_keys, arch))
        derive(searched, cfg.latency, ProfiledTfNas(cfg.space, cfg.latency.step), table, cfg.seed, stage)


if __name__ == "__main__":
    runner.execute(main)

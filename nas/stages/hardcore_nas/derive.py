"""Stage derive of HardCoRe-NAS: the searched networks as rows, their latency by the table and measured.

params   pipelines/hardcore_nas/params.yaml: seed, space, latency
reads    outputs/split/metrics.json (the number of classes), latency/table.json, search/searched.json
writes   derive/family.json     for each network: name, target_latency_ms, max_violation_ms (by the table, the most in the search), arch,
                                table_latency_ms, measured_latency_ms, noise_floor (how far two measurements of it differ, a
                                fraction), mflops, parameters, rows
         derive/metrics.json    {"slowdown" (of the machine since stage latency; measured latencies are divided by it),
                                "<name>_table_latency_ms", "<name>_measured_latency_ms", "<name>_noise_floor", "<name>_mflops"}
"""

from nas.cost.latency_hardcore_nas import HardcoreNasLatencyTable
from nas.latency.hardcore_nas import ProfiledHardcoreNas
from nas.stages import runner
from nas.stages.differentiable import derive
from nas.stages.hardcore_nas import config


def main() -> None:
    cfg = config.read()
    with runner.stage("derive", cfg.sections("seed", "space", "latency"), config.PIPELINE) as stage:
        table = HardcoreNasLatencyTable.load(config.TABLE, cfg.space, runner.count_classes())
        searched = config.read_networks(config.SEARCHED, cfg.space, "search", config.SEARCHED_KEYS)
        derive(searched, cfg.latency, ProfiledHardcoreNas(cfg.space), table, cfg.seed, stage)


if __name__ == "__main__":
    runner.execute(main)

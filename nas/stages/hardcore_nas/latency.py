"""Stage latency of HardCoRe-NAS: a latency lookup table of this device, of every block in every configuration.

params   pipelines/hardcore_nas/params.yaml: seed, space, latency
reads    outputs/split/metrics.json   (the number of classes)
writes   latency/table.json           `nas.cost.latency_hardcore_nas.HardcoreNasLatencyTable.load` reads it
         latency/validation.csv       validation networks: predicted and twice measured latency, MFLOPs
         latency/metrics.json         `nas.latency.profiler.Profile.metrics`
"""

from nas.latency.hardcore_nas import ProfiledHardcoreNas
from nas.latency.profiler import profile
from nas.stages import runner
from nas.stages.differentiable import save_profile
from nas.stages.hardcore_nas import config


def main() -> None:
    cfg = config.read()
    with runner.stage("latency", cfg.sections("seed", "space", "latency"), config.PIPELINE) as stage:
        space, classes = ProfiledHardcoreNas(cfg.space), runner.count_classes()
        save_profile(profile(cfg.latency, space, classes, cfg.seed, cfg.latency.backend.start(), stage.checkpoint), stage)


if __name__ == "__main__":
    runner.execute(main)

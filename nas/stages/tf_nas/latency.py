"""Stage latency of TF-NAS: a latency lookup table of this device, of every operation over its hidden channels.

params   pipelines/tf_nas/params.yaml: seed, space, latency
reads    outputs/split/metrics.json   (the number of classes)
writes   latency/table.json           `nas.cost.latency_tf_nas.TfNasLatencyTable.load` reads it
         latency/validation.csv       validation networks: predicted and twice measured latency, MFLOPs
         latency/metrics.json         `nas.latency.profiler.Profile.metrics`
"""

from nas.latency.profiler import profile
from nas.latency.tf_nas import ProfiledTfNas
from nas.stages import runner
from nas.stages.differentiable import save_profile
from nas.stages.tf_nas import config


def main() -> None:
    cfg = config.read()
    with runner.stage("latency", cfg.sections("seed", "space", "latency"), config.PIPELINE) as stage:
        space, classes = ProfiledTfNas(cfg.space, cfg.latency.step), runner.count_classes()
        save_profile(profile(cfg.latency, space, classes, cfg.seed, cfg.latency.backend.start(), stage.checkpoint), stage)


if __name__ == "__main__":
    runner.execute(main)

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
from nas.stages.errors import user_errors
from nas.stages.tables import write
from nas.stages.tf_nas import config


def main() -> None:
    s = config.read()
    with config.PIPELINE.stage("latency", s.sections("seed", "space", "latency")) as (run, checkpoint, out):
        space = ProfiledTfNas(s.space, s.latency.step)
        classes = runner.count_classes()
        profiled = profile(s.latency, space, classes, s.seed, s.latency.backend.start(), checkpoint)
        write(profiled, config.PIPELINE, run, out)


if __name__ == "__main__":
    user_errors(main)

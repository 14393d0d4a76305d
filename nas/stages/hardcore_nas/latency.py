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
from nas.stages.errors import user_errors
from nas.stages.hardcore_nas import config
from nas.stages.tables import write


def main() -> None:
    s = config.read()
    with config.PIPELINE.stage("latency", s.sections("seed", "space", "latency")) as (run, checkpoint, out):
        space, classes = ProfiledHardcoreNas(s.space), runner.count_classes()
        profiled = profile(s.latency, space, classes, s.seed, s.latency.backend.start(), checkpoint)
        write(profiled, config.PIPELINE, run, out)


if __name__ == "__main__":
    user_errors(main)

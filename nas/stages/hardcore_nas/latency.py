"""Stage latency of HardCoRe-NAS: how long every block of the space takes on this device, in every configuration.

params   pipelines/hardcore_nas/params.yaml: seed, space, latency
reads    outputs/split/metrics.json   (the number of classes)
writes   latency/table.json           `nas.cost.latency_hardcore_nas.load` reads it
         latency/validation.csv       networks that nothing was fitted on: predicted and twice measured latency, MFLOPs
         latency/metrics.json         `nas.latency.validation.figures` on them; the range of latencies; networks; seconds
"""

from nas.latency.hardcore_nas import Surveyed
from nas.latency.row_profiler import survey
from nas.stages import latency as main_pipeline
from nas.stages.errors import user_errors
from nas.stages.hardcore_nas import config
from nas.stages.tables import write


def main() -> None:
    s = config.read()
    with config.PIPELINE.stage("latency", s.sections("seed", "space", "latency")) as (run, checkpoint, out):
        surveyed, classes = Surveyed(s.space), main_pipeline.counted(main_pipeline.CLASSES)
        found = survey(s.latency, surveyed, classes, s.seed, s.latency.backend.start(), checkpoint)
        write(found, surveyed, found.table.latency().range_ms, config.PIPELINE, run, out)


if __name__ == "__main__":
    user_errors(main)

"""Stage latency of TF-NAS: how long every operation of the space takes on this device, by its hidden width.

params   pipelines/tf_nas/params.yaml: seed, space, latency
reads    outputs/split/metrics.json   (the number of classes)
writes   latency/table.json           `nas.cost.latency_tf_nas.load` reads it
         latency/validation.csv       networks that nothing was fitted on: predicted and twice measured latency, MFLOPs
         latency/metrics.json         `nas.latency.validation.figures` on them; the range of latencies; networks; seconds
"""

from nas.latency.row_profiler import survey
from nas.latency.tf_nas import Surveyed
from nas.stages import latency as main_pipeline
from nas.stages.errors import user_errors
from nas.stages.tables import write
from nas.stages.tf_nas import config


def main() -> None:
    s = config.read()
    with config.PIPELINE.stage("latency", s.sections("seed", "space", "latency")) as (run, checkpoint, out):
        surveyed = Surveyed(s.space, s.latency.step)
        classes = main_pipeline.counted(main_pipeline.CLASSES)
        found = survey(s.latency, surveyed, classes, s.seed, s.latency.backend.start(), checkpoint)
        write(found, surveyed, found.table.range_ms(), config.PIPELINE, run, out)


if __name__ == "__main__":
    user_errors(main)

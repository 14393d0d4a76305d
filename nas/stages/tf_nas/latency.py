"""Stage latency of TF-NAS: how long every operation of the space takes on this device, by its hidden width.

params   pipelines/tf_nas/params.yaml: seed, space, latency
reads    outputs/split/metrics.json   (the number of classes)
writes   latency/table.json           `nas.differentiable.tf_nas.latency.load` reads it
         latency/validation.csv       networks that nothing was fitted on: predicted and twice measured latency, MFLOPs
         latency/metrics.json         `nas.latency.judge.figures` on them; the range of latencies; networks; seconds
"""

from nas.differentiable.survey import survey
from nas.differentiable.tf_nas.survey import Surveyed
from nas.stages import latency as main_pipeline
from nas.stages.differentiable.latency import write
from nas.stages.errors import user_errors
from nas.stages.tf_nas import common


def main() -> None:
    s = common.read()
    with common.PIPELINE.stage("latency", s.sections("seed", "space", "latency")) as (run, checkpoint, out):
        surveyed = Surveyed(s.space, s.latency.step)
        classes = main_pipeline.counted(main_pipeline.CLASSES)
        found = survey(s.latency, surveyed, classes, s.seed, s.latency.backend.start(), checkpoint)
        write(found, surveyed, found.table.range_ms(), common.PIPELINE, run, out)


if __name__ == "__main__":
    user_errors(main)

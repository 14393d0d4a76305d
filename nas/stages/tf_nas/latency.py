"""Stage latency of TF-NAS: how long every operation of the space takes on this device, by its hidden width.

params   pipelines/tf_nas/params.yaml: seed, space, latency
reads    outputs/split/metrics.json   (the number of classes)
writes   latency/table.json           `nas.differentiable.tf_nas.latency.load` reads it
         latency/validation.csv       networks that nothing was fitted on: predicted and twice measured latency, MFLOPs
         latency/metrics.json         `nas.latency.judge.figures` on them; the range of latencies; networks; seconds
"""

from nas.differentiable.survey import judged_on, survey
from nas.differentiable.tf_nas.survey import Surveyed
from nas.latency import judge
from nas.stages import latency as main_pipeline
from nas.stages.errors import user_errors
from nas.stages.tf_nas import common


def main() -> None:
    s = common.read()
    with common.PIPELINE.stage("latency", s.sections("seed", "space", "latency")) as (run, checkpoint, out):
        classes = main_pipeline.counted(main_pipeline.CLASSES)
        surveyed = Surveyed(s.space, s.latency.widths)
        found = survey(s.latency, surveyed, classes, s.seed, s.latency.backend.start(), checkpoint)
        found.table.save(out / "table.json")
        judged = judged_on(found, surveyed)
        judged.to_csv(out / "validation.csv", index=False)
        run.artifact(out / "table.json")
        run.table(judged, "validation.json")
        cheapest, dearest = found.table.range_ms()
        metrics = {
            **judge.figures(*(judged[c].to_numpy() for c in ("predicted_latency_ms", "first_latency_ms", "second_latency_ms", "mflops"))),
            "cheapest_latency_ms": cheapest,
            "dearest_latency_ms": dearest,
            "networks": len(judged),
            "seconds": found.table.setting["seconds"],
        }
        common.PIPELINE.finish(out, metrics, run)


if __name__ == "__main__":
    user_errors(main)

"""Stage latency: how long every architecture of the space takes on this device, from its pieces, judged on whole networks.

HardCoRe-NAS (arXiv:2102.11646), section 3.1, for the sum; AttentiveNAS (arXiv:2011.09011), appendix F, names latency as
another metric to sample and search by. Weights are random, so the stage waits for no training. Outputs are
measurements: no two runs give the same bytes, and a table of one device says nothing about another.

params   params.yaml: seed, space, latency
reads    outputs/split/metrics.json       (the number of classes)
writes   outputs/latency/table.json       `nas.cost.latency.load_cost_table` makes a cost of it, in ms
         outputs/latency/validation.csv   raw measurements of whole networks: see `nas.latency.profiler.validation`
         outputs/latency/validation.png   predicted against measured
         outputs/latency/metrics.json     `nas.latency.validation.figures` on networks that nothing was fitted on; the range of
                                          latencies; networks; seconds
"""

from pathlib import Path

from nas.cost import flops
from nas.latency import validation as judge
from nas.latency.profiler import Settings as Latency
from nas.latency.profiler import judged_on, survey, validation
from nas.plots import latency as drawing
from nas.plots import style
from nas.runtime import params
from nas.runtime.io import DocumentError, read_json, short
from nas.stages import runner
from nas.stages.errors import user_errors

OUT = runner.OUTPUTS / "latency"
CLASSES = runner.OUTPUTS / "split" / "metrics.json"


def main() -> None:
    p = params.read("latency", Latency)
    seed, space = runner.seed(), runner.search_space()
    with runner.stage("latency", {"seed": seed, "space": space.name, "latency": p}) as (run, checkpoint):
        classes = counted(CLASSES)
        found = survey(p, space, classes, seed, p.backend.start(), checkpoint)
        rows = validation(found, flops.table(space, classes))
        judged, costs = judged_on(rows), found.table.cost_table()
        found.table.save(OUT / "table.json")
        rows.to_csv(OUT / "validation.csv", index=False)
        style.save(style.image(*drawing.charts(judged, found.table.setting)), OUT / "validation.png")
        for name in ("table.json", "validation.png"):
            run.artifact(OUT / name)
        run.table(judged, "validation.json")
        metrics = {
            **judge.figures(*(judged[c].to_numpy() for c in ("predicted_latency_ms", "first_latency_ms", "second_latency_ms", "mflops"))),
            "min_latency_ms": costs.smallest,
            "max_latency_ms": costs.largest,
            "networks": len(judged),
            "seconds": found.table.setting["seconds"],
        }
        runner.finish("latency", metrics, run)


def counted(path: Path) -> int:
    """The number of classes in stage split's metrics.

    Raises:
        DocumentError: if it is not there.
    """
    found = read_json(path)
    classes = found.get("classes") if isinstance(found, dict) else None
    if type(classes) is not int or classes < 2:
        raise DocumentError(f"{path} is damaged: classes: a number from 2 on is needed, found {short(classes)}; dvc repro --force split")
    return classes


if __name__ == "__main__":
    user_errors(main)

"""Stage latency: a per-block latency lookup table of this device, validated on whole networks.

HardCoRe-NAS (arXiv:2102.11646), section 3.1, for the sum; AttentiveNAS (arXiv:2011.09011), appendix F, names latency as
another metric to sample and search by. Weights are random, so the stage waits for no training. Outputs are
measurements: no two runs give the same bytes, and a table of one device says nothing about another.

params   params.yaml: seed, space, latency
reads    outputs/split/metrics.json       (the number of classes)
writes   outputs/latency/table.json       `nas.cost.latency_mbconv.cost_table` reads it as a cost in ms
         outputs/latency/validation.csv   raw measurements of whole networks: `nas.latency.profiler.Profile.measurements`
         outputs/latency/validation.png   predicted against measured
         outputs/latency/metrics.json     `nas.latency.profiler.Profile.metrics`, on networks that were not fitted on
"""

from pathlib import Path

from nas.latency.mbconv import ProfiledMBConv
from nas.latency.profiler import LatencyConfig as Latency
from nas.latency.profiler import profile
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
        profiled = profile(p, ProfiledMBConv(space), counted(CLASSES), seed, p.backend.start(), checkpoint)
        networks = profiled.validation()
        profiled.table.save(OUT / "table.json")
        profiled.measurements().to_csv(OUT / "validation.csv", index=False)
        style.save(style.image(*drawing.charts(networks, profiled.table.setting)), OUT / "validation.png")
        for name in ("table.json", "validation.png"):
            run.artifact(OUT / name)
        run.table(networks, "validation.json")
        runner.finish("latency", profiled.metrics(), run)


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

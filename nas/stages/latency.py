"""Stage latency: a per-block latency lookup table of this device, validated on whole networks.

HardCoRe-NAS (arXiv:2102.11646), section 3.1, for the sum; AttentiveNAS (arXiv:2011.09011), appendix F, names latency as
another cost to sample and search by. Weights are random, so the stage does not wait for a training. Outputs are
measurements: they differ between runs and devices.

params   params.yaml: seed, space, latency
reads    outputs/split/metrics.json       (the number of classes)
writes   outputs/latency/table.json       `nas.cost.latency_mbconv.cost_table` reads it as a cost in ms
         outputs/latency/validation.csv   raw measurements of whole networks: `nas.latency.profiler.Profile.measurements`
         outputs/latency/validation.png   predicted against measured
         outputs/latency/metrics.json     `nas.latency.profiler.Profile.metrics`, on networks that were not fitted on
"""

from nas.latency.mbconv import ProfiledMBConv
from nas.latency.profiler import profile
from nas.plots import latency as drawing
from nas.plots import style
from nas.runtime import params
from nas.stages import config, runner


def main() -> None:
    cfg = params.read("latency", config.Latency)
    seed, space = params.seed(), config.search_space()
    with runner.stage("latency", {"seed": seed, "space": space.name, "latency": cfg}) as stage:
        profiled = profile(cfg, ProfiledMBConv(space), runner.count_classes(), seed, cfg.backend.start(), stage.checkpoint)
        networks = profiled.validation()
        profiled.table.save(stage.out / "table.json")
        profiled.measurements().to_csv(stage.out / "validation.csv", index=False)
        style.save(style.image(*drawing.charts(networks, profiled.table.setting)), stage.out / "validation.png")
        for name in ("table.json", "validation.png"):
            stage.run.artifact(stage.out / name)
        stage.run.table(networks, "validation.json")
        stage.finish(profiled.metrics())


if __name__ == "__main__":
    runner.execute(main)

"""Stage search of HardCoRe-NAS: a network for each target latency, all from one one-shot model.

HardCoRe-NAS (arXiv:2102.11646), Algorithm 1 and Appendix E: a start of maximum entropy within the target, Frank-Wolfe steps by the
loss of sampled networks on images that the model was not trained on, projection to a network. The latency stays within the target.

params   pipelines/hardcore_nas/params.yaml: seed, space, runtime, images, search
reads    outputs/split/, latency/table.json, train/weights.safetensors, train/metrics.json (seconds)
writes   search/searched.json      for each target: name, target_latency_ms, arch (per stage its blocks' configurations), latency_ms
                                   (of arch, by the table), expected_latency_ms (at the end of the search), max_violation_ms (the
                                   most that any step or the network exceeds the target, by the table)
         search/history.csv        for each target and record: name, step, latency_ms (expected), target_latency_ms, loss (mean of the
                                   networks sampled since the last record, nats; none at the start)
         search/architecture_parameters.npz   <name>_alpha (records, stages, blocks, configurations), <name>_beta (records, stages, depths)
         search/architecture_parameters.png   the same as heatmaps
         search/metrics.json       {"<name>_expected_latency_ms", "<name>_latency_ms", "<name>_max_violation_ms", "<name>_seconds",
                                   "seconds_per_target" (marginal cost of a target), "seconds_shared" (of the one-shot model)}
"""

import numpy as np
import pandas as pd

from nas.cost.latency_hardcore_nas import ExpectedLatency, HardcoreNasLatencyTable
from nas.data.dataset import open_dataset
from nas.data.splits import hold_out
from nas.differentiable.hardcore_nas.one_shot import OneShot
from nas.plots import heatmap
from nas.runtime.checkpoint import load_weights
from nas.runtime.io import read_json
from nas.spaces.hardcore_nas import Space
from nas.stages import runner
from nas.stages.differentiable import TARGET_NAMES, targets_ms
from nas.stages.hardcore_nas import config
from nas.stages.hardcore_nas.searcher import Search, Searcher, outcome

SHARED = config.PIPELINE.out("train") / "metrics.json"


def main() -> None:
    cfg = config.read()
    with runner.stage("search", cfg.sections("seed", "space", "runtime", "images", "search"), config.PIPELINE) as stage:
        device, data = cfg.runtime.start(), open_dataset(runner.out("split"))
        latency = HardcoreNasLatencyTable.load(config.TABLE, cfg.space, len(data.classes)).expected
        targets = targets_ms(cfg.search.targets, latency.range_ms, config.PIPELINE)
        shared = seconds(read_json(SHARED))
        model = OneShot(cfg.space, len(data.classes))
        load_weights(config.WEIGHTS, model)
        model.to(device, memory_format=cfg.runtime.memory_format)
        _, items = hold_out(data.indices("train"), data.labels, cfg.images.held_out, cfg.seed)
        stage.run.dataset("outputs/split/splits.parquet", "search", images=len(items))
        searcher = Searcher(cfg, model, latency, data, items, device, stage.checkpoint, stage.run)
        entries, rows, panels, arrays, metrics = [], [], [], {}, {}
        for name, target_ms in zip(TARGET_NAMES, targets):
            search = searcher.search(name, target_ms)
            end, target = outcome(search, latency, target_ms), {"name": name, "target_latency_ms": round(target_ms, 6)}
            entries.append({**target, **end})
            rows += [{**target, **row} for row in search.rows]
            arrays |= {f"{name}_alpha": search.alpha, f"{name}_beta": search.beta}
            panels.append(heat_maps(f"{name}: {target_ms:.3g} ms", cfg.space, latency, search))
            metrics |= {f"{name}_{key}": end[key] for key in ("expected_latency_ms", "latency_ms", "max_violation_ms")}
            metrics[f"{name}_seconds"] = search.seconds
        runner.write_json(config.SEARCHED, entries)
        pd.DataFrame(rows).to_csv(stage.out / "history.csv", index=False)
        np.savez(stage.out / "architecture_parameters.npz", **arrays)
        heatmap.draw(panels, "step", stage.out / "architecture_parameters.png")
        stage.run.artifact(stage.out / "architecture_parameters.png")
        metrics["seconds_per_target"] = float(np.mean([metrics[f"{entry['name']}_seconds"] for entry in entries]))
        stage.finish({**metrics, "seconds_shared": shared})


def seconds(metrics: object) -> float:
    """The duration of stage train, by its metrics.

    Raises:
        DocumentError: if it is not there.
    """
    try:
        return float(metrics["seconds"])
    except (TypeError, KeyError, ValueError) as error:
        raise config.PIPELINE.damaged(SHARED, error, "train") from None


def heat_maps(title: str, space: Space, latency: ExpectedLatency, search: Search) -> heatmap.Panel:
    """Heatmaps of each stage's depths, and below them of each block's configurations from the fastest (Figure 7)."""
    order = latency.blocks_ms.sum((0, 1)).argsort()
    names = [f"{c.expansion} {c.kernel}x{c.kernel}{' se' if c.se else ''}" for c in (space.configurations[i] for i in order)]
    depths = [
        heatmap.Heatmap(f"depth of {stage.name}", [str(d) for d in stage.depths], search.beta[:, s][:, np.array(stage.depths) - 1])
        for s, stage in enumerate(space.stages)
    ]
    blocks = [
        heatmap.Heatmap(f"{stage.name}, block {1 + b}", names, search.alpha[:, s, b][:, order])
        for s, stage in enumerate(space.stages)
        for b in range(stage.depths[-1])
    ]
    return heatmap.Panel(title, [row["step"] for row in search.rows], [depths, blocks])


if __name__ == "__main__":
    runner.execute(main)

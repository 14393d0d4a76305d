"""Stage search of TF-NAS: a network for each target latency, from a supernet trained on some of the classes.

TF-NAS (arXiv:2008.05314) and its supplement, section 2. The weights-only epochs know no target, so the searches for all
targets continue from them; each then has its own supernet.

params   pipelines/tf_nas/params.yaml: seed, space, runtime, evaluation, search, train
reads    outputs/split/, latency/table.json
writes   search/searched.json         for each target: name, target_latency_ms, operations, depths, widths, epochs
         search/history.csv           for each target and epoch: `nas.differentiable.tf_nas.search.Epoch`
         search/architecture_parameters.npz  <name>_operations (epochs, layers, operations),
                                      <name>_sinks_<stage> (epochs, depth)
         search/architecture_parameters.png  the same as heatmaps
         search/metrics.json          {"classes", "<name>_expected_latency_ms", "<name>_latency_ms", "<name>_same_operation"}
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from nas.cost.latency_tf_nas import TfNasLatencyTable
from nas.data.dataset import open_dataset
from nas.differentiable.tf_nas.search import Search
from nas.plots import heatmap
from nas.spaces.tf_nas import Space
from nas.stages import runner
from nas.stages.differentiable import TARGET_NAMES, targets_ms
from nas.stages.tf_nas import config
from nas.stages.tf_nas.target_searches import Searcher, of_classes, select_classes


def main() -> None:
    cfg = config.read()
    parameters = cfg.sections("seed", "space", "runtime", "evaluation", "search", "train")
    with runner.stage("search", parameters, config.PIPELINE) as stage:
        device, data = cfg.runtime.start(), open_dataset(runner.out("split"))
        table = TfNasLatencyTable.load(config.TABLE, cfg.space, len(data.classes))
        targets = targets_ms(cfg.search.targets, table.range_ms, config.PIPELINE)
        classes = select_classes(data, cfg, device, stage.checkpoint)
        stage.run.dataset("outputs/split/splits.parquet", "search", classes=[data.classes[i] for i in classes])
        searcher = Searcher(cfg, of_classes(data, classes), table, device, stage.checkpoint, stage.run)
        searches = {name: searcher.search(name, target_ms) for name, target_ms in zip(TARGET_NAMES, targets)}
        save(searches, dict(zip(searches, targets)), cfg.space, stage.out)
        stage.run.artifact(stage.out / "architecture_parameters.png")
        metrics = {"classes": len(classes)}
        for name, search in searches.items():
            last = search.history[-1]
            metrics |= {f"{name}_{key}": getattr(last, key) for key in ("expected_latency_ms", "latency_ms", "same_operation")}
        stage.finish(metrics)


def save(searches: dict[str, Search], target_ms: dict[str, float], space: Space, out: Path) -> None:
    """searched.json, history.csv, architecture_parameters.npz and .png of finished searches, by their target's name."""
    entries, rows, arrays, panels = [], [], {}, []
    for name, search in searches.items():
        target = {"name": name, "target_latency_ms": round(target_ms[name], 6)}
        entries.append({**target, **asdict(search.arch), "epochs": len(search.history)})
        rows += [{"name": name, **asdict(epoch)} for epoch in search.history]
        arrays[f"{name}_operations"] = np.stack(search.operations)
        arrays |= {f"{name}_sinks_{i}": np.stack(sinks) for i, sinks in enumerate(zip(*search.sinks))}
        panels.append(heat_maps(f"{name}: {target_ms[name]:.3g} ms", space, search.operations, search.sinks))
    runner.write_json(out / "searched.json", entries)
    pd.DataFrame(rows).to_csv(out / "history.csv", index=False)
    with open(out / "architecture_parameters.npz", "wb") as file:
        np.savez(file, **arrays)
    heatmap.draw(panels, "epoch", out / "architecture_parameters.png")


def heat_maps(title: str, space: Space, operations: Sequence[np.ndarray], sinks: Sequence[Sequence[np.ndarray]]) -> heatmap.Panel:
    """Heatmaps of each layer's operations, and below them of each stage's depths.

    Args:
        operations: per epoch (layers, operations).
        sinks: per epoch and stage (depth,).
    """
    names = [operation.name for operation in space.operations]
    layers = [
        heatmap.Heatmap(f"stage {place.stage + 1}, layer {place.index + 1}", names, weights)
        for place, weights in zip(space.layers, np.stack(operations).swapaxes(0, 1))
    ]
    depths = [
        heatmap.Heatmap(f"depth of stage {i + 1}", [str(1 + d) for d in range(len(stage[0]))], np.stack(stage))
        for i, stage in enumerate(zip(*sinks))
    ]
    return heatmap.Panel(title, range(1, 1 + len(operations)), [layers, depths])


if __name__ == "__main__":
    runner.execute(main)

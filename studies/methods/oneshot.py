"""Stage oneshot: evolution and random search over HardCoRe-NAS's one-shot model, for its targets, then its fine-tuning.

HardCoRe-NAS (arXiv:2102.11646) is compared with such searches. Both score as many networks, each within the target by the same
latency table, by the one-shot model's weights, on images that HardCoRe-NAS's search goes by; the best is fine-tuned as its networks are.

params   studies/methods/params.yaml: oneshot
         pipelines/hardcore_nas/params.yaml: seed, space, runtime, evaluation, images, search.targets, tune
reads    outputs/split/; of HardCoRe-NAS latency/table.json, train/weights.safetensors, train/teacher.safetensors
writes   oneshot/networks.json         a method ("evolution" or "random") and target: method, name, target_latency_ms,
                                       table_latency_ms, top1_held_out (percent, by the one-shot model's weights), evaluations,
                                       scored_mmacs (millions of multiply-accumulates of all networks that were scored),
                                       images (that each was scored on), arch
         oneshot/history.csv           method, name, evaluations, top1_held_out (the best so far)
         oneshot/weights.safetensors   of the fine-tuned networks, as <method>_<name>.<parameter>
         oneshot/metrics.json          {"<method>_<name>_top1_held_out", "evaluations"}
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from nas.cost import latency_hardcore_nas
from nas.cost.flops import multiply_adds
from nas.data import loader
from nas.data.dataset import open_dataset
from nas.differentiable.hardcore_nas.evolution import Evolution, Method, RandomSearch, Scored, Within, search
from nas.differentiable.hardcore_nas.one_shot import OneShot, extract
from nas.differentiable.hardcore_nas.training import tuning_loss
from nas.evaluation.evaluate import top1
from nas.models.blocks import RowNetwork
from nas.runtime import params, seeding
from nas.runtime.checkpoint import Checkpoint, load_weights, save_weights
from nas.runtime.progress import progress
from nas.spaces.hardcore_nas import Arch, Space
from nas.stages import split
from nas.stages.errors import user_errors
from nas.stages.hardcore_nas import config as hardcore_nas
from nas.stages.hardcore_nas.train import TEACHER, WEIGHTS
from nas.stages.pipelines import NAMES, divided, placed
from nas.stages.runner import write_json
from nas.tracking.session import StageRun
from studies.methods import config

OUT = config.PIPELINE.outputs / "oneshot"
NETWORKS, TUNED = OUT / "networks.json", OUT / "weights.safetensors"


def main() -> None:
    p, s = config.read().oneshot, hardcore_nas.read()
    parameters = s.sections("seed", "space", "runtime", "evaluation", "images", "tune") | {"oneshot": p}
    with config.PIPELINE.stage("oneshot", parameters) as (run, checkpoint, out):
        device, data = s.runtime.start(), open_dataset(split.OUT)
        classes, items = len(data.classes), data.indices("train")
        latency = latency_hardcore_nas.LatencyTable.load(hardcore_nas.TABLE, s.space, classes).expected
        place = f"{hardcore_nas.PIPELINE.parameters}: search.targets"
        targets = wanted(p.targets, sorted(target.ms(*latency.range_ms, place) for target in s.search.targets))
        model, teacher = OneShot(s.space, classes), RowNetwork(s.space.plan(s.space.largest()), classes)
        load_weights(WEIGHTS, model)
        load_weights(TEACHER, teacher)
        model.eval()
        teacher.to(device, memory_format=s.runtime.memory_format).eval()
        _, held_out = divided(data, items, s.images.held_out, s.seed)
        seen = seeding.generator(s.seed, "oneshot", "pictures").choice(held_out, min(p.images, len(held_out)), replace=False)
        run.dataset(str(split.OUT / "splits.parquet"), "search", images=len(seen))
        images = list(placed(loader.EvaluationBatches(data, seen, s.evaluation.batch), s.runtime, device))

        def score(arch: Arch) -> float:
            return top1(extract(model, arch).to(device, memory_format=s.runtime.memory_format), images)

        trainer = hardcore_nas.Trainer("tune", s, data, device, checkpoint, run)
        entries, rows, tuned, metrics = [], [], nn.ModuleDict(), {}
        for name, target_ms in targets.items():
            within = Within(s.space, latency, target_ms)
            kept = partial(scored, score, s.seed, checkpoint, run)
            evolved = kept(f"evolution_{name}", Evolution(within, p.evolution), 1 + p.evolution.rounds)
            block = p.evolution.population
            drawn = kept(f"random_{name}", RandomSearch(within, len(evolved), block), -(-len(evolved) // block))
            for method, found in (("evolution", evolved), ("random", drawn)):
                best, key = max(found, key=lambda one: one.score), f"{method}_{name}"
                entry = {
                    "method": method,
                    "name": name,
                    "target_latency_ms": round(target_ms, 6),
                    "table_latency_ms": round(latency.of(best.arch), 6),
                }
                entries.append({**entry, **figures(best, found, s.space, classes), "images": len(seen), "arch": best.arch})
                rows += [{"method": method, "name": name, **row} for row in curve(found)]
                network = extract(model, best.arch)
                trainer.fit(key, "tuning", network, tuning_loss(network, teacher, s.tune.tuning.label_smoothing), items, s.tune.tuning)
                tuned[key] = network
                metrics[f"{key}_top1_held_out"] = best.score
        write_json(NETWORKS, entries)
        pd.DataFrame(rows).to_csv(out / "history.csv", index=False)
        save_weights(TUNED, tuned)
        config.PIPELINE.finish(out, metrics | {"evaluations": sum(entry["evaluations"] for entry in entries)}, run)


def wanted(names: Sequence[str] | None, targets_ms: Sequence[float]) -> dict[str, float]:
    """Milliseconds of the targets of these names; None: all.

    Raises:
        ParamsError: for a name that HardCoRe-NAS has no target of.
    """
    targets = dict(zip(NAMES, targets_ms))
    if unknown := sorted(set(names or ()) - set(targets)):
        raise params.ParamsError(
            f"{config.PIPELINE.parameters}: oneshot.targets: {unknown[0]!r} is none of HardCoRe-NAS's targets, {list(targets)}"
        )
    return {name: ms for name, ms in targets.items() if names is None or name in names}


def scored(
    score: Callable[[Arch], float], seed: int, checkpoint: Checkpoint, run: StageRun, name: str, method: Method, rounds: int
) -> list[Scored]:
    """All that a search scores; goes on from its last whole round."""
    state = checkpoint.load(f"{name}-search.pt") or {"archs": [], "scores": [], "round": 0}
    found = [Scored(Arch(map(tuple, arch)), one) for arch, one in zip(state["archs"], state["scores"])]
    number = state["round"]
    with torch.no_grad():
        parts = search(method, score, partial(seeding.generator, seed, "oneshot", name), found, number)
        for found in progress(parts, f"oneshot: rounds of {name}", rounds, number):
            number += 1
            archs = [[list(stage) for stage in one.arch] for one in found]
            checkpoint.save({"archs": archs, "scores": [one.score for one in found], "round": number}, f"{name}-search.pt")
            run.log({f"oneshot/{name}/top1_held_out": max(one.score for one in found)}, len(found))
    return found


def figures(best: Scored, found: Sequence[Scored], space: Space, classes: int) -> dict[str, Any]:
    """Of the best network of a search, and of the search."""
    return {
        "top1_held_out": round(best.score, 6),
        "evaluations": len(found),
        "scored_mmacs": round(sum(multiply_adds(space.plan(one.arch), classes).products for one in found) / 1e6, 6),
    }


def curve(found: Sequence[Scored]) -> list[dict[str, float]]:
    """The best score so far, wherever it rises, and at the end."""
    best = np.maximum.accumulate([one.score for one in found])
    rises = np.flatnonzero(np.diff(best, prepend=-np.inf))
    return [{"evaluations": int(i) + 1, "top1_held_out": float(best[i])} for i in dict.fromkeys([*rises, len(best) - 1])]


if __name__ == "__main__":
    user_errors(main)

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

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas as pd
import torch
from torch import nn

from nas.cost import latency_hardcore_nas
from nas.cost.flops import multiply_adds
from nas.data import loader
from nas.data.dataset import open_dataset
from nas.differentiable.hardcore_nas.one_shot import OneShot, extract
from nas.differentiable.hardcore_nas.training import tuning_loss
from nas.evaluation.evaluate import top1
from nas.models.blocks import RowNetwork
from nas.runtime import params, seeding
from nas.runtime.checkpoint import Checkpoint, load_weights, save_weights
from nas.runtime.progress import progress
from nas.search.archive import Archive
from nas.search.evolution import RandomSearch
from nas.search.loop import Method, search
from nas.search.problem import Problem
from nas.spaces.hardcore_nas import Arch, Space
from nas.stages import split
from nas.stages.errors import user_errors
from nas.stages.hardcore_nas import config as hardcore_nas
from nas.stages.hardcore_nas.config import TEACHER, WEIGHTS
from nas.stages.hardcore_nas.trainer import Trainer
from nas.stages.pipelines import NAMES, divided, placed
from nas.stages.runner import write_json
from nas.tracking.runs import StageRun
from studies.methods import config
from studies.methods.evolution import Evolution, latency_problem, max_entropy_draw

OUT = config.PIPELINE.outputs / "oneshot"
NETWORKS, TUNED = OUT / "networks.json", OUT / "weights.safetensors"


def main() -> None:
    p, s = config.read().oneshot, hardcore_nas.read()
    parameters = s.sections("seed", "space", "runtime", "evaluation", "images", "tune") | {"oneshot": p}
    with config.PIPELINE.stage("oneshot", parameters) as (run, checkpoint, out):
        device, data = s.runtime.start(), open_dataset(split.OUT)
        classes, items = len(data.classes), data.indices("train")
        latency = latency_hardcore_nas.HardcoreNasLatencyTable.load(hardcore_nas.TABLE, s.space, classes).expected
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

        trainer = Trainer("tune", s, data, device, checkpoint, run)
        entries, rows, tuned, metrics = [], [], nn.ModuleDict(), {}
        for name, target_ms in targets.items():
            problem, draw = latency_problem(s.space, latency, target_ms), max_entropy_draw(latency, target_ms)

            def run_method(method: Method, key: str, problem: Problem = problem) -> Archive:
                return run_search(method, problem, score, s.seed, checkpoint, run, key)

            evolved = run_method(Evolution(p.evolution, draw, f"oneshot evolution {name}"), f"evolution_{name}")
            random = RandomSearch(len(evolved), p.evolution.population, draw, f"oneshot random {name}")
            drawn = run_method(random, f"random_{name}")
            for method, archive in (("evolution", evolved), ("random", drawn)):
                archs, best = problem.decode(archive.rows), int(archive.score.argmax())
                arch, key = archs[best], f"{method}_{name}"
                entry = {
                    "method": method,
                    "name": name,
                    "target_latency_ms": round(target_ms, 6),
                    "table_latency_ms": round(latency.of(arch), 6),
                }
                entry |= {"top1_held_out": round(archive.score[best], 6), "evaluations": len(archive)}
                entries.append({**entry, "scored_mmacs": scored_mmacs(archs, s.space, classes), "images": len(seen), "arch": arch})
                rows += [{"method": method, "name": name, **row} for row in curve(archive.score)]
                network = extract(model, arch)
                trainer.fit(key, "tuning", network, tuning_loss(network, teacher, s.tune.tuning.label_smoothing), items, s.tune.tuning)
                tuned[key] = network
                metrics[f"{key}_top1_held_out"] = float(archive.score[best])
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


def run_search(
    method: Method, problem: Problem, score: Callable[[Arch], float], seed: int, checkpoint: Checkpoint, run: StageRun, name: str
) -> Archive:
    """Run a search; it resumes after its last complete round."""
    file = f"{name}-search.pt"
    state = checkpoint.load(file)
    archive = Archive(**{key: tensor.numpy() for key, tensor in state.items()}) if state else None

    def scores(archs: list[Arch]) -> Iterable[float]:
        return progress(map(score, archs), f"oneshot: {name}", len(archs))

    def save(archive: Archive, round_number: int) -> None:
        checkpoint.save({key: torch.from_numpy(array) for key, array in archive.to_arrays().items()}, file)
        run.log({f"oneshot/{name}/top1_held_out": float(archive.score.max())}, len(archive))

    with torch.no_grad():
        return search(method, problem, score=scores, seed=seed, archive=archive, on_round=save)


def scored_mmacs(archs: Sequence[Arch], space: Space, classes: int) -> float:
    """Multiply-accumulates of one image through all of these networks, millions."""
    return round(sum(multiply_adds(space.plan(arch), classes).products for arch in archs) / 1e6, 6)


def curve(scores: np.ndarray) -> list[dict[str, float]]:
    """The best score so far (n,) at each of its rises, and at the end."""
    best = np.maximum.accumulate(scores)
    rises = np.flatnonzero(np.diff(best, prepend=-np.inf))
    return [{"evaluations": int(i) + 1, "top1_held_out": float(best[i])} for i in dict.fromkeys([*rises, len(best) - 1])]


if __name__ == "__main__":
    user_errors(main)

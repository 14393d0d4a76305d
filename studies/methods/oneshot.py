"""Stage oneshot: evolution and random search over HardCoRe-NAS's one-shot model, for its targets, then its fine-tuning.

HardCoRe-NAS (arXiv:2102.11646) is compared with such searches. Both evaluate the same number of networks, each within the target by
the same latency table, with the one-shot model's weights, on images of HardCoRe-NAS's search; the best is fine-tuned as its networks are.

params   studies/methods/params.yaml: oneshot
         pipelines/hardcore_nas/params.yaml: seed, space, runtime, evaluation, images, search.targets, tune
reads    outputs/split/; of HardCoRe-NAS latency/table.json, train/weights.safetensors, train/teacher.safetensors
writes   oneshot/networks.json         per method ("evolution" or "random") and target: method, name, target_latency_ms,
                                       table_latency_ms, top1_held_out (percent, with the one-shot model's weights), evaluations,
                                       scored_mmacs (millions of multiply-accumulates of all evaluated networks),
                                       images (per evaluation), arch
         oneshot/history.csv           method, name, evaluations, top1_held_out (the best so far)
         oneshot/weights.safetensors   of the fine-tuned networks, as <method>_<name>.<parameter>
         oneshot/metrics.json          {"<method>_<name>_top1_held_out", "evaluations"}
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from nas.cost import latency_hardcore_nas
from nas.cost.flops import multiply_adds
from nas.cost.latency_hardcore_nas import ExpectedLatency
from nas.data import loader
from nas.data.dataset import ImageDataset, open_dataset
from nas.data.splits import hold_out
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
from nas.stages import runner
from nas.stages.differentiable import TARGET_NAMES
from nas.stages.hardcore_nas import config as hardcore_nas
from nas.stages.hardcore_nas.config import TEACHER, WEIGHTS, HardcoreNasParams
from nas.stages.hardcore_nas.resumable_training import Trainer
from nas.stages.runner import Stage
from nas.tracking.runs import StageRun
from studies.methods import config
from studies.methods.evolution import Evolution, latency_problem, max_entropy_draw


def main() -> None:
    cfg, own = config.read().oneshot, hardcore_nas.read()
    parameters = own.sections("seed", "space", "runtime", "evaluation", "images", "tune") | {"oneshot": cfg}
    with runner.stage("oneshot", parameters, config.PIPELINE) as stage:
        device, data = own.runtime.start(), open_dataset(runner.out("split"))
        classes, items = len(data.classes), data.indices("train")
        latency = latency_hardcore_nas.HardcoreNasLatencyTable.load(hardcore_nas.TABLE, own.space, classes).expected
        place = f"{hardcore_nas.PIPELINE.parameters}: search.targets"
        targets = named_targets(cfg.targets, sorted(target.ms(*latency.range_ms, place) for target in own.search.targets))
        model, teacher = OneShot(own.space, classes), RowNetwork(own.space.plan(own.space.largest()), classes)
        load_weights(WEIGHTS, model)
        load_weights(TEACHER, teacher)
        model.eval()
        teacher.to(device, memory_format=own.runtime.memory_format).eval()
        images = search_images(cfg, own, data, device)
        stage.run.dataset(str(runner.out("split") / "splits.parquet"), "search", images=images.count)
        searches = Searches(cfg, own, model, latency, images.batches, device, stage)
        trainer = Trainer("tune", own, data, device, stage.checkpoint, stage.run)
        entries, rows, tuned, metrics = [], [], nn.ModuleDict(), {}
        for name, target_ms in targets.items():
            for method, archive, archs in searches.run(name, target_ms):
                best, key = int(archive.score.argmax()), f"{method}_{name}"
                target = {"target_latency_ms": round(target_ms, 6), "table_latency_ms": round(latency.of(archs[best]), 6)}
                entry = {"method": method, "name": name, **target}
                entry |= {"top1_held_out": round(archive.score[best], 6), "evaluations": len(archive)}
                mmacs = scored_mmacs(archs, own.space, classes)
                entries.append({**entry, "scored_mmacs": mmacs, "images": images.count, "arch": archs[best]})
                rows += [{"method": method, "name": name, **row} for row in curve(archive.score)]
                network = extract(model, archs[best])
                loss = tuning_loss(network, teacher, own.tune.tuning.label_smoothing)
                trainer.fit(key, "tuning", network, loss, items, own.tune.tuning)
                tuned[key] = network
                metrics[f"{key}_top1_held_out"] = float(archive.score[best])
        runner.write_json(stage.out / "networks.json", entries)
        pd.DataFrame(rows).to_csv(stage.out / "history.csv", index=False)
        save_weights(stage.out / "weights.safetensors", tuned)
        stage.finish(metrics | {"evaluations": sum(entry["evaluations"] for entry in entries)})


@dataclass(frozen=True, eq=False)
class SearchImages:
    """Images on which networks are scored."""

    count: int
    batches: list[tuple[Tensor, Tensor]]  # normalised images (B, 3, H, W) and labels (B,), on the device


def search_images(cfg: config.OneShot, own: HardcoreNasParams, data: ImageDataset, device: torch.device) -> SearchImages:
    """A draw from the images of HardCoRe-NAS's search."""
    _, held_out = hold_out(data.indices("train"), data.labels, own.images.held_out, own.seed)
    drawn = seeding.generator(own.seed, "oneshot", "pictures").choice(held_out, min(cfg.images, len(held_out)), replace=False)
    return SearchImages(len(drawn), list(own.runtime.to_device(loader.EvaluationBatches(data, drawn, own.evaluation.batch), device)))


class Searches:
    """Evolution and random search over the one-shot model, with its weights."""

    def __init__(
        self,
        cfg: config.OneShot,
        own: HardcoreNasParams,
        model: OneShot,
        latency: ExpectedLatency,
        batches: Sequence[tuple[Tensor, Tensor]],
        device: torch.device,
        stage: Stage,
    ) -> None:
        self._cfg, self._own, self._model, self._latency, self._stage = cfg.evolution, own, model, latency, stage
        self._batches, self._device = batches, device

    def run(self, name: str, target_ms: float) -> Iterator[tuple[str, Archive, list[Arch]]]:
        """Method, archive and its architectures for a target: evolution, then random search with as many evaluations.

        Args:
            name: of the target.
        """
        problem, draw = latency_problem(self._own.space, self._latency, target_ms), max_entropy_draw(self._latency, target_ms)
        evolved = self._search(Evolution(self._cfg, draw, f"oneshot evolution {name}"), problem, f"evolution_{name}")
        random = RandomSearch(len(evolved), self._cfg.population, draw, f"oneshot random {name}")
        drawn = self._search(random, problem, f"random_{name}")
        for method, archive in (("evolution", evolved), ("random", drawn)):
            yield method, archive, problem.decode(archive.rows)

    def _search(self, method: Method, problem: Problem, key: str) -> Archive:
        return run_search(method, problem, self.score, self._own.seed, self._stage.checkpoint, self._stage.run, key)

    def score(self, arch: Arch) -> float:
        """Top-1, percent, with the one-shot model's weights."""
        network = extract(self._model, arch).to(self._device, memory_format=self._own.runtime.memory_format)
        return top1(network, self._batches)


def named_targets(names: Sequence[str] | None, targets_ms: Sequence[float]) -> dict[str, float]:
    """Latencies in ms of the targets of these names; None: all.

    Raises:
        ParamsError: for a name that is none of HardCoRe-NAS's targets.
    """
    targets = dict(zip(TARGET_NAMES, targets_ms))
    if unknown := sorted(set(names or ()) - set(targets)):
        raise params.ParamsError(
            f"{config.PIPELINE.parameters}: oneshot.targets: {unknown[0]!r} is not among HardCoRe-NAS's targets, {list(targets)}"
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
    runner.execute(main)

"""Stage starts: searches from the fastest network, from the balanced start and from others (Appendix E, Equation 27).

The one-shot model, the targets and the images are those of stage search of HardCoRe-NAS; its own start, `search.start`, is
one of the starts. Seeds decide images and networks drawn. The network of a search is evaluated with the one-shot model's weights
on the images of the search, and fine-tuned as in stage tune of HardCoRe-NAS; no choice depends on the test images.

params   studies/hardcore_nas_claims/params.yaml: starts
         pipelines/hardcore_nas/params.yaml: seed, space, runtime, evaluation, images, search, tune
reads    outputs/split/; of HardCoRe-NAS latency/table.json, train/weights.safetensors, train/teacher.safetensors
writes   starts/results.csv    per search: seed, start (share of the way from the fastest network to the target), target (its name),
                               target_latency_ms, table_latency_ms, max_violation_ms (maximum excess of a step or the network over
                               the target), loss (nats) and top1_held_out (percent): with the one-shot model's weights;
                               top1 (percent, test, fine-tuned), arch, step_ms (of the search), programme_ms (per linear
                               programme)
         starts/history.csv    per search and recorded step: seed, start, target, step, latency_ms (expected), loss
         starts/metrics.json   {"start_<start>_loss", "start_<start>_top1"}: means; {"improvement_percent"}: Equation 27
"""

import time
from collections.abc import Iterable
from dataclasses import replace
from itertools import product
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.cost import latency_hardcore_nas
from nas.cost.latency_hardcore_nas import ExpectedLatency
from nas.data.loader import EvaluationBatches
from nas.data.splits import hold_out
from nas.differentiable.hardcore_nas import frank_wolfe
from nas.differentiable.hardcore_nas.frank_wolfe import State
from nas.runtime.progress import progress
from nas.spaces.hardcore_nas import Arch
from nas.stages import runner
from nas.stages.differentiable import TARGET_NAMES
from nas.stages.hardcore_nas import config as hardcore_nas
from nas.stages.hardcore_nas.searcher import Searcher, outcome
from studies.hardcore_nas_claims import config

TIMING_REPEATS = 50  # of a linear programme


def main() -> None:
    cfg = config.read()
    own = cfg.hardcore_nas
    with runner.stage("starts", cfg.sections("starts"), config.PIPELINE) as stage:
        networks = config.Networks(own, stage.checkpoint, stage.run)
        data, device = networks.data, networks.device
        latency = latency_hardcore_nas.HardcoreNasLatencyTable.load(hardcore_nas.TABLE, own.space, len(data.classes)).expected
        place = f"{hardcore_nas.PIPELINE.parameters}: search.targets"
        targets = dict(zip(TARGET_NAMES, sorted(target.ms(*latency.range_ms, place) for target in own.search.targets)))
        _, items = hold_out(data.indices("train"), data.labels, own.images.held_out, own.seed)
        images = EvaluationBatches(data, items, own.evaluation.batch, own.runtime.workers)
        rows, history, jobs = [], [], list(product(cfg.starts.seeds, sorted([own.search.start, *cfg.starts.shares]), targets))
        for seed, share, target in progress(jobs, "starts: searches", len(jobs)):
            varied = replace(own, seed=seed, search=own.search.model_copy(update={"start": share}))
            searcher = Searcher(varied, networks.model, latency, data, items, device, stage.checkpoint, stage.run)
            search = searcher.search(f"{seed}-{share:g}-{target}", targets[target])
            history += [{"seed": seed, "start": share, "target": target, **row} for row in search.rows]
            end = outcome(search, latency, targets[target])
            loss, held_out = loss_and_top1(networks.inherited(end["arch"]), own.runtime.to_device(images, device))
            tuned, _ = networks.tuned(arch_name(end["arch"]), end["arch"], own.tune.tuning.epochs)
            rows.append(
                {
                    "seed": seed,
                    "start": share,
                    "target": target,
                    "target_latency_ms": targets[target],
                    "table_latency_ms": end["latency_ms"],
                    "max_violation_ms": end["max_violation_ms"],
                    "loss": loss,
                    "top1_held_out": held_out,
                    "top1": networks.top1(tuned),
                    "arch": arch_name(end["arch"]),
                    "step_ms": 1000 * search.seconds / own.search.steps,
                    "programme_ms": programme_ms(search.state, latency, targets[target]),
                }
            )
        pd.DataFrame(history).to_csv(stage.out / "history.csv", index=False, float_format="%.9g")
        results = pd.DataFrame(rows)
        results.to_csv(stage.out / "results.csv", index=False, float_format="%.9g")
        stage.run.table(results, "results.json")
        stage.finish(metrics(results, own.search.start))


@torch.no_grad()
def loss_and_top1(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """Mean cross-entropy, nats, and top-1, percent.

    Args:
        network: in eval mode.
        batches: normalised images (B, 3, H, W) and labels (B,), on the network's device.
    """
    logits, labels = (torch.cat(part) for part in zip(*((network(images), labels) for images, labels in batches)))
    return F.cross_entropy(logits, labels).item(), 100 * (logits.argmax(1) == labels).double().mean().item()


def arch_name(arch: Arch) -> str:
    """A name unique within the space: the numbers of the configurations, stage by stage."""
    return "_".join("-".join(map(str, stage)) for stage in arch)


def programme_ms(state: State, latency: ExpectedLatency, target_ms: float) -> float:
    """Milliseconds per linear programme at a point of the search, the mean of alpha's and beta's."""
    began = time.perf_counter()
    for _ in range(TIMING_REPEATS):
        frank_wolfe.best_alpha(state.mean.alpha, state.relaxed, latency, target_ms)
        frank_wolfe.best_beta(state.mean.beta, state.relaxed, latency, target_ms)
    return 1000 * (time.perf_counter() - began) / (2 * TIMING_REPEATS)


def metrics(results: pd.DataFrame, start: float) -> dict[str, Any]:
    """Metrics of the stage.

    Args:
        start: HardCoRe-NAS's own.
    """
    means = results.groupby("start")[["loss", "top1"]].mean()
    by_start = {f"start_{share:g}_{key}": mean for share, row in means.iterrows() for key, mean in row.items()}
    return by_start | {"improvement_percent": config.improvement(results, start)}


if __name__ == "__main__":
    runner.execute(main)

"""Stage report of the methods: every network of every method on the test images and on this device; a figure and a page.

All networks are measured in the same rounds, on images as the data set has them: a network that makes them smaller does so
within its time. Batch norm is folded. The stage chooses nothing.

params   params.yaml: seed, space, recipe, evaluation, train, search; studies/methods/params.yaml: baselines, report;
         pipelines/tf_nas/params.yaml and pipelines/hardcore_nas/params.yaml: what their trainings are
reads    outputs/split/, the networks of every method, what their searches measured
writes   report/networks.csv   method, network, latency_ms (a batch), noise (how far two measurements differ, a fraction), mflops,
                               parameters, top1 (percent, test)
         report/costs.csv      `studies.methods.found.costs`
         report/metrics.json   {"<method>_<network>_top1", "<method>_training_tmacs"}
         docs/methods.md, docs/methods.png
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from nas.data import loader
from nas.data.dataset import open_dataset
from nas.latency.profiler import RoundRunner
from nas.latency.timing import Program
from nas.models.fuse import fold
from nas.plots import style
from nas.runtime import params
from nas.runtime.checkpoint import Checkpoint
from nas.runtime.progress import progress
from nas.stages import runner as main_pipeline
from nas.stages import split
from nas.stages.errors import user_errors
from nas.stages.pipelines import placed
from nas.tracking import provenance, session, store
from studies.methods import config, found, page
from studies.methods.cost import mmacs_of

PAGE, PICTURE = Path("docs/methods.md"), Path("docs/methods.png")
ADDRESS = f"{config.PIPELINE.folder}/dvc.yaml:report"


def main() -> None:
    s, seed = config.read(), main_pipeline.seed()
    _, runtime, evaluation = main_pipeline.shared()
    parameters = {
        "seed": seed,
        "evaluation": evaluation,
        "baselines": {"networks": [c.name for c in s.baselines.networks]},
        "report": s.report,
    }
    with config.PIPELINE.stage("report", parameters) as (run, checkpoint, out):
        device, data = runtime.start(), open_dataset(split.OUT)
        run.dataset(str(split.OUT / "splits.parquet"), "test", images=len(data.indices("test")))
        methods = found.all_found(s, data)
        listed = found.models(methods)
        modules = [module for _, _, module in listed]
        ms = measured(modules, data.side, s.report, seed, checkpoint)
        mmacs = [mmacs_of(module, data.side) for module in modules]
        test = loader.EvaluationBatches(data, data.indices("test"), evaluation.batch, runtime.workers)
        shown = progress(placed(test, runtime, device), "report: batches of test images", len(test))
        right = answered(modules, shown, device)
        networks = pd.DataFrame(
            {
                "method": [method for method, _, _ in listed],
                "network": [name for _, name, _ in listed],
                "latency_ms": ms.latency_ms,
                "noise": ms.noise,
                "mflops": mmacs,
                "parameters": [sum(p.numel() for p in module.parameters()) for module in modules],
                "top1": 100 * right.mean(1),
            }
        )
        costs = found.costs(methods)
        networks.to_csv(out / "networks.csv", index=False, float_format="%.6g")
        costs.to_csv(out / "costs.csv", index=False, float_format="%.6g")
        PAGE.parent.mkdir(exist_ok=True)
        style.save(style.image(*page.charts(networks, s.report.batch)), PICTURE)
        PAGE.write_text(page.page(networks, right, costs, facts(s, data, ms), PICTURE.name))
        for path in (PAGE, PICTURE):
            run.artifact(path)
        run.table(networks, "networks.json")
        run.table(costs, "costs.json")
        totals = page.total_costs(costs, networks).set_index("method")["total"]
        metrics = {f"{key(row.method)}_{key(row.network)}_top1": row.top1 for row in networks.itertuples()}
        config.PIPELINE.finish(out, metrics | {f"{key(method)}_training_tmacs": total for method, total in totals.items()}, run)
        fronts(networks, totals)


@dataclass(frozen=True, eq=False)
class Measured:
    """Networks on the device."""

    latency_ms: np.ndarray  # (networks,) of a batch
    noise: np.ndarray  # (networks,) how far two measurements of each differ, even and odd rounds, as a fraction
    rounds: int
    device: dict[str, Any]  # as the backend describes it


def measured(networks: Sequence[nn.Module], side: int, p: config.Report, seed: int, checkpoint: Checkpoint) -> Measured:
    """All in the same rounds, beside the cheapest of them.

    Args:
        networks: in eval mode.
        side: of the images, pixels.

    Raises:
        ValueError: if the time limit is too short for two rounds.
    """
    backend = p.backend.start()
    cheapest = min(range(len(networks)), key=lambda i: mmacs_of(networks[i], side))
    with torch.random.fork_rng(devices=[]), backend.running():
        torch.default_generator.manual_seed(seed)
        images = backend.random(p.batch, 3, side)
        programs = [Program((backend.prepare(fold(network), images),), images) for network in networks]
        rounds = RoundRunner(backend.clock, p.repetitions, seed, checkpoint).run("networks", programs, programs[cheapest], p.limit_s)
    ms = 1000 * rounds.normalised([1] * len(programs))
    of_all, even, odd = (np.median(part, axis=0) for part in (ms, ms[::2], ms[1::2]))
    return Measured(of_all, np.abs(odd - even) / of_all, len(rounds), backend.facts())


@torch.no_grad()
def answered(networks: Sequence[nn.Module], batches: Iterable[tuple[Tensor, Tensor]], device: torch.device) -> np.ndarray:
    """(networks, images) whether each names each rightly; leaves the networks on the device.

    Args:
        batches: normalised images (B, 3, H, W) and labels (B,), on the device.
    """
    for network in networks:
        network.to(device)
    parts = [np.stack([(network(images).argmax(1) == labels).cpu().numpy() for network in networks]) for images, labels in batches]
    return np.concatenate(parts, axis=1)


def fronts(networks: pd.DataFrame, training_tmacs: pd.Series) -> None:
    """A run a method, all below one run, with the same curves `front/...`, a step a network from the fastest on.

    So MLflow's chart of front/top1 over front/latency_ms, or over front/mflops, shows all fronts.
    """
    tracking = params.read("tracking", store.TrackingConfig).model_copy(update={"system_metrics": False})
    group = session.Group("fronts", provenance.fingerprint(ADDRESS)[:16])
    for method, rows in networks.groupby("method", sort=False):
        said = {"method": method, "weights": found.METHODS[method]}
        with session.stage_run(ADDRESS, said, method, tracking, f"{method}, front", group, shares=False) as run:
            run.front(rows.sort_values("latency_ms").to_dict("records"))
            run.summary({"training_tmacs": training_tmacs[method], "networks": len(rows)}, "front")


def facts(s: config.Settings, data: loader.ImageDataset, ms: Measured) -> dict[str, object]:
    """What was run, for the page."""
    batch, device = f"{s.report.batch} images of {data.side} px", ms.device
    return {
        "data": f"{data.title}, {len(data.classes)} classes",
        "images to train on": f"{len(data.indices('train')):,}; AttentiveNAS and AlphaNet {len(data.indices('train', 'predictor')):,}",
        "images for testing": f"{len(data.indices('test')):,}",
        "device": f"{device['device']}, {device['threads']} thread{'s' * (device['threads'] > 1)}, torch {device['versions']['torch']}",
        "latency": f"of a batch of {batch}, batch norm folded, median of {ms.rounds} rounds over all networks; two measurements of a "
        f"network differ by {np.median(ms.noise):.1%} (median; above some percent the machine was busy: dvc repro -f {ADDRESS})",
    }


def key(name: str) -> str:
    """As part of a metric's name."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower())


if __name__ == "__main__":
    user_errors(main)

"""Stage report of the methods: every network of every method on the test images and on this device; a figure and a page.

All networks are measured in the same rounds, on images of the dataset's size: resizing within a network is part of its latency. Batch
norm is folded. The stage makes no choice.

params   params.yaml: seed, space, recipe, evaluation, train, search; studies/methods/params.yaml: baselines, report;
         pipelines/tf_nas/params.yaml and pipelines/hardcore_nas/params.yaml: the trainings of these methods
reads    outputs/split/, the networks of every method, the evaluations of their searches
writes   report/networks.csv   method, network, latency_ms (per batch), noise (relative difference of two measurements), mflops,
                               parameters, top1 (percent, test)
         report/costs.csv      `studies.methods.results.compute_table`
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
from nas.data.dataset import ImageDataset, open_dataset
from nas.latency.profiler import RoundRunner
from nas.latency.timing import Program
from nas.models.fuse import fold
from nas.plots import style
from nas.runtime import params
from nas.runtime.checkpoint import Checkpoint
from nas.runtime.progress import progress
from nas.stages import config as main_config
from nas.stages import runner
from nas.tracking import provenance, session, store
from studies.methods import config, page, results
from studies.methods.compute import network_mmacs

PAGE, IMAGE = Path("docs/methods.md"), Path("docs/methods.png")
ADDRESS = config.PIPELINE.address("report")


def main() -> None:
    cfg, seed = config.read(), params.seed()
    _, runtime, evaluation = main_config.shared()
    parameters = {
        "seed": seed,
        "evaluation": evaluation,
        "baselines": {"networks": [c.name for c in cfg.baselines.networks]},
        "report": cfg.report,
    }
    with runner.stage("report", parameters, config.PIPELINE) as stage:
        device, data = runtime.start(), open_dataset(runner.out("split"))
        stage.run.dataset(str(runner.out("split") / "splits.parquet"), "test", images=len(data.indices("test")))
        methods = results.read_all(cfg, data)
        listed = results.all_networks(methods)
        modules = [module for _, _, module in listed]
        latencies = measure(modules, data.side, cfg.report, seed, stage.checkpoint)
        mmacs = [network_mmacs(module, data.side) for module in modules]
        test = loader.EvaluationBatches(data, data.indices("test"), evaluation.batch, runtime.workers)
        batches = progress(runtime.to_device(test, device), "report: batches of test images", len(test))
        correct = predictions(modules, batches, device)
        networks = pd.DataFrame(
            {
                "method": [method for method, _, _ in listed],
                "network": [name for _, name, _ in listed],
                "latency_ms": latencies.latency_ms,
                "noise": latencies.noise,
                "mflops": mmacs,
                "parameters": [sum(p.numel() for p in module.parameters()) for module in modules],
                "top1": 100 * correct.mean(1),
            }
        )
        compute = results.compute_table(methods)
        networks.to_csv(stage.out / "networks.csv", index=False, float_format="%.6g")
        compute.to_csv(stage.out / "costs.csv", index=False, float_format="%.6g")
        PAGE.parent.mkdir(exist_ok=True)
        style.save(style.image(*page.charts(networks, cfg.report.batch)), IMAGE)
        PAGE.write_text(page.page(networks, correct, compute, facts(cfg, data, latencies), IMAGE.name))
        for path in (PAGE, IMAGE):
            stage.run.artifact(path)
        stage.run.table(networks, "networks.json")
        stage.run.table(compute, "costs.json")
        totals = page.total_compute(compute, networks).set_index("method")["total"]
        metrics = {f"{metric_name(row.method)}_{metric_name(row.network)}_top1": row.top1 for row in networks.itertuples()}
        stage.finish(metrics | {f"{metric_name(method)}_training_tmacs": total for method, total in totals.items()})
        log_fronts(networks, totals)


@dataclass(frozen=True, eq=False)
class Latencies:
    """Measured latencies of networks on the device."""

    latency_ms: np.ndarray  # (networks,) per batch
    noise: np.ndarray  # (networks,) relative difference of two measurements, of even and of odd rounds
    rounds: int
    device: dict[str, Any]  # description by the backend


def measure(networks: Sequence[nn.Module], side: int, cfg: config.Report, seed: int, checkpoint: Checkpoint) -> Latencies:
    """Measure all networks in the same rounds, relative to the cheapest of them.

    Args:
        networks: in eval mode.
        side: of the images, pixels.

    Raises:
        ValueError: if the time limit is too short for two rounds.
    """
    backend = cfg.backend.start()
    cheapest = min(range(len(networks)), key=lambda i: network_mmacs(networks[i], side))
    with torch.random.fork_rng(devices=[]), backend.running():
        torch.default_generator.manual_seed(seed)
        images = backend.random(cfg.batch, 3, side)
        programs = [Program((backend.prepare(fold(network), images),), images) for network in networks]
        rounds = RoundRunner(backend.clock, cfg.repetitions, seed, checkpoint).run("networks", programs, programs[cheapest], cfg.limit_s)
    ms = 1000 * rounds.normalised([1] * len(programs))
    of_all, even, odd = (np.median(part, axis=0) for part in (ms, ms[::2], ms[1::2]))
    return Latencies(of_all, np.abs(odd - even) / of_all, len(rounds), backend.facts())


@torch.no_grad()
def predictions(networks: Sequence[nn.Module], batches: Iterable[tuple[Tensor, Tensor]], device: torch.device) -> np.ndarray:
    """(networks, images) bool, whether each classifies each image correctly; moves the networks to the device.

    Args:
        batches: normalised images (B, 3, H, W) and labels (B,), on the device.
    """
    for network in networks:
        network.to(device)
    parts = [np.stack([(network(images).argmax(1) == labels).cpu().numpy() for network in networks]) for images, labels in batches]
    return np.concatenate(parts, axis=1)


def log_fronts(networks: pd.DataFrame, training_tmacs: pd.Series) -> None:
    """An MLflow run per method, all below one run, with the same curves `front/...`: a step per network, by latency.

    MLflow's chart of front/top1 over front/latency_ms, or over front/mflops, then shows all fronts.
    """
    tracking = params.read("tracking", store.TrackingConfig).model_copy(update={"system_metrics": False})
    group = session.Group("fronts", provenance.fingerprint(ADDRESS)[:16])
    for method, rows in networks.groupby("method", sort=False):
        parameters = {"method": method, "weights": results.METHODS[method]}
        with session.stage_run(ADDRESS, parameters, method, tracking, f"{method}, front", group, shares=False) as run:
            run.front(rows.sort_values("latency_ms").to_dict("records"))
            run.summary({"training_tmacs": training_tmacs[method], "networks": len(rows)}, "front")


def facts(cfg: config.MethodsParams, data: ImageDataset, latencies: Latencies) -> dict[str, object]:
    """What was run, for the page."""
    batch, device = f"{cfg.report.batch} images of {data.side} px", latencies.device
    return {
        "data": f"{data.title}, {len(data.classes)} classes",
        "training images": f"{len(data.indices('train')):,}; AttentiveNAS and AlphaNet {len(data.indices('train', 'predictor')):,}",
        "test images": f"{len(data.indices('test')):,}",
        "device": f"{device['device']}, {device['threads']} thread{'s' * (device['threads'] > 1)}, torch {device['versions']['torch']}",
        "latency": f"of a batch of {batch}, batch norm folded, median of {latencies.rounds} rounds over all networks; two measurements "
        f"of a network differ by {np.median(latencies.noise):.1%} (median; above a few percent: dvc repro -f {ADDRESS} when idle)",
    }


def metric_name(name: str) -> str:
    """The name as part of a metric's name."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower())


if __name__ == "__main__":
    runner.execute(main)

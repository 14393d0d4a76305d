"""Latency on this device, the family beside well-known networks (AttentiveNAS, arXiv:2011.09011, Table 4): `python -m benchmarks.devices`.

Every network takes images of its own resolution, with batch norm folded; measurements are interleaved in rounds, each in
another order. The paper compares A1 with EfficientNet-B0 and A6 with B1 on GPUs at batch 128. Top-1 is shown only for
networks trained here: the models of outputs/search/family.json, on the test images.
"""

import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer
from torch import nn
from torch.fx.experimental.optimization import fuse

from nas.cost import flops, parameters
from nas.data.torchvision_import import models
from nas.latency.backends.config import Torch
from nas.latency.mbconv import ProfiledMBConv
from nas.latency.timing import Program, measure
from nas.runtime import params
from nas.runtime.progress import progress
from nas.spaces import FOLDER, encoding, mbconv, published
from nas.spaces.mbconv import Arch, SearchSpace

FAMILY, TESTED = Path("outputs/search/family.json"), Path("outputs/report/family.csv")
CLASSES = Path("outputs/split/metrics.json")
TORCHVISION = {"efficientnet_b0": 224, "efficientnet_b1": 240, "mobilenet_v3_large": 224, "mobilenet_v2": 224}  # pixels
PUBLISHED = ("AttentiveNAS-A0", "AttentiveNAS-A1", "AttentiveNAS-A6")


@dataclass(frozen=True)
class Row:
    """One network of the table."""

    name: str
    side: int  # pixels
    mflops: float
    parameters: int
    module: nn.Module  # in eval mode, batch norm folded
    top1_test: float | None = None  # percent


def main(
    batch: Annotated[int, typer.Option(min=1)] = 1,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    device: Annotated[str, typer.Option()] = "cpu",
    rounds: Annotated[int, typer.Option(min=2)] = 30,
    limit_s: Annotated[float, typer.Option(help="Seconds.")] = 300,
) -> None:
    """Print the table."""
    backend = Torch(runtime="torch", device=device, threads=threads, channels_last=True).start()
    with backend.running():
        rows = [*family(), *paper_rows(), *torchvision_rows()]
        programs = []
        for row in rows:
            images = backend.random(batch, 3, row.side)
            programs.append(Program((backend.prepare(row.module, images),), images))
        turns = measure(programs, programs[0], backend.clock, rounds, limit_s, lambda i: np.random.default_rng(i).permutation(len(rows)))
        *_, measured = progress(turns, "rounds", rounds)
    low, middle, high = np.percentile(1000 * measured.normalised([1] * len(rows)), (25, 50, 75), axis=0)
    facts = backend.facts()
    print(
        f"\n{facts['device']}, torch {torch.__version__}, torchvision {version('torchvision')}, {threads} threads, "
        f"batch {batch}, channels_last, medians of {len(measured)} rounds"
    )
    frame = pd.DataFrame(
        {
            "network": [r.name for r in rows],
            "px": [r.side for r in rows],
            "MFLOPs": [f"{r.mflops:.3g}" if r.mflops < 10 else f"{r.mflops:.0f}" for r in rows],
            "parameters": [f"{r.parameters:,}" for r in rows],
            "latency, ms": [f"{m:.3f} ± {(h - lo) / 2:.3f}" for lo, m, h in zip(low, middle, high)],
            "ms / GFLOP": [f"{1000 * m / (batch * r.mflops):.1f}" for m, r in zip(middle, rows)],
            "top-1 test, %": ["" if r.top1_test is None else f"{r.top1_test:.1f}" for r in rows],
        }
    )
    print(frame.to_string(index=False))


def family() -> list[Row]:
    """The models of the search, if it has run."""
    if not FAMILY.is_file():
        print(f"no {FAMILY}: `dvc repro search` makes it; the others follow")
        return []
    classes, space = json.loads(CLASSES.read_text())["classes"], mbconv.load(str(params.value("space")))
    tested = pd.read_csv(TESTED).set_index("name")["top1_test"].to_dict() if TESTED.is_file() else {}
    return [
        ours(entry["name"], space, encoding.from_json(entry["arch"]), classes, tested.get(entry["name"]))
        for entry in encoding.read_family(FAMILY)
    ]


def paper_rows() -> list[Row]:
    """Published architectures, with 1000 classes."""
    paper = mbconv.load(FOLDER / "attentive_nas.yaml")
    return [ours(n.name, paper, n.arch, 1000) for n in published.networks("attentive_nas") if n.name in PUBLISHED]


def ours(name: str, space: SearchSpace, arch: Arch, classes: int, top1_test: float | None = None) -> Row:
    """An architecture of this project with random weights, which do not affect latency."""
    costs = [table(space, classes).cost(arch) for table in (flops.table, parameters.table)]
    return Row(name, arch.resolution, costs[0], int(costs[1]), ProfiledMBConv(space).network(arch, classes), top1_test)


def torchvision_rows() -> list[Row]:
    """torchvision's networks, without weights; FLOPs and parameters by torchvision."""
    rows = []
    for name, side in TORCHVISION.items():
        meta = models.get_model_weights(name).DEFAULT.meta
        rows.append(Row(name, side, 1000 * meta["_ops"], meta["num_params"], fuse(models.get_model(name, weights=None).eval())))
    return rows


if __name__ == "__main__":
    typer.run(main)

"""Compute of a method's training and search, in multiply-accumulates: the same on any machine.

The forward pass of an image costs the multiply-accumulates of the network's convolutions and classifier. A training step costs three
passes (forward, gradients of activations, gradients of weights), a step of the architecture parameters alone two. For supernets it is
the mean over the sampled sub-networks. Evaluations for the report are not counted.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from nas.cost.flops import multiply_adds
from nas.cost.table import CostTable
from nas.data.dataset import ImageDataset
from nas.differentiable.hardcore_nas.one_shot import OneShot, Paths
from nas.differentiable.tf_nas.supernet import Supernet
from nas.runtime import seeding
from nas.sampling.attentive import Strategy, parse_strategy
from nas.stages.hardcore_nas import config as hardcore_nas
from nas.stages.tf_nas import config as tf_nas
from nas.training.recipe import Recipe
from nas.training.strategy import Train

WEIGHTS, ARCHITECTURE, FORWARD = 3, 2, 1  # passes per image, by what is trained
SAMPLES = 500  # sub-networks in a mean
PATHS = 64  # images, each with its own network
MMAC = 1e6  # multiply-accumulates


@dataclass(frozen=True)
class Compute:
    """Images processed by networks in one step of a method."""

    step: str
    images: float  # counted once per use
    mmacs: float  # millions of multiply-accumulates of an image's forward pass
    passes: int
    network: str | None = None  # for which it was done; None: for all of the method

    @property
    def total(self) -> float:
        """Millions of multiply-accumulates."""
        return self.images * self.mmacs * self.passes


def frame(compute: Sequence[Compute]) -> pd.DataFrame:
    """A row per entry: what (the step), network ("" for all), images, mmacs (an image's forward pass), passes, tmacs (1e12, in total)."""
    rows = [(c.step, c.network or "", c.images, c.mmacs, c.passes, c.total / 1e6) for c in compute]
    return pd.DataFrame(rows, columns=["what", "network", "images", "mmacs", "passes", "tmacs"])


def forward_mmacs(call: Callable[[], object], images: int) -> float:
    """Millions of multiply-accumulates per image of a forward pass, counted by torch."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call()
    return counter.get_total_flops() / 2 / MMAC / images  # torch counts multiplications and additions


def network_mmacs(network: torch.nn.Module, side: int) -> float:
    """Millions of multiply-accumulates of an image of this side in pixels; the network is in eval mode."""
    image = torch.zeros(1, 3, side, side, device=next(network.parameters()).device)
    return forward_mmacs(lambda: network(image), 1)


def from_scratch(mmacs: Mapping[str, float], images: int, epochs: int) -> list[Compute]:
    """Networks trained from scratch.

    Args:
        mmacs: by the names of the networks.
    """
    return [Compute("training", epochs * images, forward, WEIGHTS, name) for name, forward in mmacs.items()]


def sandwich(cfg: Train, recipe: Recipe, table: CostTable, strategy: Strategy, images: int, seed: int) -> list[Compute]:
    """A supernet by the sandwich rule: the largest, the sampled and the smallest sub-network train, candidates are evaluated."""
    rng = seeding.generator(seed, "cost")
    drawn = float(np.mean([table.cost(arch) for _ in range(SAMPLES) for arch in strategy.candidates(rng)]))
    seen, form = cfg.epochs * images, parse_strategy(cfg.strategy)
    compute = [
        Compute("largest sub-network", seen, table.cost(table.space.largest()), WEIGHTS),
        Compute("sampled sub-networks", seen * recipe.sampled, drawn, WEIGHTS),
        Compute("smallest sub-network", seen, table.cost(table.space.smallest()), WEIGHTS),
    ]
    if form.by == "loss" and form.k > 1:
        compute.append(Compute("candidates", seen * recipe.sampled * form.k, drawn, FORWARD))
    return compute


def evaluations(evaluated: pd.DataFrame, images: int) -> Compute:
    """Sub-networks that a search evaluated.

    Args:
        evaluated: with the column mflops.
        images: per evaluation, those of the batch-norm calibration included.
    """
    return Compute("search", images * len(evaluated), float(evaluated["mflops"].mean()), FORWARD)


def tf_nas_compute(
    cfg: tf_nas.TfNasParams, data: ImageDataset, classes: int, epochs: dict[str, int], mmacs: dict[str, float]
) -> list[Compute]:
    """Choice of the classes, common weights-only epochs, then per target its search and its training from scratch.

    Widths are those at the start of the search, which lowers or raises them later.

    Args:
        classes: number of classes of the search.
        epochs: of the search by the name of the target, the common ones included.
        mmacs: of the networks, by the same names.
    """
    method, images = cfg.search.method, len(data.indices("train"))
    seen = (1 - cfg.search.held_out) * images * classes / len(data.classes)
    path, mixture = supernet_mmacs(cfg, classes)
    compute = [Compute("common epochs", method.weight_epochs * seen, path, WEIGHTS)]
    if cfg.search.classes is not None:
        middle = multiply_adds(cfg.space.middle(), len(data.classes)).products / MMAC
        compute.append(Compute("choice of classes", cfg.search.classes.epochs * images, middle, WEIGHTS))
    for name, search_epochs in epochs.items():
        own = (search_epochs - method.weight_epochs) * seen
        compute.append(Compute("search: weights", own * (2 if method.bi_sampling else 1), path, WEIGHTS, name))
        compute.append(Compute("search: architecture parameters", own / method.architecture_parameters.every, mixture, ARCHITECTURE, name))
    return compute + from_scratch(mmacs, images, cfg.train.optimisation.epochs)


def supernet_mmacs(cfg: tf_nas.TfNasParams, classes: int) -> tuple[float, float]:
    """Millions of multiply-accumulates of a path with uniformly drawn operations, exact since layers add up, and of all operations."""
    with seeding.torch_seed(cfg.seed, "cost"):
        supernet = Supernet(cfg.space, classes)
    channels = supernet.select_channels(cfg.space.start_widths())
    sinks = [torch.ones(stage.depth) / stage.depth for stage in cfg.space.stages]
    images = torch.zeros(2, 3, cfg.space.resolution, cfg.space.resolution)
    layers, operations = len(cfg.space.layers), len(cfg.space.operations)
    paths = [forward_mmacs(lambda o=o: supernet.path(images, [o] * layers, sinks, channels), 2) for o in range(operations)]
    weights = torch.ones(layers, operations) / operations
    return float(np.mean(paths)), forward_mmacs(lambda: supernet.mixture(images, weights, sinks, channels), 2)


def one_shot_training(cfg: hardcore_nas.HardcoreNasParams, data: ImageDataset) -> list[Compute]:
    """HardCoRe-NAS's one-shot model: the largest network, its channels sorted, then all networks with it as their teacher."""
    seen, largest = (1 - cfg.images.held_out) * len(data.indices("train")), largest_mmacs(cfg, data)
    multi_path, _ = one_shot_mmacs(cfg, len(data.classes))
    return [
        Compute("largest network", cfg.train.largest.epochs * seen, largest, WEIGHTS),
        Compute("sorting of channels", cfg.train.sorted_on * seen, largest, WEIGHTS),
        Compute("all networks", cfg.train.multi_path.epochs * seen, multi_path, WEIGHTS),
        Compute("teacher of all", cfg.train.multi_path.epochs * seen, largest, FORWARD),
    ]


def frank_wolfe(cfg: hardcore_nas.HardcoreNasParams, data: ImageDataset, names: Sequence[str]) -> list[Compute]:
    """HardCoRe-NAS's search: all configurations are computed, only the architecture parameters are optimised."""
    _, mixed = one_shot_mmacs(cfg, len(data.classes))
    return [Compute("search", cfg.search.steps * cfg.search.batch, mixed, ARCHITECTURE, name) for name in names]


def fine_tuning(cfg: hardcore_nas.HardcoreNasParams, data: ImageDataset, mmacs: dict[str, float]) -> list[Compute]:
    """HardCoRe-NAS's networks fine-tuned with the largest as their teacher.

    Args:
        mmacs: by the names of the networks.
    """
    seen, largest = cfg.tune.tuning.epochs * len(data.indices("train")), largest_mmacs(cfg, data)
    compute = [Compute("fine-tuning", seen, forward, WEIGHTS, name) for name, forward in mmacs.items()]
    return compute + [Compute("teacher", seen, largest, FORWARD, name) for name in mmacs]


def largest_mmacs(cfg: hardcore_nas.HardcoreNasParams, data: ImageDataset) -> float:
    """Millions of multiply-accumulates of the largest network of HardCoRe-NAS's space."""
    return multiply_adds(cfg.space.plan(cfg.space.largest()), len(data.classes)).products / MMAC


def one_shot_mmacs(cfg: hardcore_nas.HardcoreNasParams, classes: int) -> tuple[float, float]:
    """Millions of multiply-accumulates per image of uniformly drawn networks, and of all configurations at once."""
    rng, space = seeding.generator(cfg.seed, "cost"), cfg.space
    with seeding.torch_seed(cfg.seed, "cost"):
        model = OneShot(space, classes).eval()
    images, paths = torch.zeros(PATHS, 3, space.resolution, space.resolution), [space.random(rng) for _ in range(PATHS)]
    multi = forward_mmacs(lambda: model(images, Paths.of(paths, space.blocks)), PATHS)
    stages, blocks = len(space.stages), space.blocks
    alpha, beta = torch.ones(1, stages, blocks, len(space.configurations)), torch.ones(1, stages, blocks)
    return multi, forward_mmacs(lambda: model.mixed(images[:1], alpha, beta), 1)

"""What a method's training costs, in multiply-accumulates: the same on any machine.

An image that goes forward through a network costs the multiply-accumulates of its convolutions and classifier. Where weights
learn it costs three times as much (forward, gradients by activations, gradients by weights), where only choices learn twice.
Of supernets the mean over the sub-networks that are drawn. What is measured to report it costs nothing here.
"""

from collections.abc import Callable, Sequence
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

WEIGHTS, CHOICES, FORWARD = 3, 2, 1  # passes that an image costs, by what learns
DRAWN = 500  # sub-networks that a mean is taken over
PATHS = 64  # images, each through a network of its own
MMAC = 1e6  # multiply-accumulates


@dataclass(frozen=True)
class Work:
    """Images that went through networks."""

    what: str
    images: float  # as often as they were seen
    mmacs: float  # millions of multiply-accumulates of an image's forward pass
    passes: int
    network: str | None = None  # that it was for; None: for all of the method

    @property
    def total(self) -> float:
        """Millions of multiply-accumulates."""
        return self.images * self.mmacs * self.passes


def frame(works: Sequence[Work]) -> pd.DataFrame:
    """A row a work: what, network ("" for all), images, mmacs (an image's forward pass), passes, tmacs (1e12, of all)."""
    rows = [(w.what, w.network or "", w.images, w.mmacs, w.passes, w.total / 1e6) for w in works]
    return pd.DataFrame(rows, columns=["what", "network", "images", "mmacs", "passes", "tmacs"])


def forward_mmacs(call: Callable[[], object], images: int) -> float:
    """Millions of multiply-accumulates an image, counted by torch while they go forward."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call()
    return counter.get_total_flops() / 2 / MMAC / images  # torch counts a multiplication and an addition


def mmacs_of(network: torch.nn.Module, side: int) -> float:
    """Of an image of a side in pixels, through a network in eval mode."""
    image = torch.zeros(1, 3, side, side, device=next(network.parameters()).device)
    return forward_mmacs(lambda: network(image), 1)


def alone(what: str, names: Sequence[str], mmacs: Sequence[float], images: int, epochs: int) -> list[Work]:
    """Networks trained by themselves."""
    return [Work(what, epochs * images, each, WEIGHTS, name) for name, each in zip(names, mmacs)]


def sandwich(p: Train, recipe: Recipe, table: CostTable, strategy: Strategy, images: int, seed: int) -> list[Work]:
    """A supernet by the sandwich rule: the largest, the chosen and the smallest sub-network learn, candidates are looked at."""
    rng = seeding.generator(seed, "cost")
    drawn = float(np.mean([table.cost(arch) for _ in range(DRAWN) for arch in strategy.candidates(rng)]))
    seen, form = p.epochs * images, parse_strategy(p.strategy)
    works = [
        Work("largest sub-network", seen, table.cost(table.space.largest()), WEIGHTS),
        Work("chosen sub-networks", seen * recipe.sampled, drawn, WEIGHTS),
        Work("smallest sub-network", seen, table.cost(table.space.smallest()), WEIGHTS),
    ]
    if form.by == "loss" and form.k > 1:
        works.append(Work("candidates", seen * recipe.sampled * form.k, drawn, FORWARD))
    return works


def searched(evaluated: pd.DataFrame, images: int) -> Work:
    """Sub-networks that a search measured.

    Args:
        evaluated: with the column mflops.
        images: that each is measured on, those for its batch norms among them.
    """
    return Work("search", images * len(evaluated), float(evaluated["mflops"].mean()), FORWARD)


def of_tf_nas(s: tf_nas.TfNasParams, data: ImageDataset, classes: int, epochs: dict[str, int], mmacs: dict[str, float]) -> list[Work]:
    """Classes chosen, common epochs of weights alone, then for each target its search, and its training from fresh weights.

    Widths are taken as the search starts with them; it lowers or raises them as it goes.

    Args:
        classes: that were searched on.
        epochs: by the name of the target, of its search; the common ones among them.
        mmacs: by the same names, of the networks.
    """
    p, images = s.search.method, len(data.indices("train"))
    seen = (1 - s.search.held_out) * images * classes / len(data.classes)
    path, mixture = supernet_mmacs(s, classes)
    works = [Work("common epochs", p.weight_epochs * seen, path, WEIGHTS)]
    if s.search.classes is not None:
        middle = multiply_adds(s.space.middle(), len(data.classes)).products / MMAC
        works.append(Work("classes chosen", s.search.classes.epochs * images, middle, WEIGHTS))
    for name, number in epochs.items():
        own = (number - p.weight_epochs) * seen
        works.append(Work("search: weights", own * (2 if p.bi_sampling else 1), path, WEIGHTS, name))
        works.append(Work("search: architecture parameters", own / p.architecture_parameters.every, mixture, CHOICES, name))
    return works + alone("training", list(mmacs), list(mmacs.values()), images, s.train.optimisation.epochs)


def supernet_mmacs(s: tf_nas.TfNasParams, classes: int) -> tuple[float, float]:
    """Of a path with operations drawn uniformly, and of all operations at once. Costs of layers add up, so the mean is exact."""
    with seeding.torch_seed(s.seed, "cost"):
        supernet = Supernet(s.space, classes)
    kept = supernet.select_channels(s.space.start_widths())
    sinks = [torch.ones(stage.depth) / stage.depth for stage in s.space.stages]
    images, layers, operations = torch.zeros(2, 3, s.space.resolution, s.space.resolution), len(s.space.layers), len(s.space.operations)
    paths = [forward_mmacs(lambda o=o: supernet.path(images, [o] * layers, sinks, kept), 2) for o in range(operations)]
    weights = torch.ones(layers, operations) / operations
    return float(np.mean(paths)), forward_mmacs(lambda: supernet.mixture(images, weights, sinks, kept), 2)


def one_shot(s: hardcore_nas.HardcoreNasParams, data: ImageDataset) -> list[Work]:
    """HardCoRe-NAS's one-shot model: the largest network by itself, channels sorted, all networks with it as their teacher."""
    seen, largest = (1 - s.images.held_out) * len(data.indices("train")), largest_mmacs(s, data)
    all_of_them, _ = one_shot_mmacs(s, len(data.classes))
    return [
        Work("largest network", s.train.largest.epochs * seen, largest, WEIGHTS),
        Work("channels sorted", s.train.sorted_on * seen, largest, WEIGHTS),
        Work("all networks", s.train.multi_path.epochs * seen, all_of_them, WEIGHTS),
        Work("teacher of all", s.train.multi_path.epochs * seen, largest, FORWARD),
    ]


def frank_wolfe(s: hardcore_nas.HardcoreNasParams, data: ImageDataset, names: Sequence[str]) -> list[Work]:
    """HardCoRe-NAS's search: all configurations are computed, only choices learn."""
    _, mixed = one_shot_mmacs(s, len(data.classes))
    return [Work("search", s.search.steps * s.search.batch, mixed, CHOICES, name) for name in names]


def tuned(s: hardcore_nas.HardcoreNasParams, data: ImageDataset, mmacs: dict[str, float]) -> list[Work]:
    """Its networks fine-tuned with the largest as their teacher.

    Args:
        mmacs: by the names of the networks.
    """
    seen, largest = s.tune.tuning.epochs * len(data.indices("train")), largest_mmacs(s, data)
    works = [Work("fine-tuning", seen, each, WEIGHTS, name) for name, each in mmacs.items()]
    return works + [Work("teacher", seen, largest, FORWARD, name) for name in mmacs]


def largest_mmacs(s: hardcore_nas.HardcoreNasParams, data: ImageDataset) -> float:
    """Of the largest network of HardCoRe-NAS's space."""
    return multiply_adds(s.space.plan(s.space.largest()), len(data.classes)).products / MMAC


def one_shot_mmacs(s: hardcore_nas.HardcoreNasParams, classes: int) -> tuple[float, float]:
    """Of a network for each image, drawn uniformly, and of all configurations at once."""
    rng, space = seeding.generator(s.seed, "cost"), s.space
    with seeding.torch_seed(s.seed, "cost"):
        model = OneShot(space, classes).eval()
    images, paths = torch.zeros(PATHS, 3, space.resolution, space.resolution), [space.random(rng) for _ in range(PATHS)]
    multi = forward_mmacs(lambda: model(images, Paths.of(paths, space.blocks)), PATHS)
    stages, blocks = len(space.stages), space.blocks
    alpha, beta = torch.ones(1, stages, blocks, len(space.configurations)), torch.ones(1, stages, blocks)
    return multi, forward_mmacs(lambda: model.mixed(images[:1], alpha, beta), 1)

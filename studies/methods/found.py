"""What every method came to: its networks with their weights, and what its training cost.

All networks are in eval mode on the CPU, as the stages left them; nothing is trained here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from torch import nn

from nas.cost import flops
from nas.data.dataset import ImageDataset
from nas.models.blocks import RowNetwork
from nas.models.extract import Network, load_network
from nas.runtime import params
from nas.runtime.checkpoint import load_weights
from nas.runtime.io import read_json, read_table
from nas.search.setup import Search
from nas.spaces import encoding
from nas.spaces.hardcore_nas import Arch
from nas.spaces.rows import Plan
from nas.stages import runner as main_pipeline
from nas.stages.hardcore_nas import config as hardcore_nas
from nas.stages.tf_nas import config as tf_nas
from nas.training.strategy import Train, build_strategy
from studies.methods import alphanet_search, baselines, config, cost, oneshot
from studies.methods.baseline import build
from studies.methods.cost import Work

ATTENTIVE, ALPHA, TF, HARDCORE = "AttentiveNAS", "AlphaNet", "TF-NAS", "HardCoRe-NAS"
EVOLUTION, RANDOM, TORCHVISION = "evolution", "random search", "torchvision"
METHODS = {  # with where their networks' weights are from
    ATTENTIVE: "inherited from its supernet",
    ALPHA: "inherited from its supernet",
    TF: "trained from fresh weights",
    HARDCORE: "from its one-shot model, fine-tuned",
    EVOLUTION: "from HardCoRe-NAS's one-shot model, fine-tuned alike",
    RANDOM: "from HardCoRe-NAS's one-shot model, fine-tuned alike",
    TORCHVISION: "trained from fresh weights, as TF-NAS's",
}


@dataclass(frozen=True, eq=False)
class Found:
    """What a method came to."""

    networks: dict[str, nn.Module]  # by name
    works: list[Work]


def all_found(s: config.Settings, data: ImageDataset) -> dict[str, Found]:
    """Of every method, in the order of METHODS.

    Raises:
        CheckpointError, DocumentError, FileNotFoundError: if a file of another stage is missing or damaged; says which.
    """
    one_shot = hardcore_nas.read()
    return {
        ATTENTIVE: of_attentive(main_pipeline.out("search") / "family.json", main_pipeline.out("search") / "evaluated.parquet", None, data),
        ALPHA: of_attentive(
            alphanet_search.OUT / "family.json",
            alphanet_search.OUT / "evaluated.parquet",
            alphanet_search.OUT / "family.safetensors",
            data,
        ),
        TF: of_tf_nas(data),
        HARDCORE: of_hardcore_nas(one_shot, data),
        EVOLUTION: of_one_shot("evolution", one_shot, data),
        RANDOM: of_one_shot("random", one_shot, data),
        TORCHVISION: of_baselines(s.baselines, data),
    }


def of_attentive(family: Path, evaluated: Path, weights: Path | None, data: ImageDataset) -> Found:
    """AttentiveNAS's or AlphaNet's.

    Args:
        weights: of all models; None: each has a file, as stage search writes them.
    """
    p, searched = params.read("train", Train), params.read("search", Search)
    recipe, _, evaluation = main_pipeline.shared()
    seed, space = main_pipeline.seed(), main_pipeline.search_space()
    entries = encoding.read_family(family)
    if weights is None:
        networks = {
            entry["name"]: load_network(
                family.parent / "family" / f"{entry['name']}.safetensors", space, encoding.from_json(entry["arch"]), len(data.classes)
            )
            for entry in entries
        }
    else:
        networks = {entry["name"]: Network(space, encoding.from_json(entry["arch"]), len(data.classes)) for entry in entries}
        loaded(weights, networks)
    table, images = flops.table(space, len(data.classes)), len(data.indices("train", "predictor"))
    rows = read_table(evaluated, "dvc repro --force search")
    measured_on = len(data.indices("search")) + evaluation.batch * evaluation.calibration_batches
    works = cost.sandwich(p, recipe, table, build_strategy(p, table, seed, main_pipeline.out("fit_predictor") / "forest.npz"), images, seed)
    short = {name.rpartition("-")[2]: network for name, network in networks.items()}
    return Found(short, [*works, cost.searched(rows[rows["method"] == searched.method], measured_on)])


def of_tf_nas(data: ImageDataset) -> Found:
    """A network a target."""
    s, folder = tf_nas.read(), tf_nas.PIPELINE.outputs / "search"
    plans = {entry["name"]: plan for entry, plan in tf_nas.read_family(s.space)}
    networks = of_plans(plans, data)
    loaded(tf_nas.WEIGHTS, networks)
    history = read_table(folder / "history.csv", f"dvc repro -f {tf_nas.PIPELINE.folder}/dvc.yaml:search")
    try:
        classes = int(read_json(folder / "metrics.json")["classes"])
        epochs = {name: int(number) for name, number in history.groupby("name")["epoch"].max().items()}
    except (TypeError, KeyError, ValueError) as error:
        raise tf_nas.PIPELINE.damaged(folder, error, "search") from None
    return Found(networks, cost.of_tf_nas(s, data, classes, epochs, mmacs(networks, data.side)))


def of_hardcore_nas(s: hardcore_nas.HardcoreNasParams, data: ImageDataset) -> Found:
    """A network a target."""
    entries = hardcore_nas.read_networks(hardcore_nas.FAMILY, s.space, "derive", ("name",))
    networks = of_plans({entry["name"]: s.space.plan(arch) for entry, arch in entries}, data)
    loaded(hardcore_nas.TUNED, networks)
    works = [*cost.one_shot(s, data), *cost.frank_wolfe(s, data, list(networks)), *cost.tuned(s, data, mmacs(networks, data.side))]
    return Found(networks, works)


def of_one_shot(method: str, s: hardcore_nas.HardcoreNasParams, data: ImageDataset) -> Found:
    """What "evolution" or "random" search found over HardCoRe-NAS's one-shot model, a network a target."""
    entries = read_json(oneshot.NETWORKS)
    try:
        plans = {f"{e['method']}_{e['name']}": s.space.plan(Arch(map(tuple, e["arch"]))) for e in entries}
        mine = {e["name"]: f"{method}_{e['name']}" for e in entries if e["method"] == method}
        scored = [
            Work("search", e["evaluations"] * e["images"], e["scored_mmacs"] / e["evaluations"], cost.FORWARD, e["name"])
            for e in entries
            if e["method"] == method
        ]
    except (TypeError, KeyError, ValueError) as error:
        raise config.PIPELINE.damaged(oneshot.NETWORKS, error, "oneshot") from None
    networks = of_plans(plans, data)
    loaded(oneshot.TUNED, networks)
    named = {name: networks[key] for name, key in mine.items()}
    return Found(named, [*cost.one_shot(s, data), *scored, *cost.tuned(s, data, mmacs(named, data.side))])


def of_baselines(p: config.Baselines, data: ImageDataset) -> Found:
    """torchvision's."""
    networks = {str(number): build(choice, len(data.classes)) for number, choice in enumerate(p.networks)}
    loaded(baselines.WEIGHTS, networks)
    named = {choice.name: network for choice, network in zip(p.networks, networks.values())}
    macs = mmacs(named, data.side)
    epochs = tf_nas.read().train.optimisation.epochs
    return Found(named, cost.alone("training", list(macs), list(macs.values()), len(data.indices("train")), epochs))


def of_plans(plans: Mapping[str, Plan], data: ImageDataset) -> dict[str, RowNetwork]:
    """Networks of rows, whose weights are still to be read."""
    return {name: RowNetwork(plan, len(data.classes)) for name, plan in plans.items()}


def loaded(weights: Path, networks: Mapping[str, nn.Module]) -> None:
    """Read the weights of all networks, written as <name>.<parameter>, in place; leaves them in eval mode."""
    load_weights(weights, nn.ModuleDict(networks).eval())


def mmacs(networks: Mapping[str, nn.Module], side: int) -> dict[str, float]:
    """Millions of multiply-accumulates of an image of the data set, by name."""
    return {name: cost.mmacs_of(network, side) for name, network in networks.items()}


def models(found: Mapping[str, Found]) -> list[tuple[str, str, nn.Module]]:
    """Method, name and network of all."""
    return [(method, name, network) for method, each in found.items() for name, network in each.networks.items()]


def costs(found: Mapping[str, Found]) -> pd.DataFrame:
    """A row a work: method, what, network ("" for all of the method), images, mmacs, passes, tmacs."""
    return pd.concat([cost.frame(each.works).assign(method=method) for method, each in found.items()], ignore_index=True)[
        ["method", "what", "network", "images", "mmacs", "passes", "tmacs"]
    ]

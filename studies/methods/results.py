"""Results of every method: its networks with their weights, and the compute of its training and search.

All networks are read from the outputs of their stages, in eval mode on the CPU; nothing is trained here.
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
from nas.stages import config as main_config
from nas.stages import runner
from nas.stages.hardcore_nas import config as hardcore_nas
from nas.stages.hardcore_nas.config import HardcoreNasParams
from nas.stages.tf_nas import config as tf_nas
from nas.training.strategy import Train, strategy_from_params
from studies.methods import compute, config
from studies.methods.compute import Compute
from studies.methods.torchvision_networks import build

ATTENTIVE, ALPHA, TF, HARDCORE = "AttentiveNAS", "AlphaNet", "TF-NAS", "HardCoRe-NAS"
EVOLUTION, RANDOM, TORCHVISION = "evolution", "random search", "torchvision"
METHODS = {  # with the origin of their networks' weights
    ATTENTIVE: "inherited from its supernet",
    ALPHA: "inherited from its supernet",
    TF: "trained from scratch",
    HARDCORE: "from its one-shot model, fine-tuned",
    EVOLUTION: "from HardCoRe-NAS's one-shot model, fine-tuned in the same way",
    RANDOM: "from HardCoRe-NAS's one-shot model, fine-tuned in the same way",
    TORCHVISION: "trained from scratch, as TF-NAS's",
}


@dataclass(frozen=True, eq=False)
class MethodResult:
    """Networks and compute of a method."""

    networks: dict[str, nn.Module]  # by name
    compute: list[Compute]


def read_all(cfg: config.MethodsParams, data: ImageDataset) -> dict[str, MethodResult]:
    """The results of every method, in the order of METHODS.

    Raises:
        CheckpointError, DocumentError, FileNotFoundError: if a file of another stage is missing or damaged; names the file.
    """
    one_shot, main, alphanet = hardcore_nas.read(), runner.out("search"), config.PIPELINE.out("alphanet_search")
    return {
        ATTENTIVE: _supernet_method(main, None, data),
        ALPHA: _supernet_method(alphanet, alphanet / "family.safetensors", data),
        TF: _tf_nas(data),
        HARDCORE: _hardcore_nas(one_shot, data),
        EVOLUTION: _one_shot_search("evolution", one_shot, data),
        RANDOM: _one_shot_search("random", one_shot, data),
        TORCHVISION: _torchvision(cfg.baselines, data),
    }


def _supernet_method(folder: Path, weights: Path | None, data: ImageDataset) -> MethodResult:
    """AttentiveNAS's or AlphaNet's.

    Args:
        folder: of the search's family.json and evaluated.parquet.
        weights: of all models; None: one file each, as stage search writes them.
    """
    train, search = params.read("train", Train), params.read("search", Search)
    recipe, _, evaluation = main_config.shared()
    seed, space, classes = params.seed(), main_config.search_space(), len(data.classes)
    archs = {entry["name"]: encoding.from_json(entry["arch"]) for entry in encoding.read_family(folder / "family.json")}
    if weights is None:
        files = {name: folder / "family" / f"{name}.safetensors" for name in archs}
        networks = {name: load_network(files[name], space, arch, classes) for name, arch in archs.items()}
    else:
        networks = _load(weights, {name: Network(space, arch, classes) for name, arch in archs.items()})
    table, images = flops.table(space, classes), len(data.indices("train", "predictor"))
    rows = read_table(folder / "evaluated.parquet", "dvc repro --force search")
    evaluation_images = len(data.indices("search")) + evaluation.batch * evaluation.calibration_batches
    strategy = strategy_from_params(train, table, seed, runner.out("fit_predictor") / "forest.npz")
    training = compute.sandwich(train, recipe, table, strategy, images, seed)
    short_names = {name.rpartition("-")[2]: network for name, network in networks.items()}
    return MethodResult(short_names, [*training, compute.evaluations(rows[rows["method"] == search.method], evaluation_images)])


def _tf_nas(data: ImageDataset) -> MethodResult:
    """A network per target."""
    cfg, folder = tf_nas.read(), tf_nas.PIPELINE.out("search")
    networks = _load(tf_nas.WEIGHTS, _build({entry["name"]: plan for entry, plan in tf_nas.read_family(cfg.space)}, data))
    history = read_table(folder / "history.csv", f"dvc repro -f {tf_nas.PIPELINE.address('search')}")
    try:
        classes = int(read_json(folder / "metrics.json")["classes"])
        epochs = {name: int(last) for name, last in history.groupby("name")["epoch"].max().items()}
    except (TypeError, KeyError, ValueError) as error:
        raise tf_nas.PIPELINE.damaged(folder, error, "search") from None
    return MethodResult(networks, compute.tf_nas_compute(cfg, data, classes, epochs, _mmacs(networks, data.side)))


def _hardcore_nas(cfg: HardcoreNasParams, data: ImageDataset) -> MethodResult:
    """A network per target."""
    entries = hardcore_nas.read_networks(hardcore_nas.FAMILY, cfg.space, "derive", ("name",))
    networks = _load(hardcore_nas.TUNED, _build({entry["name"]: cfg.space.plan(arch) for entry, arch in entries}, data))
    search = compute.frank_wolfe(cfg, data, list(networks))
    tuning = compute.fine_tuning(cfg, data, _mmacs(networks, data.side))
    return MethodResult(networks, [*compute.one_shot_training(cfg, data), *search, *tuning])


def _one_shot_search(method: str, cfg: HardcoreNasParams, data: ImageDataset) -> MethodResult:
    """ "evolution" or "random" search over HardCoRe-NAS's one-shot model, a network per target."""
    folder = config.PIPELINE.out("oneshot")
    entries = read_json(folder / "networks.json")
    try:
        plans = {f"{e['method']}_{e['name']}": cfg.space.plan(Arch(map(tuple, e["arch"]))) for e in entries}
        keys = {e["name"]: f"{method}_{e['name']}" for e in entries if e["method"] == method}
        search = [
            Compute("search", e["evaluations"] * e["images"], e["scored_mmacs"] / e["evaluations"], compute.FORWARD, e["name"])
            for e in entries
            if e["method"] == method
        ]
    except (TypeError, KeyError, ValueError) as error:
        raise config.PIPELINE.damaged(folder / "networks.json", error, "oneshot") from None
    networks = _load(folder / "weights.safetensors", _build(plans, data))
    named = {name: networks[key] for name, key in keys.items()}
    tuning = compute.fine_tuning(cfg, data, _mmacs(named, data.side))
    return MethodResult(named, [*compute.one_shot_training(cfg, data), *search, *tuning])


def _torchvision(cfg: config.Baselines, data: ImageDataset) -> MethodResult:
    """torchvision's networks."""
    weights = config.PIPELINE.out("baselines") / "weights.safetensors"
    networks = _load(weights, {str(i): build(network, len(data.classes)) for i, network in enumerate(cfg.networks)})
    named = {entry.name: network for entry, network in zip(cfg.networks, networks.values())}
    epochs = tf_nas.read().train.optimisation.epochs
    return MethodResult(named, compute.from_scratch(_mmacs(named, data.side), len(data.indices("train")), epochs))


def _build(plans: Mapping[str, Plan], data: ImageDataset) -> dict[str, RowNetwork]:
    """Networks whose weights are still to be read."""
    return {name: RowNetwork(plan, len(data.classes)) for name, plan in plans.items()}


def _load(weights: Path, networks: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """The networks, in eval mode, with their weights from a file that has them as <name>.<parameter>."""
    load_weights(weights, nn.ModuleDict(networks).eval())
    return networks


def _mmacs(networks: Mapping[str, nn.Module], side: int) -> dict[str, float]:
    """Millions of multiply-accumulates of an image of the dataset, by name."""
    return {name: compute.network_mmacs(network, side) for name, network in networks.items()}


def all_networks(results: Mapping[str, MethodResult]) -> list[tuple[str, str, nn.Module]]:
    """Method, name and network of all."""
    return [(method, name, network) for method, result in results.items() for name, network in result.networks.items()]


def compute_table(results: Mapping[str, MethodResult]) -> pd.DataFrame:
    """A row per step of a method: method, what, network ("" for all of the method), images, mmacs, passes, tmacs."""
    frames = [compute.frame(result.compute).assign(method=method) for method, result in results.items()]
    return pd.concat(frames, ignore_index=True)[["method", "what", "network", "images", "mmacs", "passes", "tmacs"]]

"""Published networks: AttentiveNAS (arXiv:2011.09011) and AlphaNet (arXiv:2102.07954), TF-NAS (arXiv:2008.05314, supplement,
Tables 9 to 20) and HardCoRe-NAS (arXiv:2102.11646); each is in a space of this package."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from nas.runtime.io import read_json
from nas.spaces import FOLDER, hardcore_nas, mbconv, tf_nas
from nas.spaces.rows import Plan, Row


@dataclass(frozen=True)
class Published:
    """A network of a paper."""

    name: str  # e.g. "TF-NAS-A"
    space: Path  # file of its search space
    arch: mbconv.Arch | tf_nas.Arch | hardcore_nas.Arch
    mflops: float  # as published, with 1000 classes; TF-NAS's count biases and the pool, in whole millions
    parameters: float | None = None  # millions, as published
    top1_imagenet: float | None = None  # percent, as published


@cache
def networks(family: str) -> tuple[Published, ...]:
    """All networks of a family: "attentive_nas" (with AlphaNet's), "tf_nas" or "hardcore_nas".

    Raises:
        ValueError: for an unknown family; lists the known ones.
    """
    if family not in _READERS:
        raise ValueError(f"no family {family!r} of published networks; there are {list(_READERS)}")
    return tuple(map(_READERS[family], read_json(FOLDER / f"{family}_published.json")["networks"]))


def find(name: str, family: str = "attentive_nas") -> Published:
    """A published network by its name, e.g. "AttentiveNAS-A0".

    Raises:
        ValueError: for an unknown name; lists the known ones.
    """
    for network in networks(family):
        if network.name == name:
            return network
    raise ValueError(f"no published network {name!r}; there are {[n.name for n in networks(family)]}")


def _attentive_nas(entry: dict[str, Any]) -> Published:
    genes = [entry["resolution"], *entry["width"], *entry["depth"], *entry["kernel"], *entry["expansion"]]
    arch = mbconv.Arch.from_genes(genes)
    return Published(entry["name"], FOLDER / "attentive_nas.yaml", arch, entry["mflops"], top1_imagenet=entry["top1_imagenet"])


def _tf_nas(entry: dict[str, Any]) -> Published:
    space = tf_nas.load(FOLDER / entry["space"])
    fixed = space.fixed
    plan = Plan(fixed.resolution, fixed.stem, tuple(Row(*row) for row in entry["rows"]), fixed.head, fixed.squeeze)
    return Published(entry["name"], FOLDER / entry["space"], space.arch(plan), entry["published_mflops"])


def _hardcore_nas(entry: dict[str, Any]) -> Published:
    file = FOLDER / "hardcore_nas.yaml"
    arch = hardcore_nas.load(file).arch([Row(*row) for row in entry["rows"]])
    return Published(entry["name"], file, arch, entry["macs_m"], entry["params_m"])


_READERS = {"attentive_nas": _attentive_nas, "tf_nas": _tf_nas, "hardcore_nas": _hardcore_nas}

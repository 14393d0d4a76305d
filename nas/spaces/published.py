"""Published networks of AttentiveNAS (arXiv:2011.09011) and AlphaNet (arXiv:2102.07954), beside the spaces' YAML files."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from nas.spaces.mbconv import Arch

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Published:
    """A network of the papers' families; all are in the space `attentive_nas.yaml`."""

    name: str
    arch: Arch
    mflops: float  # with 1000 classes
    top1_imagenet: float  # percent, as published


@cache
def networks() -> tuple[Published, ...]:
    """All of them: AttentiveNAS-A0 to A6; AlphaNet-A0 to A4, A5-small, A5-base and A6."""
    found = json.loads((FOLDER / "attentive_nas_published.json").read_text())["networks"]
    return tuple(Published(n["name"], _arch(n), n["mflops"], n["top1_imagenet"]) for n in found)


def published(name: str) -> Arch:
    """The architecture of a published network, e.g. "AttentiveNAS-A0".

    Raises:
        ValueError: for an unknown name; lists the known ones.
    """
    for network in networks():
        if network.name == name:
            return network.arch
    raise ValueError(f"no published network {name!r}; there are {[n.name for n in networks()]}")


def _arch(found: dict) -> Arch:
    return Arch.from_genes([found["resolution"], *found["width"], *found["depth"], *found["kernel"], *found["expansion"]])

"""The published AttentiveNAS and AlphaNet networks: built by name; their weights' files read with errors that say what is wrong.

The weights are the authors' (CC BY-NC, not distributed here; `nas.export.import_checkpoint` says where they are).
"""

from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from nas.models.extract import Network
from nas.models.published_weights import load_published
from nas.spaces import mbconv, published

CLASSES = 1000  # of ImageNet, on which they were trained
SPACE = published.FOLDER / "attentive_nas.yaml"


class WeightsError(ValueError):
    """A file holds no published weights that can be read."""


def network(name: str, classes: int = CLASSES) -> Network:
    """A published network as a plain module in eval mode, e.g. `nas.published("AttentiveNAS-A0")`; its weights are random.

    `python -m nas.export.import_checkpoint` makes one with the authors' weights. Input: normalised images (batch, 3, H, W).

    Args:
        name: AttentiveNAS-A0 to A6; AlphaNet-A0 to A4, A5-small, A5-base, A6.
        classes: of the classifier; its multiply-accumulates count, so other than 1000 have other FLOPs.

    Raises:
        ValueError: for an unknown name; lists the known ones.
        RuntimeError: if the multiply-accumulates of the module are not the published ones.
    """
    arch, searched = published.published(name), mbconv.load(SPACE)
    mflops = next(n.mflops for n in published.networks() if n.name == name)
    if abs((counted := count_mflops(Network(searched, arch, CLASSES, device="meta"))) - mflops) > 0.001:
        raise RuntimeError(f"{name} was built with {counted:.3f} MFLOPs, published are {mflops:.3f}: the network is not the published one")
    return Network(searched, arch, classes).eval()


def count_mflops(network: Network) -> float:
    """Millions of multiply-accumulates of an image, counted by torch while the network runs (on the meta device nothing is computed)."""
    weight = network.classifier.weight
    image = torch.zeros((1, 3, network.resolution, network.resolution), device=weight.device)
    training = network.training
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(image)
    network.train(training)
    return counter.get_total_flops() / 2e6  # torch counts a multiplication and an addition


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """`nas.models.published_weights.load_published`, whatever the file is.

    Raises:
        FileNotFoundError: if there is no such file.
        WeightsError: if it cannot be read, holds more than tensors and plain values, or no `state_dict` of such weights.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        found = load_published(path)
    except ValueError as error:
        raise WeightsError(str(error)) from None
    except Exception as error:  # torch raises many kinds for a file that it cannot or will not read
        reason = str(error).partition("\n")[0]
        if reason.startswith("Weights only load failed"):
            raise WeightsError(
                f"{path} is no checkpoint, or would run code when it is opened, and is refused ({reason}). If it is the authors' file, "
                "save its state_dict alone, with torch.save, where that does no harm"
            ) from None
        raise WeightsError(f"{path} ({path.stat().st_size} bytes) is no whole checkpoint file: {error}; fetch it again") from None
    if not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise WeightsError(f"{path} is not an AttentiveNAS checkpoint: its state_dict holds more than tensors")
    return found

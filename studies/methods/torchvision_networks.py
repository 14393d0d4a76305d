"""torchvision's networks for small images, with initial weights.

They halve an image five times, which is too much for 24 pixels. As is usual for small images some of their strides become 1:
the first, the third and the fourth halving remain, as many as in the search spaces for such images.
"""

from collections import defaultdict

import torch
from pydantic import model_validator
from torch import Tensor, nn

from nas.data.torchvision_import import models
from nas.runtime.params import Section

HALVINGS = (0, 2, 3)  # that remain, of the five in their order
SIDE = 224  # pixels, for which the networks were designed


class TorchvisionNetwork(Section):
    """A network of `torchvision.models`."""

    model: str
    width: float | None  # multiplier of its channels; null: the network has none

    @property
    def name(self) -> str:
        return self.model if self.width is None else f"{self.model} {self.width:g}"

    @model_validator(mode="after")
    def _can_be_built(self) -> "TorchvisionNetwork":
        try:
            with torch.device("meta"):
                build(self, 2)
        except (ValueError, TypeError) as error:
            raise ValueError(f"torchvision builds no such network for small images ({error})") from None
        return self


class Baseline(nn.Module):
    """A classifier with one dropout before its last layer; torchvision's own where there is one."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        dropouts = [module for module in network.modules() if isinstance(module, nn.Dropout)]
        if not dropouts and isinstance(getattr(network, "fc", None), nn.Linear):
            dropouts = [nn.Dropout(0.0)]
            network.fc = nn.Sequential(dropouts[0], network.fc)
        if len(dropouts) != 1:
            raise ValueError(f"{type(network).__name__} has {len(dropouts)} dropouts; one before the last layer is needed")
        self.network, self.dropout = network, dropouts[0]

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised images -> (B, classes) logits."""
        return self.network(images)


def build(choice: TorchvisionNetwork, classes: int) -> Baseline:
    """The network for small images. Weights from torch's global generator.

    Raises:
        ValueError, TypeError: if torchvision has no such network, or it is not an image classifier.
    """
    size = {} if choice.width is None else {"width_mult": choice.width}
    network = models.get_model(choice.model, weights=None, num_classes=classes, **size)
    halvings = strided(network)
    if len(halvings) <= max(HALVINGS):
        raise ValueError(f"{choice.model} halves an image {len(halvings)} times, more than {max(HALVINGS)} are needed")
    for number, modules in enumerate(halvings):
        for module in modules if number not in HALVINGS else ():
            module.stride = 1 if isinstance(module, nn.MaxPool2d) else (1, 1)
    return Baseline(network)


@torch.no_grad()
def strided(network: nn.Module) -> list[list[nn.Module]]:
    """Layers of stride 2 in order, those that halve the same side together."""
    by_side: dict[int, list[nn.Module]] = defaultdict(list)

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if module.stride in (2, (2, 2)):
            by_side[inputs[0].shape[-1]].append(module)

    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.MaxPool2d)]
    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    training = network.training
    network.eval()(torch.zeros(1, 3, SIDE, SIDE, device=next(network.parameters()).device))
    network.train(training)
    for hook in hooks:
        hook.remove()
    return [by_side[side] for side in sorted(by_side, reverse=True)]

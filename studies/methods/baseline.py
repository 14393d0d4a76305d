"""torchvision's networks for small images, with fresh weights.

They halve an image five times, which leaves nothing of 24 pixels. As is usual for small images some of their strides are 1
here: of the five halvings the first, the third and the fourth are kept, as many as the search spaces for such images have.
"""

from collections import defaultdict

import torch
from pydantic import model_validator
from torch import Tensor, nn

from nas.data.vision import models
from nas.runtime.params import Section

KEPT = (0, 2, 3)  # of the halvings, in their order
SIDE = 224  # pixels that the networks were made for


class Choice(Section):
    """A network of `torchvision.models`."""

    model: str
    width: float | None  # of its channels; null: the network has no such choice

    @property
    def name(self) -> str:
        return self.model if self.width is None else f"{self.model} {self.width:g}"

    @model_validator(mode="after")
    def _can_be_built(self) -> "Choice":
        try:
            with torch.device("meta"):
                build(self, 2)
        except (ValueError, TypeError) as error:
            raise ValueError(f"torchvision builds no such network for small images ({error})") from None
        return self


class Baseline(nn.Module):
    """A classifier with one dropout before its last layer; torchvision's as it is where there is one."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        found = [module for module in network.modules() if isinstance(module, nn.Dropout)]
        if not found and isinstance(getattr(network, "fc", None), nn.Linear):
            found = [nn.Dropout(0.0)]
            network.fc = nn.Sequential(found[0], network.fc)
        if len(found) != 1:
            raise ValueError(f"{type(network).__name__} has {len(found)} dropouts; one before the last layer is needed")
        self.network, self.dropout = network, found[0]

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised images -> (B, classes) logits."""
        return self.network(images)


def build(choice: Choice, classes: int) -> Baseline:
    """The network for small images. Weights from torch's global generator.

    Raises:
        ValueError, TypeError: if torchvision has no such network, or it has another form than classifiers of images have.
    """
    size = {} if choice.width is None else {"width_mult": choice.width}
    network = models.get_model(choice.model, weights=None, num_classes=classes, **size)
    halvings = strided(network)
    if len(halvings) <= max(KEPT):
        raise ValueError(f"{choice.model} halves an image {len(halvings)} times, more than {max(KEPT)} are needed")
    for number, modules in enumerate(halvings):
        for module in modules if number not in KEPT else ():
            module.stride = 1 if isinstance(module, nn.MaxPool2d) else (1, 1)
    return Baseline(network)


@torch.no_grad()
def strided(network: nn.Module) -> list[list[nn.Module]]:
    """Layers of stride 2, those that halve the same side together, the first first."""
    found: dict[int, list[nn.Module]] = defaultdict(list)

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if module.stride in (2, (2, 2)):
            found[inputs[0].shape[-1]].append(module)

    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.MaxPool2d)]
    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    training = network.training
    network.eval()(torch.zeros(1, 3, SIDE, SIDE, device=next(network.parameters()).device))
    network.train(training)
    for hook in hooks:
        hook.remove()
    return [found[side] for side in sorted(found, reverse=True)]

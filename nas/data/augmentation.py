"""Augmentation of training images as in AttentiveNAS (arXiv:2011.09011), section 4.1: random resized crop, flip, AutoAugment.

The transforms are torchvision's; AutoAugment is arXiv:1805.09501.
"""

from functools import lru_cache
from typing import Literal

from pydantic import field_validator

from nas.data.torchvision_import import transforms
from nas.runtime.params import Section


class Augmentation(Section):
    """Augmentation of training images."""

    crop_scale: tuple[float, float]  # share of the area that a random crop keeps; [1, 1]: no crop, the image as in evaluation
    flip: bool  # left-right, with probability 1/2
    policy: Literal["none", "imagenet", "cifar10", "svhn"]  # of AutoAugment

    @field_validator("crop_scale")
    @classmethod
    def _in_order(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError("two shares of the area are needed, the smaller first, each above 0 and at most 1")
        return scale


def random_transforms(augmentation: Augmentation, side: int) -> transforms.Compose:
    """The transforms of an augmentation, in the order in which they apply; empty if there are none.

    Args:
        side: of the images, pixels.
    """
    steps = []
    if augmentation.crop_scale != (1.0, 1.0):
        steps.append(transforms.RandomResizedCrop(side, scale=augmentation.crop_scale))
    if augmentation.flip:
        steps.append(transforms.RandomHorizontalFlip())
    if augmentation.policy != "none":
        steps.append(AutoAugment(transforms.AutoAugmentPolicy(augmentation.policy)))
    return transforms.Compose(steps)


class AutoAugment(transforms.AutoAugment):
    """torchvision's AutoAugment; its table of magnitudes is built once per image size, not once per image."""

    def _augmentation_space(self, num_bins: int, image_size: tuple[int, int]) -> dict:
        return _magnitudes(num_bins, image_size)


@lru_cache
def _magnitudes(bins: int, size: tuple[int, int]) -> dict:
    return transforms.AutoAugment()._augmentation_space(bins, size)

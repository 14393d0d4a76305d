"""A network to take away: a folder that holds all that is needed to run it, without the search space or the data set.

    bundle.json          classes, architecture, how images are prepared, hash of the weights
    weights.safetensors  the calibrated network with its batch norms, which fine-tuning needs; `load` folds them
    model.*, card.md     other formats and the model card, see `nas.export`

Nothing in it is a pickle.
"""

import hashlib
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError
from torch import Tensor, nn

from nas.data.sets import FolderImages, fit
from nas.models.extract import Network
from nas.models.fuse import fold
from nas.runtime.checkpoint import save_weights
from nas.spaces.mbconv import LARGEST, Arch, SearchSpace, StageArch, StageSpace

DESCRIPTION, WEIGHTS = "bundle.json", "weights.safetensors"
FAMILY = "family"  # stage export's bundles lie in outputs/export/family/, beside its metrics

MOST_BLOCKS = 1000  # of an architecture
Positive = Annotated[int, Field(gt=0, le=LARGEST)]
Colours = tuple[float, float, float]
Spread = Annotated[float, Field(gt=0)]


class BundleError(ValueError):
    """A folder is no bundle, or a damaged one; the message says which file and what to do."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Stage(_Part):
    """A run of MBConv blocks; only the first has the stride."""

    name: str
    width: Positive  # output channels
    depth: Positive  # blocks
    kernel: Positive  # depthwise kernel side, pixels
    expansion: Positive  # hidden channels / input channels
    stride: Literal[1, 2]
    se: bool  # squeeze-and-excitation


class Architecture(_Part):
    """One architecture together with what its search space fixes."""

    resolution: Positive  # pixels; the network resizes its input to it
    stem_width: Positive
    stem_stride: Literal[1, 2]
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    head_width: Positive
    head_expansion: Positive

    @model_validator(mode="after")
    def _can_be_built(self) -> Self:
        if (blocks := sum(s.depth for s in self.stages)) > MOST_BLOCKS:
            raise ValueError(f"{blocks} blocks, at most {MOST_BLOCKS} are built")
        return self

    @classmethod
    def of(cls, space: SearchSpace, arch: Arch) -> Self:
        """The architecture of a space.

        Raises:
            ValueError: if it is not in the space.
        """
        stages = tuple(
            Stage(
                name=offered.name,
                width=chosen.width,
                depth=chosen.depth,
                kernel=chosen.kernel,
                expansion=chosen.expansion,
                stride=offered.stride,
                se=offered.se,
            )
            for offered, chosen in zip(space.stages, space.check(arch).stages)
        )
        return cls(
            resolution=arch.resolution,
            stem_width=arch.stem,
            stem_stride=space.stem_stride,
            stages=stages,
            head_width=arch.head,
            head_expansion=space.head_expansion,
        )

    @property
    def arch(self) -> Arch:
        """The choices alone."""
        stages = tuple(StageArch(s.width, s.depth, s.kernel, s.expansion) for s in self.stages)
        return Arch(self.resolution, self.stem_width, stages, self.head_width)

    @property
    def space(self) -> SearchSpace:
        """A space that offers nothing else."""
        stages = tuple(
            StageSpace(s.name, (s.width,), (s.depth,), (s.kernel,), (s.expansion,), stride=s.stride, se=s.se) for s in self.stages
        )
        head = (self.head_width,), self.head_expansion
        return SearchSpace("bundle", (self.resolution,), (self.stem_width,), self.stem_stride, stages, *head)


class Preparation(_Part):
    """What is done to images."""

    side: Annotated[int, Field(ge=8, le=LARGEST)]  # pixels: the centre 224/256 of the shorter side is resized to it, as `open_image` does
    mean: Colours  # of pixels in [0, 1], red, green, blue; subtracted inside the network
    std: tuple[Spread, Spread, Spread]  # divided by, inside the network


class Description(_Part):
    """What bundle.json says."""

    format: Literal[1] = 1
    name: str
    dataset: str
    classes: Annotated[tuple[str, ...], Field(min_length=2)]  # in the order of the logits
    images: Preparation
    architecture: Architecture


class _Written(Description):
    """With the hash of the weights that were written beside it."""

    weights_sha256: str


class Classifier(nn.Module):
    """A network that takes images as they come: pixels from 0 to 255, red, green, blue."""

    def __init__(self, network: Network | nn.Module, description: Description) -> None:
        super().__init__()
        self.description = description
        self.network = network
        for name, values in (("mean", description.images.mean), ("std", description.images.std)):
            self.register_buffer(f"image_{name}", 255 * torch.tensor(values).view(3, 1, 1), persistent=False)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names in the order of the logits."""
        return self.description.classes

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 3, side, side) pixels 0..255, uint8 or float -> (batch, classes) logits."""
        return self.network((images.to(self.image_mean.dtype) - self.image_mean) / self.image_std)

    def open_image(self, path: str | Path) -> Tensor:
        """An image file as a batch of one, (1, 3, side, side) uint8, prepared as in evaluation.

        Raises:
            ImageError: if the file cannot be decoded.
        """
        pixels = fit(FolderImages((Path(path),), np.zeros(1, np.int64), self.classes).image(0), self.description.images.side)
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None].to(self.image_mean.device)


def write(folder: Path, network: Network, description: Description) -> None:
    """Write bundle.json and weights.safetensors: the same network gives the same bytes.

    Args:
        network: calibrated, batch norms not folded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(folder / WEIGHTS, network)
    written = _Written(**dict(description), weights_sha256=_sha256((folder / WEIGHTS).read_bytes()))
    (folder / DESCRIPTION).write_text(written.model_dump_json(indent=2) + "\n")


def load(folder: str | Path, folded: bool = True) -> Classifier:
    """The network of a bundle, in eval mode on the CPU: `nas.load("outputs/export/glyphs-a0")`.

    Args:
        folded: False keeps the batch norms, for fine-tuning.

    Raises:
        BundleError: for anything but a whole bundle; nothing in the folder is executed.
    """
    folder = _find(Path(folder))
    description = _description(folder / DESCRIPTION)
    path = folder / WEIGHTS
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BundleError(f"the weights {path} cannot be read ({error.strerror}); {_AGAIN}") from None
    form = description.architecture.space, description.architecture.arch, len(description.classes)
    try:
        weights = safetensors.torch.load(data)
        sizes = [sum(tensor.numel() for tensor in found.values()) for found in (weights, Network(*form, device="meta").state_dict())]
        if sizes[0] != sizes[1]:  # told before memory is taken for a network that the file cannot fill
            raise RuntimeError(f"{sizes[0]} numbers, {DESCRIPTION} describes {sizes[1]}")
        network = Network(*form)
        network.load_state_dict(weights)
    except (SafetensorError, RuntimeError) as error:
        raise BundleError(f"{path} holds no weights of this network: {error}; {_AGAIN}") from None
    if _sha256(data) != description.weights_sha256:
        raise BundleError(f"{path} is not the file that {DESCRIPTION} was written with: its sha256 is another; {_AGAIN}")
    network.eval()
    described = Description(**{key: getattr(description, key) for key in Description.model_fields})
    return Classifier(fold(network) if folded else network, described).eval()


_AGAIN = "write the bundle again: dvc repro export --force"


def _find(folder: Path) -> Path:
    """The folder; outputs/export/family/<name> for outputs/export/<name>, a link that `dvc pull` does not bring."""
    inner = folder.parent / FAMILY / folder.name
    if not folder.exists() and inner.is_dir():
        return inner
    if folder.is_file():
        raise BundleError(f"{folder} is a file; a bundle is a folder with {DESCRIPTION} and {WEIGHTS}, as stage export writes them")
    if not (folder / DESCRIPTION).is_file():
        near = sorted(str(path.parent) for path in folder.parent.glob(f"*/{DESCRIPTION}"))
        raise BundleError(f"{folder} is no bundle: no {DESCRIPTION} in it; found {near or 'none beside it'}; make some: dvc repro export")
    return folder


def _description(path: Path) -> _Written:
    try:
        return _Written.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}); {_AGAIN}") from None
    except ValidationError as error:
        lines = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'the whole'}: {e['msg']}" for e in error.errors()[:5])
        raise BundleError(f"{path} does not describe a bundle ({lines}); {_AGAIN}") from None


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

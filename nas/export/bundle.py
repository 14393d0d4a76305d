"""A self-contained bundle: a folder with everything needed to run a network, without its search space or dataset.

    bundle.json          classes, architecture, image preparation, hash of the weights
    weights.safetensors  the calibrated network with its batch norms, for fine-tuning; `load` folds them
    model.*, card.md     other formats and the model card, see `nas.export.formats` and `nas.export.card`

No file is a pickle. Bundles of version 1, which call the images `pictures`, still load.
"""

import hashlib
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import safetensors.torch
import torch
from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError
from torch import Tensor, nn

from nas.data.sources import FolderImages, centre_crop
from nas.models.extract import Network
from nas.models.fuse import fold
from nas.runtime.checkpoint import save_weights
from nas.spaces.mbconv import MAX_VALUE, Arch, SearchSpace, StageArch, StageSpace

DESCRIPTION, WEIGHTS = "bundle.json", "weights.safetensors"
VERSION = 2  # `format` in bundle.json
FAMILY = "family"  # stage export writes its bundles to outputs/export/family/, beside its metrics

MAX_BLOCKS = 1000  # per architecture
Positive = Annotated[int, Field(gt=0, le=MAX_VALUE)]
StandardDeviation = Annotated[float, Field(gt=0)]


class BundleError(ValueError):
    """A folder is not a bundle, or a damaged one; the message names the file and the remedy."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Stage(_Part):
    """MBConv blocks in sequence; only the first has the stride."""

    name: str
    width: Positive  # output channels
    depth: Positive  # blocks
    kernel: Positive  # depthwise kernel side, pixels
    expansion: Positive  # hidden channels / input channels
    stride: Literal[1, 2]
    se: bool  # squeeze-and-excitation


class Architecture(_Part):
    """One architecture with the constants of its search space."""

    resolution: Positive  # pixels; the network resizes its input to this side
    stem_width: Positive
    stem_stride: Literal[1, 2]
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    head_width: Positive
    head_expansion: Positive

    @model_validator(mode="after")
    def _limit_blocks(self) -> Self:
        if (blocks := sum(s.depth for s in self.stages)) > MAX_BLOCKS:
            raise ValueError(f"{blocks} blocks, the maximum is {MAX_BLOCKS}")
        return self

    @classmethod
    def of(cls, space: SearchSpace, arch: Arch) -> Self:
        """From an architecture and its search space.

        Raises:
            ValueError: if the architecture is not in the space.
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
        """The searched choices."""
        stages = tuple(StageArch(s.width, s.depth, s.kernel, s.expansion) for s in self.stages)
        return Arch(self.resolution, self.stem_width, stages, self.head_width)

    @property
    def space(self) -> SearchSpace:
        """A search space with this architecture only."""
        stages = tuple(
            StageSpace(s.name, (s.width,), (s.depth,), (s.kernel,), (s.expansion,), stride=s.stride, se=s.se) for s in self.stages
        )
        head = (self.head_width,), self.head_expansion
        return SearchSpace("bundle", (self.resolution,), (self.stem_width,), self.stem_stride, stages, *head)


class Preparation(_Part):
    """How images are prepared; the network itself normalises them."""

    side: Annotated[int, Field(ge=8, le=MAX_VALUE)]  # pixels; `open_image` resizes the centre 224/256 of the shorter side to it
    mean: tuple[float, float, float]  # red, green, blue, of pixels in [0, 1]
    std: tuple[StandardDeviation, StandardDeviation, StandardDeviation]


class Description(_Part):
    """The content of bundle.json without the hash."""

    format: Annotated[Literal[1, 2], AfterValidator(lambda _: VERSION)] = VERSION
    name: str
    dataset: str
    classes: Annotated[tuple[str, ...], Field(min_length=2)]  # in the order of the logits
    images: Preparation = Field(validation_alias=AliasChoices("images", "pictures"))  # `pictures` in version 1
    architecture: Architecture


class _HashedDescription(Description):
    """The content of bundle.json: with the hash of the weights file."""

    weights_sha256: str


class Classifier(nn.Module):
    """A network with its normalisation: it takes RGB pixels from 0 to 255."""

    def __init__(self, network: Network | nn.Module, description: Description) -> None:
        super().__init__()
        self.description = description
        self.network = network
        for name, values in (("mean", description.images.mean), ("std", description.images.std)):
            self.register_buffer(f"image_{name}", 255 * torch.tensor(values).view(3, 1, 1), persistent=False)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the logits."""
        return self.description.classes

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 3, side, side) pixels 0..255, uint8 or float -> (batch, classes) logits."""
        return self.network((images.to(self.image_mean.dtype) - self.image_mean) / self.image_std)

    def open_image(self, path: str | Path) -> Tensor:
        """An image file as a batch of one, (1, 3, side, side) uint8, with the preparation of evaluation.

        Raises:
            ImageError: if the file cannot be decoded.
        """
        pixels = centre_crop(FolderImages((Path(path),), np.zeros(1, np.int64), self.classes).image(0), self.description.images.side)
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None].to(self.image_mean.device)


def write(folder: Path, network: Network, description: Description) -> None:
    """Write bundle.json and weights.safetensors: the same network gives the same bytes.

    Args:
        network: calibrated, with batch norms.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(folder / WEIGHTS, network)
    hashed = _HashedDescription(**dict(description), weights_sha256=_sha256((folder / WEIGHTS).read_bytes()))
    (folder / DESCRIPTION).write_text(hashed.model_dump_json(indent=2) + "\n")


def load(folder: str | Path, folded: bool = True) -> Classifier:
    """The network of a bundle, in eval mode on the CPU: `nas.load("outputs/export/glyphs-a0")`.

    No code in the folder is executed.

    Args:
        folded: False keeps the batch norms, for fine-tuning.

    Raises:
        BundleError: if the folder is not a complete bundle.
    """
    folder = _find(Path(folder))
    description = _description(folder / DESCRIPTION)
    path = folder / WEIGHTS
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BundleError(f"the weights {path} cannot be read ({error.strerror}); {_REMEDY}") from None
    try:
        network = _network(description, data)
    except (SafetensorError, RuntimeError) as error:
        raise BundleError(f"{path} does not hold the weights of this network: {error}; {_REMEDY}") from None
    if _sha256(data) != description.weights_sha256:
        raise BundleError(f"the sha256 of {path} differs from the one in {DESCRIPTION}: the file was changed; {_REMEDY}")
    unhashed = Description(**{key: getattr(description, key) for key in Description.model_fields})
    return Classifier(fold(network) if folded else network, unhashed).eval()


_REMEDY = "write the bundle again: dvc repro export --force"


def _network(description: Description, data: bytes) -> Network:
    """The described network with the weights of a safetensors file, in eval mode."""
    config = description.architecture.space, description.architecture.arch, len(description.classes)
    weights = safetensors.torch.load(data)
    values, expected = (sum(t.numel() for t in tensors.values()) for tensors in (weights, Network(*config, device="meta").state_dict()))
    if values != expected:  # before memory is allocated for a network that the file cannot fill
        raise RuntimeError(f"{values} values, {DESCRIPTION} describes {expected}")
    network = Network(*config)
    network.load_state_dict(weights)
    return network.eval()


def _find(folder: Path) -> Path:
    """The folder itself, or outputs/export/family/<name> for outputs/export/<name>, a link that `dvc pull` does not restore."""
    inner = folder.parent / FAMILY / folder.name
    if not folder.exists() and inner.is_dir():
        return inner
    if folder.is_file():
        raise BundleError(f"{folder} is a file; a bundle is a folder with {DESCRIPTION} and {WEIGHTS}, as stage export writes it")
    if not (folder / DESCRIPTION).is_file():
        near = sorted(str(path.parent) for path in folder.parent.glob(f"*/{DESCRIPTION}"))
        raise BundleError(
            f"{folder} is not a bundle: it has no {DESCRIPTION}; bundles beside it: {near or 'none'}; to write bundles: dvc repro export"
        )
    return folder


def _description(path: Path) -> _HashedDescription:
    try:
        return _HashedDescription.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}); {_REMEDY}") from None
    except ValidationError as error:
        lines = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}" for e in error.errors()[:5])
        raise BundleError(f"{path} does not describe a bundle ({lines}); {_REMEDY}") from None


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

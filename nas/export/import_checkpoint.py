"""Published weights as bundles: `python -m nas.export.import_checkpoint FILE IMAGES --network AttentiveNAS-A0`.

FILE is the authors' supernet checkpoint. Its licence is CC BY-NC (no commercial use), and it is not distributed here:
the README of github.com/facebookresearch/AttentiveNAS links it as "pretrained AttentiveNAS models", that of
github.com/facebookresearch/AlphaNet as "pretrained AlphaNet models". It has no batch-norm statistics of single
sub-networks, so these are estimated on IMAGES (AttentiveNAS, arXiv:2011.09011, section 4.2): a folder, searched
recursively, with photographs of the kind that the network will see; ImageNet's training images give the published
accuracy. A hundred images suffice to run, thousands are better (the paper: 64 batches of 256).

Each network becomes a folder in `--out` that `nas.load` opens, with torch.export, ONNX and 8-bit ONNX files.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor

from nas.data.sources import SUFFIXES, FolderImages, centre_crop
from nas.data.torchvision_import import models
from nas.evaluation.evaluate import calibrate
from nas.export import bundle, formats
from nas.export.torch_export import open_module
from nas.models.extract import extract
from nas.models.published import CLASSES, SPACE, import_weights, read_weights
from nas.models.supernet import Supernet
from nas.runtime.progress import progress
from nas.spaces import mbconv, published

SIDE = 224  # pixels; the input is the centre 224 of 256
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's training images
MIN_IMAGES = 32  # for meaningful batch-norm statistics
BATCH = 32
CALIBRATION_IMAGES = 256  # for the ranges of the 8-bit network

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def find_images(folder: Path, limit: int) -> np.ndarray:
    """The images in a folder and its subfolders, (n, 3, 224, 224) uint8; an evenly spaced subset if there are more than `limit`.

    Raises:
        ValueError: if there are fewer than `MIN_IMAGES`.
        ImageError: if a file cannot be decoded.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))
    if len(paths) < MIN_IMAGES:
        raise ValueError(f"{folder} and its subfolders hold {len(paths)} images ({', '.join(SUFFIXES)}); at least {MIN_IMAGES} are needed")
    subset = [paths[i] for i in np.unique(np.linspace(0, len(paths) - 1, min(limit, len(paths))).astype(int))]
    images = FolderImages(tuple(subset), np.zeros(len(subset), np.int64), ())
    pixels = (centre_crop(images.image(i), SIDE) for i in progress(range(len(subset)), "images", len(subset)))
    return np.ascontiguousarray(np.stack(list(pixels)).transpose(0, 3, 1, 2))


def import_networks(file: Path, images: np.ndarray, names: list[str], out: Path, classes: tuple[str, ...]) -> list[Path]:
    """Write a bundle for each named network: the file's weights, batch-norm statistics of the images.

    Args:
        file: the authors' checkpoint.
        images: (n, 3, 224, 224) uint8.
        names: published networks, see `nas.spaces.published.networks`.
        out: folder for the bundles.
        classes: 1000 names.

    Returns:
        The bundles' folders.

    Raises:
        ValueError, FileNotFoundError: for an unknown network, or a file that is not such a checkpoint.
        ParityError: if the outputs of a format differ from PyTorch's.
    """
    archs = {name: published.find(name).arch for name in names}
    supernet = Supernet(mbconv.load(SPACE), CLASSES)
    import_weights(supernet, read_weights(file))
    folders = []
    for name, arch in progress(archs.items(), "networks", len(archs)):
        network = extract(supernet, arch)
        calibrate(network, _normalised_batches(images))
        description = bundle.Description(
            name=name,
            dataset="ImageNet",
            classes=classes,
            images=bundle.Preparation(side=SIDE, mean=MEAN, std=STD),
            architecture=bundle.Architecture.of(supernet.space, arch),
        )
        folder = out / name
        bundle.write(folder, network, description)
        classifier = bundle.load(folder)
        formats.write(classifier, images[:CALIBRATION_IMAGES], folder)
        _check_parity(folder, classifier, images[:BATCH])
        folders.append(folder)
    return folders


def _normalised_batches(images: np.ndarray) -> Iterator[Tensor]:
    mean, std = (255 * torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    for i in range(0, len(images) - len(images) % BATCH, BATCH):  # full batches only, so that each has the same weight
        yield (torch.from_numpy(images[i : i + BATCH]).float() - mean) / std


def _check_parity(folder: Path, classifier: bundle.Classifier, images: np.ndarray) -> None:
    reference = formats.logits(open_module(classifier), images, BATCH)
    for f in formats.formats():
        exported = formats.logits(f.run(folder / f.file, torch.get_num_threads()), images, BATCH)
        formats.compare(folder.name, f.title, exported, reference, reference.argmax(1), f.limit).check()


@app.command(help=__doc__)
def main(
    file: Annotated[Path, typer.Argument(help="The authors' checkpoint, e.g. attentive_nas_pretrained.pth.tar.")],
    images: Annotated[Path, typer.Argument(help="Folder with images for the batch-norm statistics.")],
    network: Annotated[list[str], typer.Option(help="Published network; repeatable.")],
    out: Annotated[Path, typer.Option(help="Folder for the bundles.")] = Path("published"),
    max_images: Annotated[int, typer.Option(min=MIN_IMAGES, help="Maximum number of images.")] = 2048,
) -> None:
    classes = tuple(models.MobileNet_V2_Weights.IMAGENET1K_V1.meta["categories"])  # in ImageNet's order
    try:
        for folder in import_networks(file, find_images(images, max_images), network, out, classes):
            print(f'nas.load("{folder}")')
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    app()

"""Published weights as networks to take away: `python -m nas.export.import_checkpoint FILE PICTURES --network AttentiveNAS-A0`.

FILE is the authors' checkpoint of a whole supernet. It is theirs, under CC BY-NC (no commercial use), and not
distributed here: the README of github.com/facebookresearch/AttentiveNAS links it as "pretrained AttentiveNAS models",
that of github.com/facebookresearch/AlphaNet as "pretrained AlphaNet models". It holds no batch-norm statistics of any
one network, so these are estimated on PICTURES (AttentiveNAS, arXiv:2011.09011, section 4.2): a folder, searched with
all below it, of photographs of the kind the network is meant for; ImageNet's training images give the published
accuracy. A hundred images run, thousands are better (the paper: 64 batches of 256).

Each network becomes a folder of `--out` that `nas.load` opens, with torch.export, ONNX and 8-bit ONNX files beside it.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor

from nas.data.sets import SUFFIXES, FolderImages, fit
from nas.data.vision import models
from nas.evaluation.evaluate import calibrate
from nas.export import bundle, formats
from nas.export.parity import compare, logits
from nas.models.extract import extract
from nas.models.published import CLASSES, SPACE, read_weights
from nas.models.published_weights import import_published
from nas.models.supernet import Supernet
from nas.runtime.progress import progress
from nas.spaces import mbconv, published

SIDE = 224  # pixels: the networks are given the centre 224 of 256
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's training images
FEWEST = 32  # images, for statistics that mean anything
BATCH = 32
RANGES = 256  # images, for the 8-bit network

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def find_images(folder: Path, most: int) -> np.ndarray:
    """Images in a folder and all below it, (n, 3, 224, 224) uint8; of more than `most`, evenly spaced ones.

    Raises:
        ValueError: for fewer than `FEWEST`.
        ImageError: for a file that cannot be decoded.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))
    if len(paths) < FEWEST:
        raise ValueError(f"{folder} and the folders below hold {len(paths)} images ({', '.join(SUFFIXES)}); at least {FEWEST} are needed")
    chosen = [paths[i] for i in np.unique(np.linspace(0, len(paths) - 1, min(most, len(paths))).astype(int))]
    found = FolderImages(tuple(chosen), np.zeros(len(chosen), np.int64), ())
    pixels = (fit(found.image(i), SIDE) for i in progress(range(len(chosen)), "images", len(chosen)))
    return np.ascontiguousarray(np.stack(list(pixels)).transpose(0, 3, 1, 2))


def import_networks(file: Path, images: np.ndarray, names: list[str], out: Path, classes: tuple[str, ...]) -> list[Path]:
    """Write the named networks with the file's weights, batch norms calibrated on the images; their folders.

    Args:
        file: the authors' checkpoint.
        images: (n, 3, 224, 224) uint8.
        names: published networks, see `nas.spaces.published.networks`.
        out: where their folders are made.
        classes: 1000 names.

    Raises:
        ValueError, FileNotFoundError: for an unknown network, or a file that is no such checkpoint.
        ParityError: if an exported network is another function than the PyTorch network.
    """
    archs = {name: published.published(name) for name in names}
    supernet = Supernet(mbconv.load(SPACE), CLASSES)
    import_published(supernet, read_weights(file))
    mean, std = (255 * torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))

    def batches() -> Iterator[Tensor]:
        for i in range(0, len(images) - len(images) % BATCH, BATCH):  # whole ones: each counts alike
            yield (torch.from_numpy(images[i : i + BATCH]).float() - mean) / std

    folders = []
    for name, arch in progress(archs.items(), "networks", len(archs)):
        network = extract(supernet, arch)
        calibrate(network, batches())
        described = bundle.Description(
            name=name,
            dataset="ImageNet",
            classes=classes,
            images=bundle.Preparation(side=SIDE, mean=MEAN, std=STD),
            architecture=bundle.Architecture.of(supernet.space, arch),
        )
        folder = out / name
        bundle.write(folder, network, described)
        classifier = bundle.load(folder)
        formats.write(classifier, images[:RANGES], folder)
        shown = images[:BATCH]
        wanted = logits(formats.open_classifier(classifier), shown, BATCH)
        for f in formats.formats():
            answers = logits(f.run(folder / f.file, torch.get_num_threads()), shown, BATCH)
            compare(name, f.title, answers, wanted, wanted.argmax(1), f.limit).check()
        folders.append(folder)
    return folders


@app.command(help=__doc__)
def main(
    file: Annotated[Path, typer.Argument(help="The authors' checkpoint, e.g. attentive_nas_pretrained.pth.tar.")],
    images: Annotated[Path, typer.Argument(help="Folder of images for the batch-norm statistics.")],
    network: Annotated[list[str], typer.Option(help="Published network; may be given several times.")],
    out: Annotated[Path, typer.Option(help="Folder that the networks' folders are made in.")] = Path("published"),
    most: Annotated[int, typer.Option(min=FEWEST, help="Images to use at most.")] = 2048,
) -> None:
    classes = tuple(models.MobileNet_V2_Weights.IMAGENET1K_V1.meta["categories"])  # in ImageNet's order
    try:
        for folder in import_networks(file, find_images(images, most), network, out, classes):
            print(f'nas.load("{folder}")')
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    app()

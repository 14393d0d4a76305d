"""Stage split: the part of every image (train, predictor, search, val, test), and the pixels of the drawn data sets.

params   params.yaml: seed, split, search.weights
reads    the folders split.root and split.transfer_root
writes   outputs/split/sets.json        for each data set: title, classes, mean and std of training pixels, counts by part, source
         outputs/split/splits.parquet   set, item, label, part (or "broken")
         outputs/split/images/          <set>.npy uint8 (n, side, side, 3) of each embedded data set; image files stay where they are
         outputs/split/metrics.json     {"images", "classes", "<set>_images", "<set>_classes"}; if broken files are tolerated,
                                        for data sets in files, {"broken_files", "<set>_broken_files"}: number of skipped files
"""

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import ConfigDict

from nas.data import sources
from nas.data.decoding import BrokenFiles
from nas.data.splits import BROKEN, Parts, Split, split_parts
from nas.runtime import params
from nas.runtime.params import ParamsError, Section
from nas.runtime.progress import progress
from nas.stages import runner

OUT = runner.out("split")
MAIN_PARTS = ("predictor", "search", "val")  # that only the main data set has


class SearchWeights(Section):
    """The key of section `search` that this stage reads."""

    model_config = ConfigDict(extra="ignore")

    weights: Literal["early", "final"]


def main() -> None:
    parameters = {"seed": params.seed(), "split": params.read("split", Split), "search": params.read("search", SearchWeights)}
    with runner.stage("split", parameters) as stage:
        stage.finish(prepare())


def prepare() -> dict[str, int]:
    """Write the outputs for params.yaml of the current folder; returns the metrics."""
    cfg, seed = params.read("split", Split), params.seed()
    # if the search images are trained on, too, as in the paper, the search scores with early weights
    return divide(cfg, seed, params.read("search", SearchWeights).weights == "early", OUT)


def divide(cfg: Split, seed: int, search_in_training: bool, out: Path) -> dict[str, int]:
    """Draw or find every data set, divide it, and write the stage's outputs to `out`.

    Raises:
        ParamsError: if two data sets share a name.
        FileNotFoundError, ValueError, OSError: for a data set that is missing, broken, too small or larger than the disk.
    """
    root, transfer_root = Path(cfg.root), Path(cfg.transfer_root)
    places = [(cfg.data, root), *((source, transfer_root) for source in cfg.transfer)]
    keys = [source.key(place) for source, place in places]
    if duplicates := sorted({key for key in keys if keys.count(key) > 1}):
        raise ParamsError(f"{params.FILE}: split.data and split.transfer name the data set {duplicates[0]!r} twice")
    (out / "images").mkdir(parents=True, exist_ok=True)

    described, tables, metrics = {}, [], {}
    for key, (source, place) in zip(keys, places):
        is_main = key == keys[0]
        images = sources.open_source(source, place, seed, cfg.side)
        broken = sources.check(
            images, cfg.check_files, partial(_with_progress, f"checking files of {key}, by the thousand"), cfg.broken_files
        )
        fractions = {"predictor": cfg.predictor, "search": cfg.search, "val": cfg.val} if is_main else dict.fromkeys(MAIN_PARTS, 0.0)
        part = assign_parts(list(broken), images, fractions | {"test": cfg.test}, seed)
        mean, std = sources.statistics(images, Parts(part).indices("train"), cfg.side, BrokenFiles(key, cfg.broken_files, len(broken)))
        if source.name in sources.EMBEDDED:
            _save(out / "images" / f"{key}.npy", images.pixels)
        described[key] = {
            "name": key,
            "title": source.title(place),
            "classes": list(images.classes),
            "mean": mean,
            "std": std,
            "side": cfg.side,
            "counts": Parts(part).counts(),
            "source": source.model_dump(exclude_none=True),
            "root": place.as_posix(),
        }
        prefix = "" if is_main else f"{key}_"
        tables.append(pd.DataFrame({"set": key, "item": np.arange(len(images)), "label": images.labels, "part": part}))
        metrics |= {f"{prefix}images": len(images) - len(broken), f"{prefix}classes": len(images.classes)}
        if cfg.broken_files and source.name not in sources.EMBEDDED:
            described[key]["broken_files"] = {"limit": cfg.broken_files, "left_out": list(broken.values())}
            metrics[f"{prefix}broken_files"] = len(broken)
            print(
                "\n".join([f"{key}: {len(broken)} broken files are skipped, {cfg.broken_files} are tolerated", *broken.values()]),
                flush=True,
            )

    top = {"main": keys[0], "transfer": keys[1:], "search_in_training": search_in_training, "seed": seed, "sets": described}
    runner.write_json(out / "sets.json", top)
    pd.concat(tables, ignore_index=True).to_parquet(out / "splits.parquet", index=False)
    runner.write_json(out / "metrics.json", metrics)
    return metrics


def assign_parts(broken: list[int], images: sources.Images, fractions: dict[str, float], seed: int) -> np.ndarray:
    """The part of each image, (n,); `BROKEN` for broken images, which do not influence the parts of the others.

    Raises:
        ValueError: if a class has no other images, or too few.
    """
    intact = np.ones(len(images), dtype=bool)
    intact[broken] = False
    if empty := [images.classes[i] for i in np.setdiff1d(images.labels, images.labels[intact])]:
        raise ValueError(f"all files of class {empty[0]!r} are broken ({len(empty)} such classes); replace them or remove the class")
    own_test = None if images.test is None else images.test[intact]
    assigned = split_parts(images.labels[intact], **fractions, seed=seed, own_test=own_test, classes=images.classes)
    if not broken:
        return assigned
    parts = np.full(len(images), BROKEN, dtype=object)
    parts[intact] = assigned
    return parts.astype(str)


def _with_progress(title: str, chunks: range) -> Iterator[int]:
    return progress(chunks, title, len(chunks))


def _save(path: Path, pixels: np.ndarray) -> None:
    free = shutil.disk_usage(path.parent).free
    if pixels.nbytes > free:
        raise OSError(
            f"{path} needs {pixels.nbytes / 2**20:.1f} MiB, the disk has {free / 2**20:.1f} MiB left; free some or lower split images"
        )
    np.save(path, pixels)


if __name__ == "__main__":
    runner.execute(main)

"""Stage split: who sees which image, and the pixels of the sets that are drawn.

params   params.yaml: seed, split, search.weights
reads    the folders split.root and split.transfer_root
writes   outputs/split/sets.json        for each set: title, classes, mean and std of training pixels, counts by part, source
         outputs/split/splits.parquet   set, item, label, part (or "broken")
         outputs/split/images/        <set>.npy uint8 (n, side, side, 3) of each embedded set; files elsewhere stay there
         outputs/split/metrics.json     {"images", "classes", "<set>_images", "<set>_classes"}; where files may be broken,
                                        and for sets in files only, {"broken_files", "<set>_broken_files"}: left out
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


class SearchWeights(Section):
    """The one key of params.yaml: search that matters here."""

    model_config = ConfigDict(extra="ignore")

    weights: Literal["early", "final"]


def main() -> None:
    parameters = {"seed": params.seed(), "split": params.read("split", Split), "search": params.read("search", SearchWeights)}
    with runner.stage("split", parameters) as stage:
        stage.finish(prepare())


def prepare() -> dict[str, int]:
    """Divide as params.yaml in the current directory says; returns the metrics that it also wrote."""
    cfg, seed = params.read("split", Split), params.seed()
    # Where the search images are trained on too, as in the paper, the search scores with early weights.
    return divide(cfg, seed, params.read("search", SearchWeights).weights == "early", OUT)


def divide(p: Split, seed: int, search_in_training: bool, out: Path) -> dict[str, int]:
    """Draw or find every set, divide it, and write the stage's outputs to `out`.

    Raises:
        ParamsError: if two sets share a name.
        FileNotFoundError, ValueError, OSError: for a set that is missing, broken, too small or larger than the disk.
    """
    root, transfer_root = Path(p.root), Path(p.transfer_root)
    asked = [(p.data, root), *((source, transfer_root) for source in p.transfer)]
    keys = [source.key(place) for source, place in asked]
    if doubled := sorted({key for key in keys if keys.count(key) > 1}):
        raise ParamsError(f"{params.FILE}: split.data and split.transfer name the set {doubled[0]!r} twice")
    (out / "images").mkdir(parents=True, exist_ok=True)

    described, tables, metrics = {}, [], {}
    fractions = {"test": p.test, "predictor": p.predictor, "search": p.search, "val": p.val}
    for key, (source, place) in zip(keys, asked):
        main_set = key == keys[0]
        images = sources.open_source(source, place, seed, p.side)
        broken = sources.check(images, p.check_files, partial(_shown, f"checking files of {key}, by the thousand"), p.broken_files)
        shares = fractions if main_set else {**dict.fromkeys(fractions, 0.0), "test": p.test}
        part = parts_without(list(broken), images, shares, seed)
        mean, std = sources.statistics(images, Parts(part).indices("train"), p.side, BrokenFiles(key, p.broken_files, len(broken)))
        if source.name in sources.EMBEDDED:
            _save(out / "images" / f"{key}.npy", images.pixels)
        described[key] = {
            "name": key,
            "title": source.title(place),
            "classes": list(images.classes),
            "mean": mean,
            "std": std,
            "side": p.side,
            "counts": Parts(part).counts(),
            "source": source.model_dump(exclude_none=True),
            "root": place.as_posix(),
        }
        prefix = "" if main_set else f"{key}_"
        tables.append(pd.DataFrame({"set": key, "item": np.arange(len(images)), "label": images.labels, "part": part}))
        metrics |= {f"{prefix}images": len(images) - len(broken), f"{prefix}classes": len(images.classes)}
        if p.broken_files and source.name not in sources.EMBEDDED:
            described[key]["broken_files"] = {"limit": p.broken_files, "left_out": list(broken.values())}
            metrics[f"{prefix}broken_files"] = len(broken)
            print("\n".join([f"{key}: broken files left out: {len(broken)}; {p.broken_files} may be", *broken.values()]), flush=True)

    top = {"main": keys[0], "transfer": keys[1:], "search_in_training": search_in_training, "seed": seed, "sets": described}
    runner.write_json(out / "sets.json", top)
    pd.concat(tables, ignore_index=True).to_parquet(out / "splits.parquet", index=False)
    runner.write_json(out / "metrics.json", metrics)
    return metrics


def parts_without(broken: list[int], images: sources.Images, shares: dict[str, float], seed: int) -> np.ndarray:
    """The part of each image, (n,); those of the broken ones are `BROKEN`, as if they were not there.

    Raises:
        ValueError: if a class has no other images, or too few.
    """
    whole = np.ones(len(images), dtype=bool)
    whole[broken] = False
    if gone := [images.classes[i] for i in np.setdiff1d(images.labels, images.labels[whole])]:
        raise ValueError(f"all files of class {gone[0]!r} are broken ({len(gone)} such classes); replace them or remove the class")
    own_test = None if images.test is None else images.test[whole]
    found = split_parts(images.labels[whole], **shares, seed=seed, own_test=own_test, classes=images.classes)
    if not broken:
        return found
    parts = np.full(len(images), BROKEN, dtype=object)
    parts[whole] = found
    return parts.astype(str)


def _shown(what: str, chunks: range) -> Iterator[int]:
    return progress(chunks, what, len(chunks))


def _save(path: Path, pixels: np.ndarray) -> None:
    free = shutil.disk_usage(path.parent).free
    if pixels.nbytes > free:
        raise OSError(
            f"{path} needs {pixels.nbytes / 2**20:.1f} MiB, the disk has {free / 2**20:.1f} MiB left; free some or lower split images"
        )
    np.save(path, pixels)


if __name__ == "__main__":
    runner.execute(main)

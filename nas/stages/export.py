"""Stage export: each model of the family as a self-contained bundle, every format checked against PyTorch.

params   params.yaml: seed, space, runtime, evaluation, export
reads    outputs/split/, outputs/search/family.json, family/
writes   outputs/export/family/<name>/   bundle.json, weights.safetensors, model.pt2, model.onnx, model.int8.onnx, card.md
         outputs/export/<name>           a link to it
         outputs/export/parity.csv       model, format, max_abs_diff, agreement, top1, top1_drop (percent, part `val`), limit
         outputs/export/metrics.json     {"models", "onnx_max_abs_diff", "pt2_max_abs_diff", "int8_top1_drop"}  worst model

A format whose outputs differ from PyTorch stops the stage. The bytes of all files but the cards, which hold measured
latencies, depend on the exported networks alone.
"""

import shutil
import statistics
import time
from pathlib import Path

import numpy as np
import pandas as pd

from nas.data.dataset import ImageDataset, open_dataset
from nas.data.sources import centre_crop
from nas.export import bundle, card, formats
from nas.export.formats import Parity, compare, logits
from nas.export.onnx import ONNX
from nas.export.quantize import INT8
from nas.export.torch_export import PT2, open_module
from nas.models.extract import load_network
from nas.runtime import params, processes, seeding
from nas.runtime.progress import progress
from nas.spaces import encoding
from nas.spaces.mbconv import SearchSpace
from nas.stages import config, runner
from nas.tracking.runs import StageRun

OUT = runner.out("export")
FAMILY = OUT / bundle.FAMILY
SEARCHED = runner.out("search")
FOLDED_LIMIT = 1e-3  # on the difference of logits between the folded network and the one with batch norms: rounding
CALLS = 20  # per runtime, for the latency on the card


def main() -> None:
    cfg = params.read("export", config.Export)
    _, runtime, evaluation = config.shared()
    seed, space = params.seed(), config.search_space()
    sections = {"seed": seed, "space": space.name, "runtime": runtime, "evaluation": evaluation, "export": cfg}
    with runner.stage("export", sections) as stage:
        runtime.start()
        data = open_dataset(runner.out("split"))
        rows = encoding.read_family(SEARCHED / "family.json")
        shuffled = seeding.generator(seed, "export").permutation(data.indices("train"))
        calibration = pixels(data, np.sort(shuffled[: cfg.calibration_images]))
        checked = data.indices("val")[: cfg.checked_images]
        images, labels = pixels(data, checked), data.labels[checked]
        stage.run.dataset("outputs/split/splits.parquet", "export", images=len(checked))
        exporter = Exporter(data, space, calibration, images, labels, evaluation.batch, runtime.threads, cfg.licence)
        parities = [parity for row in progress(rows, "export", len(rows)) for parity in exporter.model(row)]
        link([row["name"] for row in rows])
        table = pd.DataFrame([parity.row() for parity in parities])
        table.to_csv(OUT / "parity.csv", index=False)
        stage.run.table(table, "parity.json")
        if cfg.register_models:
            register(rows, data, stage.run)
        stage.finish(worst_model(table), decimals=None)  # six decimals are too few for differences of logits


def pixels(data: ImageDataset, indices: np.ndarray) -> np.ndarray:
    """Input images of the networks, (n, 3, side, side) uint8."""
    images = np.stack([centre_crop(data.images.image(i), data.side) for i in indices])
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


class Exporter:
    """Writes and checks bundles of networks that were trained on one data set."""

    def __init__(
        self,
        data: ImageDataset,
        space: SearchSpace,
        calibration: np.ndarray,
        images: np.ndarray,
        labels: np.ndarray,
        batch: int,
        threads: int,
        licence: str | None,
    ) -> None:
        """
        Args:
            calibration: training images (n, 3, side, side) uint8, for the ranges of the 8-bit networks.
            images: (n, 3, side, side) uint8, with their labels (n,): every format is compared on them.
            batch: images at once.
            threads: of ONNX Runtime.
            licence: of the images, for the card; None: the known one of a named data set.
        """
        self.data, self.space = data, space
        self.calibration, self.images, self.labels = calibration, images, labels
        self.batch, self.threads = batch, threads
        self.licence = licence or card.LICENCES.get(data.key, card.UNKNOWN_LICENCE)

    def model(self, row: dict) -> list[Parity]:
        """The bundle of an entry of family.json; its parity, format by format.

        Raises:
            ParityError: if the outputs of a format differ from PyTorch's.
        """
        arch = encoding.from_json(row["arch"])
        network = load_network(SEARCHED / "family" / f"{row['name']}.safetensors", self.space, arch, len(self.data.classes))
        described = bundle.Description(
            name=row["name"],
            dataset=self.data.title,
            classes=self.data.classes,
            images=bundle.Preparation(side=self.data.side, mean=self.data.mean, std=self.data.std),
            architecture=bundle.Architecture.of(self.space, arch),
        )
        folder = FAMILY / row["name"]
        bundle.write(folder, network, described)
        classifier = bundle.load(folder)
        formats.write(classifier, self.calibration, folder)

        runs = {f.file: f.run(folder / f.file, self.threads) for f in formats.formats()}
        folded = open_module(classifier)
        reference = logits(folded, self.images, self.batch)
        unfolded = logits(open_module(bundle.load(folder, folded=False)), self.images, self.batch)
        compare(row["name"], "folded network", unfolded, reference, self.labels, FOLDED_LIMIT).check()
        parities = []
        for f in formats.formats():
            parity = compare(row["name"], f.title, logits(runs[f.file], self.images, self.batch), reference, self.labels, f.limit)
            parity.check()
            parities.append(parity)

        facts = card.Facts(
            mflops=row["mflops"],
            parameters=row["parameters"],
            top1=100 * float(np.mean(reference.argmax(1) == self.labels)),
            parities=parities,
            latencies=latencies(
                {"torch": folded, "ONNX Runtime": runs[ONNX], "ONNX Runtime, 8 bits": runs[INT8]}, self.images[:1], self.threads
            ),
            images=self.data.parts.counts(),
            evaluated_on=f"{len(self.labels)} images of the validation split, which were not used for training or model selection",
            licence=self.licence,
            sizes={path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.name != "card.md"},
        )
        text = card.card(described, facts)
        (folder / "card.md").write_text(text)
        return parities


def latencies(runs: dict[str, formats.Run], images: np.ndarray, threads: int) -> list[card.Latency]:
    """Medians over interleaved calls, after one warm-up call each."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(1 + CALLS):
        for name, run in runs.items():
            start = time.perf_counter()
            run(images)
            if turn:
                times[name].append(1000 * (time.perf_counter() - start))
    device = processes.processor()
    return [card.Latency(name, statistics.median(ms), len(images), threads, device) for name, ms in times.items()]


def worst_model(table: pd.DataFrame) -> dict[str, float]:
    """The stage's metrics, of the worst model; top-1 in percentage points.

    Args:
        table: a row for each model and format, see `Parity`.
    """
    worst = table.groupby("format")[["max_abs_diff", "top1_drop"]].max()
    titles = {f.file: f.title for f in formats.formats()}
    metrics = {
        "onnx_max_abs_diff": worst.loc[titles[ONNX], "max_abs_diff"],
        "pt2_max_abs_diff": worst.loc[titles[PT2], "max_abs_diff"],
        "int8_top1_drop": worst.loc[titles[INT8], "top1_drop"],
    }
    return {"models": table["model"].nunique()} | {key: float(f"{value:.4g}") for key, value in metrics.items()}


def link(names: list[str]) -> None:
    """Link outputs/export/<name> to each bundle. DVC tracks outputs/export/family, since metrics.json beside it belongs to git."""
    for old in OUT.iterdir():
        if old.is_symlink():
            old.unlink()
        elif (old / bundle.DESCRIPTION).is_file():  # some ways to copy a project turn links into folders
            shutil.rmtree(old)
    for name in names:
        (OUT / name).symlink_to(Path(bundle.FAMILY) / name, target_is_directory=True)


def register(rows: list[dict], data: ImageDataset, run: StageRun) -> None:
    """The family in MLflow: one registered model, a version and an alias for each model; torch.export, no pickle."""
    example = np.zeros((2, 3, data.side, data.side), dtype=np.uint8)
    for row in progress(rows, "export: models registered", len(rows)):
        run.model(
            row["name"],
            bundle.load(FAMILY / row["name"]),
            example,
            registered_name=f"pareto-nas-{data.key}",
            alias=row["name"].rpartition("-")[2],
            metrics={key: row[key] for key in ("mflops", "parameters", "top1_search", "top1_val")},
            tags={"mflops": f"{row['mflops']:.3f}", "dataset": data.key},
        )


if __name__ == "__main__":
    runner.execute(main)

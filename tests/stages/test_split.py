"""Stage split from params.yaml to outputs/split."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from nas.data.sources import ImageError
from nas.runtime.params import ParamsError
from nas.stages import split

PARAMS = {
    "seed": 0,
    "split": {
        "root": "nas/data",
        "data": {"name": "glyphs", "images": 600, "alphabet": "ABCDE", "difficulty": 0.3},
        "transfer_root": "nas/data",
        "transfer": [{"name": "cyrillic", "images": 120}, {"name": "digits"}],
        "side": 12,
        "test": 0.25,
        "predictor": 0.1,
        "search": 0.15,
        "val": 0.05,
        "check_files": True,
        "broken_files": 0,
    },
    "search": {"weights": "final", "population": 64},
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the stage in an empty folder with entries of params.yaml changed; returns its metrics."""
    monkeypatch.chdir(tmp_path)

    def run(seed: object = 0, weights: str = "final", **changes) -> dict[str, int]:
        found = PARAMS | {"seed": seed, "split": PARAMS["split"] | changes, "search": {"weights": weights, "population": 64}}
        Path("params.yaml").write_text(yaml.safe_dump(found))
        return split.prepare()

    return run


def hashes() -> dict[str, str]:
    return {str(p): hashlib.md5(p.read_bytes()).hexdigest() for p in sorted(split.OUT.rglob("*")) if p.is_file()}


def save_noise(path: Path, rng: np.random.Generator) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(256, size=(16, 16, 3), dtype=np.uint8)).save(path)


def test_metrics_count_images_and_classes(run):
    """600 drawn letters of 5, 120 of 27, and scikit-learn's 1797 digits of 10."""
    expected = {
        "images": 600, "classes": 5, "cyrillic_images": 120, "cyrillic_classes": 27, "digits_images": 1797, "digits_classes": 10,
    }  # fmt: skip
    assert run() == expected
    assert json.loads((split.OUT / "metrics.json").read_text()) == expected


def test_a_second_run_writes_the_same_bytes(run):
    """Every output, the parquet file too; another seed changes images and parts."""
    run()
    first = hashes()
    shutil.rmtree(split.OUT)
    run()
    assert hashes() == first
    run(seed=1)
    changed = {name for name, value in hashes().items() if first[name] != value}
    assert {"outputs/split/images/glyphs.npy", "outputs/split/splits.parquet"} <= changed


def test_the_table_has_every_image_once_with_its_part(run):
    """The main data set has 150 test images, of the other 450 a tenth, 15 % and 5 %; transfer data sets have train and test only."""
    run()
    table = pd.read_parquet(split.OUT / "splits.parquet")
    assert list(table.columns) == ["set", "item", "label", "part"]
    assert not table.duplicated(["set", "item"]).any()
    counts = table.groupby(["set", "part"]).size()
    assert counts["glyphs"].to_dict() == {"train": 315, "predictor": 45, "search": 68, "val": 22, "test": 150}
    assert counts["cyrillic"].to_dict() == {"train": 90, "test": 30}
    assert json.loads((split.OUT / "sets.json").read_text())["sets"]["glyphs"]["counts"] == counts["glyphs"].to_dict()


def test_images_and_statistics_are_of_the_training_part(run):
    """The stored mean and deviation are numpy's over the stored training images; the file maps into memory."""
    run()
    table = pd.read_parquet(split.OUT / "splits.parquet", filters=[("set", "==", "glyphs"), ("part", "==", "train")])
    pixels = np.load(split.OUT / "images" / "glyphs.npy", mmap_mode="r")[table["item"]] / 255
    entry = json.loads((split.OUT / "sets.json").read_text())["sets"]["glyphs"]
    assert pixels.shape == (315, 12, 12, 3)
    assert np.allclose(entry["mean"], pixels.mean(axis=(0, 1, 2)), atol=1e-6)
    assert np.allclose(entry["std"], pixels.std(axis=(0, 1, 2)), atol=1e-6)


@pytest.mark.parametrize(("weights", "trained_on"), [("early", True), ("final", False)])
def test_early_search_weights_mean_that_the_search_images_are_trained_on(run, weights, trained_on):
    """search.weights is recorded with the data sets; the parts are the same."""
    run(weights=weights, transfer=[])
    assert json.loads((split.OUT / "sets.json").read_text())["search_in_training"] is trained_on


def test_own_images_stay_where_they_are(run, tmp_path, rng):
    """An image folder is divided and described, not copied; its own test folder is the test part."""
    for part, each in (("train", 40), ("test", 5)):
        for label in ("cat", "dog"):
            for i in range(each):
                save_noise(tmp_path / "pets" / part / label / f"{i}.{'png' if i % 2 else 'jpg'}", rng)
    assert run(root="pets", data={"name": "imagefolder"}, transfer=[]) == {"images": 90, "classes": 2}
    assert list((split.OUT / "images").iterdir()) == []
    entry = json.loads((split.OUT / "sets.json").read_text())["sets"]["pets"]
    assert entry["counts"] == {"train": 56, "predictor": 8, "search": 12, "val": 4, "test": 10}
    assert (entry["classes"], entry["root"]) == (["cat", "dog"], "pets")


def test_a_folder_is_a_transfer_data_set_by_its_name(run, tmp_path, rng):
    """transfer_root/<folder> becomes the data set <folder>."""
    for label in ("cat", "dog"):
        for i in range(10):
            save_noise(tmp_path / "mine" / "pets" / label / f"{i}.png", rng)
    metrics = run(transfer_root="mine", transfer=[{"name": "imagefolder", "folder": "pets"}])
    assert metrics["pets_images"] == 20 and metrics["pets_classes"] == 2


@pytest.mark.parametrize("check_files", [True, False])
def test_broken_files_stop_the_stage(run, tmp_path, rng, check_files):
    """A file cut in the middle is found by check_files, an empty one in any case."""
    for label in ("cat", "dog"):
        for i in range(40):
            save_noise(tmp_path / "pets" / label / f"{i}.png", rng)
    broken = tmp_path / "pets" / "cat" / "7.png"
    broken.write_bytes(broken.read_bytes()[:200] if check_files else b"")
    with pytest.raises(ImageError, match=r"1 of 80 files are broken(.|\n)*pets/cat/7\.png"):
        run(root="pets", data={"name": "imagefolder"}, check_files=check_files)


def pets(folder: Path, rng: np.random.Generator, each: int = 40) -> Path:
    for label in ("cat", "dog"):
        for i in range(each):
            save_noise(folder / "pets" / label / f"{i:03d}.png", rng)
    return folder / "pets"


def test_broken_files_up_to_the_limit_are_skipped_and_listed(run, tmp_path, rng, capsys):
    """Of 80 files three are broken and tolerated: the other 77 get the parts of a folder without the three."""
    root = pets(tmp_path, rng)
    for name in ("cat/007.png", "dog/000.png", "dog/039.png"):
        (root / name).write_bytes((root / name).read_bytes()[:200])
    options = {"root": "pets", "data": {"name": "imagefolder"}, "transfer": [], "broken_files": 3}
    assert run(**options) == {"images": 77, "classes": 2, "broken_files": 3}
    table = pd.read_parquet(split.OUT / "splits.parquet")
    assert np.flatnonzero(table["part"] == "broken").tolist() == [7, 40, 79] and len(table) == 80
    entry = json.loads((split.OUT / "sets.json").read_text())["sets"]["pets"]
    assert sum(entry["counts"].values()) == 77 and entry["broken_files"]["limit"] == 3
    listed = [line.split(" cannot be decoded")[0] for line in entry["broken_files"]["left_out"]]
    assert listed == ["pets/cat/007.png", "pets/dog/000.png", "pets/dog/039.png"]
    told = capsys.readouterr().out
    assert "pets: 3 broken files are skipped, 3 are tolerated" in told and all(told.count(name) == 1 for name in listed)

    for name in listed:
        (tmp_path / name).unlink()
    assert run(**options) == {"images": 77, "classes": 2, "broken_files": 0}
    clean = pd.read_parquet(split.OUT / "splits.parquet")
    assert clean["part"].tolist() == table["part"][table["part"] != "broken"].tolist()


def test_one_broken_file_more_than_tolerated_stops_the_stage(run, tmp_path, rng):
    """The message has the number, the limit, its key and the names."""
    root = pets(tmp_path, rng)
    for name in ("cat/007.png", "dog/000.png"):
        (root / name).write_bytes(b"")
    with pytest.raises(ImageError, match=r"2 of 80 files are broken, 1 are tolerated.*split\.broken_files(.|\n)*cat/007(.|\n)*dog/000"):
        run(root="pets", data={"name": "imagefolder"}, transfer=[], broken_files=1)


def test_files_with_broken_pixels_do_not_spoil_the_statistics(run, tmp_path, rng):
    """Without check_files they stay in the parts; mean and deviation are those of the images that can be decoded."""
    root = pets(tmp_path, rng)
    cut = [f"{label}/{i:03d}.png" for label in ("cat", "dog") for i in range(0, 40, 4)]
    for name in cut:
        (root / name).write_bytes((root / name).read_bytes()[:200])
    options = {"root": "pets", "data": {"name": "imagefolder"}, "transfer": [], "check_files": False, "side": 16}
    assert run(**options, broken_files=20) == {"images": 80, "classes": 2, "broken_files": 0}
    table = pd.read_parquet(split.OUT / "splits.parquet")
    names = [path.relative_to(root).as_posix() for path in sorted(root.rglob("*.png"))]
    whole = [name for name, part in zip(names, table["part"]) if part == "train" and name not in cut]
    pixels = np.stack([np.asarray(Image.open(root / name)) for name in whole]) / 255
    entry = json.loads((split.OUT / "sets.json").read_text())["sets"]["pets"]
    assert np.allclose(entry["mean"], pixels.mean(axis=(0, 1, 2)), atol=1e-6)
    assert np.allclose(entry["std"], pixels.std(axis=(0, 1, 2)), atol=1e-6)


def test_a_class_of_broken_files_stops_the_stage(run, tmp_path, rng):
    """Whatever the limit is, every class needs images."""
    root = pets(tmp_path, rng)
    save_noise(root / "owl" / "1.png", rng)
    (root / "owl" / "1.png").write_bytes(b"")
    with pytest.raises(ValueError, match="all files of class 'owl' are broken"):
        run(root="pets", data={"name": "imagefolder"}, transfer=[], broken_files=9)


def test_a_class_of_one_image_is_named(run, tmp_path, rng):
    """One image cannot be in five parts, nor in two."""
    root = pets(tmp_path, rng)
    save_noise(root / "dodo" / "1.png", rng)
    for options in ({"root": "pets", "data": {"name": "imagefolder"}, "transfer": []}, {"transfer": [{"name": "imagefolder"}]}):
        with pytest.raises(ValueError, match="class 'dodo' has 1 images"):
            run(**{"transfer_root": "pets", **options})


def test_embedded_data_sets_have_no_broken_files(run):
    """Whatever the limit is, drawn images have neither a metric nor an entry of it."""
    assert not [key for key in run(broken_files=5) if "broken" in key]
    assert "broken" not in (split.OUT / "sets.json").read_text()


@pytest.mark.slow
def test_ten_thousand_classes_are_divided(run, tmp_path, rng):
    """20 images of each of 10,000 classes: every part has every class."""
    for i in range(20):
        save_noise(tmp_path / "files" / f"{i}.png", rng)
    for c in range(10_000):
        (tmp_path / "many" / str(c)).mkdir(parents=True)
        for i in range(20):
            (tmp_path / "many" / str(c) / f"{i}.png").symlink_to(tmp_path / "files" / f"{i}.png")
    fractions = {"test": 0.25, "predictor": 0.1, "search": 0.1, "val": 0.1}
    assert run(root="many", data={"name": "imagefolder"}, transfer=[], check_files=False, **fractions)["classes"] == 10_000
    table = pd.read_parquet(split.OUT / "splits.parquet")
    assert table.groupby("part")["label"].nunique().to_dict() == dict.fromkeys(table["part"].unique(), 10_000)


def test_two_data_sets_with_one_name_stop_the_stage(run):
    """They would overwrite each other."""
    with pytest.raises(ParamsError, match="'digits' twice"):
        run(transfer=[{"name": "digits"}, {"name": "digits"}])


def test_a_full_disk_stops_the_stage_before_writing(run, monkeypatch):
    """600 images of 12 px are 0.247 MiB; with 0.095 MiB free, the message has both numbers."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 10**5))
    with pytest.raises(OSError, match=r"glyphs\.npy needs 0\.2 MiB, the disk has 0\.1 MiB left"):
        run()
    assert not (split.OUT / "images" / "glyphs.npy").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"side": 4}, r"split\.side"),
        ({"sides": 28}, "split.sides is not a known key; did you mean 'side'"),
        ({"broken_files": -1}, r"split\.broken_files: .*greater than or equal to 0"),
        ({"predictor": 0.0}, r"split\.predictor: .*greater than 0"),
        ({"transfer": [{"name": "digits", "images": 3}]}, r"split\.transfer\.0: images has no meaning for digits"),
        ({"seed": "one"}, "seed: a whole number"),
        ({"weights": "late"}, r"search\.weights: .*'early' or 'final'"),
    ],
)
def test_wrong_parameters_stop_the_stage(run, changes, message):
    """Each message has the key to change."""
    with pytest.raises(ParamsError, match=message):
        run(**changes)

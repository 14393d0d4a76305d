"""Datasets in folders of real PNG and JPEG files, and through torchvision."""

import hashlib
import io
import json
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from nas.data import sources
from nas.runtime.params import ParamsError
from nas.runtime.params import check as check_params

COLOURS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}


def save(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (20, 12), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).convert(mode).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """blue, green, red: two PNG files and a JPEG file each, and files that must be skipped."""
    root = tmp_path / "images"
    for name, colour in COLOURS.items():
        for file in ("1.png", "2.PNG", "3.jpg"):
            save(root / name / file, colour)
    (root / "red" / "Thumbs.db").write_text("no image")
    (root / ".hidden").mkdir()
    return root


def test_classes_and_labels_are_the_folders(folder):
    """Three folders of three files give three classes in alphabetical order, each image of its folder's colour."""
    images = sources.FolderImages.find(folder)
    assert images.classes == ("blue", "green", "red")
    assert images.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert images.test is None
    for i, label in enumerate(images.labels):
        pixels = images.image(i)
        assert pixels.shape == (12, 20, 3) and pixels.dtype == np.uint8
        assert np.abs(pixels.astype(int) - COLOURS[images.classes[label]]).max() <= 3  # JPEG rounds


@pytest.mark.parametrize(("others", "tested"), [(["test"], "test"), (["val"], "val"), (["val", "test"], "test"), ([], None)])
def test_a_test_folder_is_the_test_part(tmp_path, others, tested):
    """Under train/ and test/ or val/, the test part is exactly the files of the latter."""
    for part in ["train", *others]:
        for name, colour in COLOURS.items():
            save(tmp_path / part / name / f"{part}.png", colour)
    images = sources.FolderImages.find(tmp_path)
    for_testing = [path.stem == tested for path in images.paths]
    assert len(images) == 3 * (1 + len(others))
    assert (images.test.tolist() if tested else images.test) == (for_testing if tested else None)


def test_other_classes_in_test_are_an_error(tmp_path):
    """A class folder in test/ only is named."""
    for name in ("a", "b"):
        save(tmp_path / "train" / name / "1.png", (9, 9, 9))
        save(tmp_path / "test" / name / "1.png", (9, 9, 9))
    save(tmp_path / "test" / "c" / "1.png", (9, 9, 9))
    with pytest.raises(ValueError, match=r"3 class folders.*2.*'c'"):
        sources.FolderImages.find(tmp_path)


def test_a_missing_folder_is_named(tmp_path):
    """The message has the path and the keys to change."""
    with pytest.raises(FileNotFoundError, match=r"nowhere; params.yaml split\.root"):
        sources.FolderImages.find(tmp_path / "nowhere")


def test_fewer_than_two_classes_are_an_error(tmp_path):
    """No class folder and one class folder raise."""
    with pytest.raises(ValueError, match="two or more classes; found none"):
        sources.FolderImages.find(tmp_path)
    save(tmp_path / "only" / "1.png", (0, 0, 0))
    with pytest.raises(ValueError, match="found only 'only'"):
        sources.FolderImages.find(tmp_path)


def test_an_empty_class_folder_is_named(folder):
    """A class folder without images raises with its path."""
    (folder / "grey").mkdir()
    with pytest.raises(ValueError, match=r"no images .*grey"):
        sources.FolderImages.find(folder)


def test_an_empty_file_is_detected_without_decoding(folder):
    """The check of headers names an empty file."""
    (folder / "red" / "4.png").touch()
    with pytest.raises(sources.ImageError, match=r"1 of 10 files.*\n.*red/4\.png"):
        sources.check(sources.FolderImages.find(folder), decode=False)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp"])
def test_a_truncated_file_is_named(folder, rng, suffix):
    """Decoding a truncated image raises with its path, in every format and at any length."""
    path = folder / "red" / f"cut{suffix}"
    Image.fromarray(rng.integers(256, size=(24, 24, 3), dtype=np.uint8)).save(path)
    content = path.read_bytes()
    for length in np.linspace(1, 0.9 * len(content), 25).astype(int):
        path.write_bytes(content[:length])
        images = sources.FolderImages.find(folder)
        with pytest.raises(sources.ImageError, match=f"red/cut{suffix} cannot be decoded"):
            images.image(images.paths.index(path))


def test_check_lists_all_broken_files(folder):
    """A file truncated after its header passes the header check but not decoding; a text file passes neither."""
    cut, text = folder / "blue" / "1.png", folder / "green" / "3.jpg"
    Image.effect_noise((64, 64), 50).save(cut)
    cut.write_bytes(cut.read_bytes()[:300])
    text.write_text("this is no JPEG")
    images = sources.FolderImages.find(folder)
    with pytest.raises(sources.ImageError, match="1 of 9 files are broken"):
        sources.check(images, decode=False)
    with pytest.raises(sources.ImageError, match="2 of 9 files are broken") as caught:
        sources.check(images, decode=True)
    assert str(cut) in str(caught.value) and str(text) in str(caught.value)


@pytest.mark.parametrize(
    ("mode", "file"), [("L", "a.png"), ("L", "a.jpg"), ("P", "a.png"), ("CMYK", "a.jpg"), ("RGBA", "a.webp"), ("1", "a.bmp")]
)
def test_every_mode_becomes_rgb(folder, mode, file):
    """Grey, palette, CMYK, RGBA and black-and-white files of a white image are white in three channels."""
    path = save(folder / "red" / file, (255, 255, 255), mode=mode)
    images = sources.FolderImages.find(folder)
    assert images.image(images.paths.index(path)).tolist() == np.full((12, 20, 3), 255).tolist()


def test_transparent_pixels_are_white_and_16_bit_grey_keeps_its_shade(folder):
    """Transparent red becomes white; 16-bit grey 0x8000 becomes 128."""
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(folder / "red" / "clear.png")
    Image.fromarray(np.full((4, 4), 0x8000, dtype=np.uint16)).save(folder / "red" / "deep.png")
    images = sources.FolderImages.find(folder)
    shades = {path.name: np.unique(images.image(i)).tolist() for i, path in enumerate(images.paths)}
    assert shades["clear.png"] == [255] and shades["deep.png"] == [128]


def test_centre_crop_equals_torchvisions_resize_and_crop(rng):
    """torchvision's Resize to 256/224 of the side and CenterCrop give the same pixels to within rounding."""
    from nas.data.torchvision_import import transforms

    coarse = Image.fromarray(rng.integers(256, size=(8, 10, 3), dtype=np.uint8))
    photo = coarse.resize((320, 256), Image.Resampling.BICUBIC)
    reference = transforms.Compose([transforms.Resize(128), transforms.CenterCrop(112)])(photo)
    difference = np.asarray(reference).astype(int) - sources.centre_crop(np.asarray(photo), 112)
    assert np.abs(difference).max() <= 1


def test_centre_crop_keeps_an_image_of_the_right_size(rng):
    """An image of the target side is returned unchanged, and a smaller one is enlarged."""
    pixels = rng.integers(256, size=(28, 28, 3), dtype=np.uint8)
    assert sources.centre_crop(pixels, 28) is pixels
    assert sources.centre_crop(pixels, 32).shape == (32, 32, 3)


def test_statistics_equal_numpys(rng):
    """Mean and standard deviation per channel equal numpy's over all pixels of the selected images."""
    pixels = rng.integers(256, size=(40, 8, 8, 3), dtype=np.uint8) // np.array([1, 2, 3], dtype=np.uint8)
    images = sources.ArrayImages(pixels, np.zeros(40, dtype=np.int64), ("a", "b"))
    indices = np.arange(5, 35)
    mean, std = sources.statistics(images, indices, 8)
    assert np.allclose(mean, (pixels[indices] / 255).mean(axis=(0, 1, 2)), atol=1e-6)
    assert np.allclose(std, (pixels[indices] / 255).std(axis=(0, 1, 2)), atol=1e-6)


def test_images_without_contrast_are_an_error():
    """The standard deviation of black images is 0."""
    black = sources.ArrayImages(np.zeros((4, 8, 8, 3), dtype=np.uint8), np.zeros(4, dtype=np.int64), ("a", "b"))
    with pytest.raises(ValueError, match="nothing to learn from"):
        sources.statistics(black, np.arange(4), 8)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"name": "glyphs"}, "it needs images"),
        ({"name": "glyphs", "images": 0}, "greater than 0"),
        ({"name": "glyphs", "images": 50, "difficulty": 2}, "less than or equal to 1"),
        ({"name": "digits", "images": 5}, "images has no meaning for digits"),
        ({"name": "imagefolder", "download": True}, "download has no meaning for imagefolder.*folder"),
        ({"name": "cifar10", "difficulty": 0.1}, "difficulty has no meaning for cifar10"),
        ({"name": "glyphs", "images": 50, "dificulty": 0.1}, "did you mean 'difficulty'"),
        ({"name": "mnist"}, "name: .*'fashion_mnist'"),
    ],
)
def test_wrong_sources_are_an_error(entry, message):
    """A key that does not apply to a dataset is named."""
    with pytest.raises(ParamsError, match=message):
        check_params({"data": entry}, "data", sources.Source)


def test_drawn_datasets_follow_their_source():
    """images, alphabet and side are those of the source; the classes are the letters."""
    images = sources.open_source(sources.Source(name="glyphs", images=30, alphabet="XYZ"), Path("."), seed=3, side=20)
    assert len(images) == 30 and images.classes == ("X", "Y", "Z") and images.image(7).shape == (20, 20, 3)


# Miniatures of torchvision's datasets: the files that each expects, two images per class and split, grey level 10 * label + split.


def _grey(level: int, suffix: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (16, 16), (level, level, level)).save(out, {"jpg": "JPEG", "png": "PNG"}[suffix])
    return out.getvalue()


def _file(path: Path, content: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return hashlib.md5(content).hexdigest()


def _fashion_mnist(root: Path, patch) -> None:
    for part, split in (("train", 0), ("t10k", 1)):
        labels = np.array([0, 1, 0, 1], dtype=np.uint8)
        images = np.repeat(10 * labels + split, 28 * 28).astype(np.uint8)
        raw = root / "FashionMNIST" / "raw"
        _file(raw / f"{part}-labels-idx1-ubyte", struct.pack(">ii", 2049, 4) + labels.tobytes())
        _file(raw / f"{part}-images-idx3-ubyte", struct.pack(">iiii", 2051, 4, 28, 28) + images.tobytes())


def _cifar(root: Path, patch, kind: str, key: str, meta_key: str) -> None:
    from nas.data.torchvision_import import datasets

    lists = {}
    for name, split in (("train", 0), ("test", 1)):
        labels = [0, 1, 0, 1]
        data = np.repeat(10 * np.array(labels) + split, 3072).astype(np.uint8).reshape(4, 3072)
        md5 = _file(root / getattr(datasets, kind).base_folder / name, pickle.dumps({"data": data, key: labels}))
        lists[name] = [[name, md5]]
    meta = _file(root / getattr(datasets, kind).base_folder / "meta", pickle.dumps({meta_key: ["cat", "dog"]}))
    patch.setattr(getattr(datasets, kind), "train_list", lists["train"])
    patch.setattr(getattr(datasets, kind), "test_list", lists["test"])
    patch.setattr(getattr(datasets, kind), "meta", {"filename": "meta", "key": meta_key, "md5": meta})


def _cifar10(root: Path, patch) -> None:
    _cifar(root, patch, "CIFAR10", "labels", "label_names")


def _cifar100(root: Path, patch) -> None:
    _cifar(root, patch, "CIFAR100", "fine_labels", "fine_label_names")


def _food101(root: Path, patch) -> None:
    base = root / "food-101"
    for part, split in (("train", 0), ("test", 1)):
        names = {food: [f"{food}/{part}{i}" for i in range(2)] for food in ("apple_pie", "waffles")}
        _file(base / "meta" / f"{part}.json", json.dumps(names).encode())
        for label, files in enumerate(names.values()):
            for file in files:
                _file(base / "images" / f"{file}.jpg", _grey(10 * label + split, "jpg"))


def _imagenet(root: Path, patch) -> None:
    wnids = {"n01": ("crane", "bird"), "n02": ("crane", "machine")}  # ImageNet has two classes of that name, too
    torch.save((wnids, ["n01", "n02"]), root / "meta.bin")
    for part, split in (("train", 0), ("val", 1)):
        for label, wnid in enumerate(wnids):
            for i in range(2):
                _file(root / part / wnid / f"{i}.JPEG", _grey(10 * label + split, "jpg"))


def _flowers102(root: Path, patch) -> None:
    from nas.data.torchvision_import import datasets

    base, files = root / "flowers-102", {}
    for i in range(1, 13):
        _file(base / "jpg" / f"image_{i:05d}.jpg", _grey(10 * (i % 2) + (i > 8), "jpg"))
    tables = {
        "setid": {"trnid": [1, 2, 3, 4], "valid": [5, 6, 7, 8], "tstid": [9, 10, 11, 12]},
        "label": {"labels": [1 + i % 2 for i in range(1, 13)]},
    }
    for name, table in tables.items():
        out = io.BytesIO()
        savemat(out, table)
        files[name] = (f"{name}.mat", _file(base / f"{name}.mat", out.getvalue()))
    patch.setattr(datasets.Flowers102, "_file_dict", files)


def _stanford_cars(root: Path, patch) -> None:
    base = root / "stanford_cars"
    for part, split, table in (("train", 0, "devkit/cars_train_annos.mat"), ("test", 1, "cars_test_annos_withlabels.mat")):
        rows = [(f"{i}.jpg", 1 + i % 2) for i in range(4)]
        for file, number in rows:
            _file(base / f"cars_{part}" / file, _grey(10 * (number - 1) + split, "jpg"))
        out = io.BytesIO()
        savemat(out, {"annotations": np.array(rows, dtype=[("fname", object), ("class", object)])})
        _file(base / table, out.getvalue())
    out = io.BytesIO()
    savemat(out, {"class_names": np.array(["sedan", "coupe"], dtype=object)})
    _file(base / "devkit" / "cars_meta.mat", out.getvalue())


MINIATURES = [_imagenet, _cifar10, _cifar100, _fashion_mnist, _flowers102, _stanford_cars, _food101]


@pytest.mark.parametrize("build", MINIATURES)
def test_torchvision_datasets_are_opened_by_name(build, tmp_path, monkeypatch):
    """Labels, test part and images agree with the grey levels written to the files."""
    build(tmp_path, monkeypatch)
    images = sources.open_source(sources.Source(name=build.__name__[1:]), tmp_path, seed=0, side=16)
    levels = [int(np.median(images.image(i))) for i in range(len(images))]
    assert levels == (10 * images.labels + images.test).tolist()
    assert np.bincount(images.labels[images.test]).tolist() == [2, 2]
    assert len(set(images.classes)) == len(images.classes) >= 2
    with pytest.raises(IndexError):
        images.image(len(images))


@pytest.mark.parametrize("build", [_imagenet, _flowers102, _stanford_cars, _food101])
def test_a_broken_file_of_a_torchvision_dataset_is_named(build, tmp_path, monkeypatch):
    """If every file is empty, each image's error has its own path."""
    build(tmp_path, monkeypatch)
    images = sources.open_source(sources.Source(name=build.__name__[1:]), tmp_path, seed=0, side=16)
    files = [path for path in tmp_path.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg")]
    for path in files:
        path.write_bytes(b"")
    named = set()
    for i in range(len(images)):
        with pytest.raises(sources.ImageError, match="cannot be decoded: it is empty") as caught:
            images.image(i)
        named.add(str(caught.value).split(" of ")[0])
    assert named == set(map(str, files))


@pytest.mark.parametrize("build", MINIATURES)
def test_a_missing_torchvision_set_says_how_to_get_it(build, tmp_path):
    """By download: true where its owners allow it, by hand otherwise."""
    name = build.__name__[1:]
    way = "put .* into it" if name in ("imagenet", "stanford_cars") else "download: true"
    with pytest.raises(FileNotFoundError, match=f"{name} is not complete in .*{way}"):
        sources.open_source(sources.Source(name=name), tmp_path, seed=0, side=16)

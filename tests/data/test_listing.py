"""Class folders as they come: what counts as a class and as an image, in how much memory."""

import os
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nas.data.listing import Paths, class_folders, image_names
from nas.data.sets import FolderImages, ImageError, check

NAME = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=40).filter(
    lambda name: name not in {".", ".."}
)


def save(path: Path, shade: int = 9) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (shade, shade, shade)).save(path, "PNG")
    return path


@pytest.fixture
def root(tmp_path) -> Path:
    """Two classes of two images."""
    for name in ("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"):
        save(tmp_path / "pets" / name)
    return tmp_path / "pets"


def shown(root: Path) -> list[str]:
    """What is listed, relative to the root."""
    return [path.relative_to(root).as_posix() for path in FolderImages.find(root).paths]


PETS = ["cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"]

# The list itself


@given(st.lists(st.tuples(NAME, st.lists(NAME, max_size=5)), max_size=6))
def test_paths_are_the_sequence_they_were_made_of(folders):
    """Length, every place, iteration and search agree with a tuple of pathlib paths; beyond it is an IndexError."""
    expected = tuple(Path(folder, name) for folder, inside in folders for name in inside)
    for paths in (Paths(folders), Paths.of(expected)):
        assert len(paths) == len(expected)
        assert tuple(paths) == expected == tuple(paths[np.int64(i)] for i in range(len(expected)))
        assert [paths.index(path) for path in expected] == [expected.index(path) for path in expected]
        for outside in (len(expected), -1):
            with pytest.raises(IndexError):
                paths[outside]


def test_a_image_takes_its_name_and_sixteen_bytes(tmp_path):
    """50,000 names of 20 characters in 50 folders: 36 bytes each with the labels, by Python's own count; pathlib takes over 100."""
    folders = [(f"/data/train/n{c:08d}", [f"n{c:08d}_{i:05d}.JPEG" for i in range(1000)]) for c in range(50)]

    def used(build) -> float:
        """Bytes an image that stay allocated."""
        tracemalloc.start()
        kept = build()
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        del kept
        return size / 50_000

    compact = used(lambda: FolderImages(Paths(folders), np.repeat(np.arange(50), 1000), ()))
    assert compact < 20 + 8 + 8 + 2
    assert used(lambda: tuple(Path(folder, name) for folder, inside in folders for name in inside)) > 100


# What counts as an image


@pytest.mark.parametrize("name", ["3.PNG", "3.JpEg", "日本 3.png", "3 \n.png", "n\u00e9.png", "ne\u0301.png", "x" * 251 + ".png"])
def test_names_of_all_kinds_are_listed_and_read(root, name):
    """Suffixes in mixed case, other scripts in either form of accents, spaces and line breaks, 255 bytes."""
    save(root / "cat" / name, shade=77)
    images = FolderImages.find(root)
    assert len(images) == 5
    assert images.image(images.paths.index(root / "cat" / name))[0, 0].tolist() == [77, 77, 77]


def test_a_file_name_that_is_no_text_is_read(root):
    """A name in another encoding than UTF-8 is bytes like any other."""
    save(Path(os.fsdecode(os.fsencode(root) + b"/cat/caf\xe9.png")), shade=77)
    images = FolderImages.find(root)
    assert [images.image(i)[0, 0, 0] for i in range(5)] == [9, 9, 77, 9, 9]


def test_what_lies_beside_images_is_passed_over(root):
    """Hidden files, files of the system, texts, files without a suffix, folders that are called like images, pipes."""
    for name in (".hidden.png", "._1.png", "Thumbs.db", "notes.txt", "labels.csv.gz", "png"):
        (root / "cat" / name).write_bytes(b"no image")
    (root / "cat" / "folder.png").mkdir()
    os.mkfifo(root / "cat" / "pipe.png")
    for name in (".cache", ".git"):
        save(root / name / "1.png")
    (root / "README.md").write_text("what this is")
    assert shown(root) == PETS


# Links


def test_links_are_followed(root, tmp_path):
    """A link to an image is an image of the class it lies in, a link to a folder a class."""
    (root / "dog" / "3.png").symlink_to(save(tmp_path / "elsewhere" / "any.png", shade=50))
    (root / "owl").symlink_to(tmp_path / "elsewhere")
    images = FolderImages.find(root)
    assert images.classes == ("cat", "dog", "owl")
    assert images.labels.tolist() == [0, 0, 1, 1, 1, 2]
    assert [int(images.image(i)[0, 0, 0]) for i in (4, 5)] == [50, 50]


@pytest.mark.parametrize("target", ["gone.png", "3.png"])
@pytest.mark.parametrize("decode", [True, False])
def test_a_link_that_leads_to_no_image_is_a_broken_file(root, target, decode):
    """A dangling link and a link to itself are found by the check and named."""
    (root / "cat" / "3.png").symlink_to(target)
    with pytest.raises(ImageError, match=r"1 of 5 files are broken(.|\n)*cat/3\.png"):
        check(FolderImages.find(root), decode)


@pytest.mark.parametrize("target", ["gone", "owl"])
def test_a_class_that_is_a_link_to_nothing_stops(root, target):
    """A class would be missing without a word; so too for a link to itself."""
    (root / "owl").symlink_to(target)
    with pytest.raises(ValueError, match=r"pets/owl is a link to nothing; mend or remove it"):
        FolderImages.find(root)


def test_a_link_round_to_a_folder_above_ends(root):
    """In a class folder it is no image; as a class folder it holds none, and is named."""
    (root / "cat" / "round").symlink_to(root)
    assert shown(root) == PETS
    (root / "round").symlink_to(root)
    with pytest.raises(ValueError, match=r"no images .*pets/round"):
        FolderImages.find(root)


def test_one_folder_as_two_classes_stops(root):
    """The same images would have two labels."""
    (root / "hound").symlink_to(root / "dog")
    with pytest.raises(ValueError, match=r"pets/dog and .*pets/hound are the same folder.*remove the link"):
        FolderImages.find(root)


def test_testing_on_what_was_trained_on_stops(root, tmp_path):
    """A test folder that is a link to the training folder."""
    shutil.move(root, tmp_path / "all" / "train")
    (tmp_path / "all" / "test").symlink_to("train")
    with pytest.raises(ValueError, match=r"train/cat and .*test/cat are the same folder"):
        FolderImages.find(tmp_path / "all")


# Classes


def test_a_class_of_one_image_is_a_class(root):
    """It is listed; whether it can be divided is for the split to say."""
    save(root / "owl" / "1.png")
    images = FolderImages.find(root)
    assert (images.classes, np.bincount(images.labels).tolist()) == (("cat", "dog", "owl"), [2, 2, 1])


def test_a_class_folder_with_folders_only_is_empty(root):
    """Images one level too deep are none of the class."""
    save(root / "owl" / "tawny" / "1.png")
    with pytest.raises(ValueError, match=r"no images .*pets/owl"):
        FolderImages.find(root)


def test_ten_thousand_classes(tmp_path):
    """10,000 folders of one or two images: labels from 0 to 9,999 in alphabetical order, each image in its place."""
    file = save(tmp_path / "one.png")
    for c in range(10_000):
        folder = tmp_path / "many" / f"class {c:04d}"
        folder.mkdir(parents=True)
        for i in range(1 + c % 2):
            (folder / f"{i}.png").symlink_to(file)
    images = FolderImages.find(tmp_path / "many")
    assert len(images.classes) == 10_000 and len(images) == 15_000
    assert np.array_equal(images.labels, np.repeat(np.arange(10_000), np.tile([1, 2], 5_000)))
    for i in (0, 1, 2, 7_499, 14_999):
        assert images.paths[i].parent.name == images.classes[images.labels[i]]
    assert images.image(14_999).shape == (8, 8, 3)


def test_a_class_name_that_is_no_text_stops(root):
    """Class names go into files that are UTF-8."""
    save(Path(os.fsdecode(os.fsencode(root) + b"/caf\xe9/1.png")))
    with pytest.raises(ValueError, match=r"class folder 'caf\\udce9' is no UTF-8; rename it"):
        FolderImages.find(root)


def test_classes_and_names_are_in_order(tmp_path):
    """By code points, whatever order the disk lists them in."""
    for name in ("b", "a", "Z", "é", "10", "9"):
        save(tmp_path / name / "1.png")
        save(tmp_path / "a" / f"{name}.png")
    assert class_folders(tmp_path) == ["10", "9", "Z", "a", "b", "é"]
    assert image_names(tmp_path / "a") == ["1.png", "10.png", "9.png", "Z.png", "a.png", "b.png", "é.png"]


# Archives


@pytest.mark.parametrize("name", ["pets.zip", "pets.tar", "pets.TAR.GZ", "pets.tgz", "pets.7z"])
@pytest.mark.parametrize("place", ["", "cat"])
def test_an_archive_where_images_are_looked_for_stops(root, name, place):
    """Nothing is unpacked: images that somebody thinks are there would be missing."""
    (root / place / name).write_bytes(b"PK\x03\x04")
    with pytest.raises(ValueError, match=f"{name} is an archive, and nothing is unpacked here"):
        FolderImages.find(root)


@pytest.mark.parametrize(("name", "what"), [("pets.zip", "is an archive, and nothing"), ("list.txt", "is a file; a folder")])
def test_a_file_for_a_root_stops(tmp_path, name, what):
    """The message says what it is and which key to change."""
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match=rf"{name} {what}.*split\.root"):
        FolderImages.find(tmp_path / name)


def test_an_archive_beside_train_is_not_in_the_way(root, tmp_path):
    """ImageNet's archives lie beside the folders that were unpacked from them; a folder may be called like an archive."""
    save(root / "e.zip" / "1.png")
    shutil.move(root, tmp_path / "all" / "train")
    (tmp_path / "all" / "train.tar").touch()
    assert FolderImages.find(tmp_path / "all").classes == ("cat", "dog", "e.zip")

"""Listing of class folders: what counts as a class and as an image, and the memory per image."""

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
from nas.data.sources import FolderImages, ImageError, check

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


def listed(root: Path) -> list[str]:
    """Listed paths, relative to the root."""
    return [path.relative_to(root).as_posix() for path in FolderImages.find(root).paths]


PETS = ["cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"]

# The sequence of paths


@given(st.lists(st.tuples(NAME, st.lists(NAME, max_size=5)), max_size=6))
def test_paths_equal_a_tuple_of_pathlib_paths(folders):
    """Length, indexing, iteration and search agree with the tuple; an index outside raises IndexError."""
    expected = tuple(Path(folder, name) for folder, inside in folders for name in inside)
    for paths in (Paths(folders), Paths.of(expected)):
        assert len(paths) == len(expected)
        assert tuple(paths) == expected == tuple(paths[np.int64(i)] for i in range(len(expected)))
        assert [paths.index(path) for path in expected] == [expected.index(path) for path in expected]
        for outside in (len(expected), -1):
            with pytest.raises(IndexError):
                paths[outside]


def test_an_image_takes_its_name_and_sixteen_bytes(tmp_path):
    """50,000 names of 20 characters take 36 bytes each with the labels, by tracemalloc; pathlib takes over 100."""
    folders = [(f"/data/train/n{c:08d}", [f"n{c:08d}_{i:05d}.JPEG" for i in range(1000)]) for c in range(50)]

    def used(build) -> float:
        """Bytes per image that stay allocated."""
        tracemalloc.start()
        built = build()
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        del built
        return size / 50_000

    compact = used(lambda: FolderImages(Paths(folders), np.repeat(np.arange(50), 1000), ()))
    assert compact < 20 + 8 + 8 + 2
    assert used(lambda: tuple(Path(folder, name) for folder, inside in folders for name in inside)) > 100


# What counts as an image


@pytest.mark.parametrize("name", ["3.PNG", "3.JpEg", "日本 3.png", "3 \n.png", "n\u00e9.png", "ne\u0301.png", "x" * 251 + ".png"])
def test_names_of_all_kinds_are_listed_and_read(root, name):
    """Mixed-case suffixes, other scripts, both forms of accents, spaces, line breaks and 255 bytes work."""
    save(root / "cat" / name, shade=77)
    images = FolderImages.find(root)
    assert len(images) == 5
    assert images.image(images.paths.index(root / "cat" / name))[0, 0].tolist() == [77, 77, 77]


def test_a_file_name_that_is_not_utf8_is_read(root):
    """A name in another encoding than UTF-8 is read."""
    save(Path(os.fsdecode(os.fsencode(root) + b"/cat/caf\xe9.png")), shade=77)
    images = FolderImages.find(root)
    assert [images.image(i)[0, 0, 0] for i in range(5)] == [9, 9, 77, 9, 9]


def test_other_files_and_folders_are_skipped(root):
    """Hidden files, system files, texts, files without a suffix, folders named like images and pipes are skipped."""
    for name in (".hidden.png", "._1.png", "Thumbs.db", "notes.txt", "labels.csv.gz", "png"):
        (root / "cat" / name).write_bytes(b"no image")
    (root / "cat" / "folder.png").mkdir()
    os.mkfifo(root / "cat" / "pipe.png")
    for name in (".cache", ".git"):
        save(root / name / "1.png")
    (root / "README.md").write_text("what this is")
    assert listed(root) == PETS


# Links


def test_links_are_followed(root, tmp_path):
    """A link to an image is an image of its class folder; a link to a folder is a class."""
    (root / "dog" / "3.png").symlink_to(save(tmp_path / "elsewhere" / "any.png", shade=50))
    (root / "owl").symlink_to(tmp_path / "elsewhere")
    images = FolderImages.find(root)
    assert images.classes == ("cat", "dog", "owl")
    assert images.labels.tolist() == [0, 0, 1, 1, 1, 2]
    assert [int(images.image(i)[0, 0, 0]) for i in (4, 5)] == [50, 50]


@pytest.mark.parametrize("target", ["gone.png", "3.png"])
@pytest.mark.parametrize("decode", [True, False])
def test_a_broken_link_to_an_image_is_a_broken_file(root, target, decode):
    """The check names a dangling link and a link to itself."""
    (root / "cat" / "3.png").symlink_to(target)
    with pytest.raises(ImageError, match=r"1 of 5 files are broken(.|\n)*cat/3\.png"):
        check(FolderImages.find(root), decode)


@pytest.mark.parametrize("target", ["gone", "owl"])
def test_a_broken_link_to_a_class_folder_is_an_error(root, target):
    """A dangling link and a link to itself raise, so that no class is silently missing."""
    (root / "owl").symlink_to(target)
    with pytest.raises(ValueError, match=r"pets/owl is a broken link; repair or remove it"):
        FolderImages.find(root)


def test_a_circular_link_is_not_followed(root):
    """In a class folder it is skipped; as a class folder it has no images and raises."""
    (root / "cat" / "round").symlink_to(root)
    assert listed(root) == PETS
    (root / "round").symlink_to(root)
    with pytest.raises(ValueError, match=r"no images .*pets/round"):
        FolderImages.find(root)


def test_one_folder_as_two_classes_is_an_error(root):
    """The same images would have two labels."""
    (root / "hound").symlink_to(root / "dog")
    with pytest.raises(ValueError, match=r"pets/dog and .*pets/hound are the same folder.*remove the link"):
        FolderImages.find(root)


def test_a_test_folder_linked_to_training_is_an_error(root, tmp_path):
    """Test images would be training images."""
    shutil.move(root, tmp_path / "all" / "train")
    (tmp_path / "all" / "test").symlink_to("train")
    with pytest.raises(ValueError, match=r"train/cat and .*test/cat are the same folder"):
        FolderImages.find(tmp_path / "all")


# Classes


def test_a_class_of_one_image_is_a_class(root):
    """It is listed; stage split decides whether it can be divided."""
    save(root / "owl" / "1.png")
    images = FolderImages.find(root)
    assert (images.classes, np.bincount(images.labels).tolist()) == (("cat", "dog", "owl"), [2, 2, 1])


def test_a_class_folder_with_folders_only_is_empty(root):
    """Images one level deeper do not belong to the class."""
    save(root / "owl" / "tawny" / "1.png")
    with pytest.raises(ValueError, match=r"no images .*pets/owl"):
        FolderImages.find(root)


def test_ten_thousand_classes_are_listed(tmp_path):
    """10,000 folders of one or two images get labels from 0 to 9,999 in alphabetical order."""
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


def test_a_class_name_that_is_not_utf8_is_an_error(root):
    """Class names are written to UTF-8 files."""
    save(Path(os.fsdecode(os.fsencode(root) + b"/caf\xe9/1.png")))
    with pytest.raises(ValueError, match=r"class folder 'caf\\udce9' is not UTF-8; rename it"):
        FolderImages.find(root)


def test_classes_and_names_are_sorted(tmp_path):
    """The order is by code points, independent of the file system."""
    for name in ("b", "a", "Z", "é", "10", "9"):
        save(tmp_path / name / "1.png")
        save(tmp_path / "a" / f"{name}.png")
    assert class_folders(tmp_path) == ["10", "9", "Z", "a", "b", "é"]
    assert image_names(tmp_path / "a") == ["1.png", "10.png", "9.png", "Z.png", "a.png", "b.png", "é.png"]


# Archives


@pytest.mark.parametrize("name", ["pets.zip", "pets.tar", "pets.TAR.GZ", "pets.tgz", "pets.7z"])
@pytest.mark.parametrize("place", ["", "cat"])
def test_an_archive_among_images_is_an_error(root, name, place):
    """Archives are not read, so its images would be missing."""
    (root / place / name).write_bytes(b"PK\x03\x04")
    with pytest.raises(ValueError, match=f"{name} is an archive, and archives are not read"):
        FolderImages.find(root)


@pytest.mark.parametrize(("name", "what"), [("pets.zip", "is an archive, and archives"), ("list.txt", "is a file; a folder")])
def test_a_file_as_root_is_an_error(tmp_path, name, what):
    """The message names the file and the key to change."""
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match=rf"{name} {what}.*split\.root"):
        FolderImages.find(tmp_path / name)


def test_an_archive_beside_train_is_ignored(root, tmp_path):
    """ImageNet's archives may lie beside the unpacked folders; a folder may be named like an archive."""
    save(root / "e.zip" / "1.png")
    shutil.move(root, tmp_path / "all" / "train")
    (tmp_path / "all" / "train.tar").touch()
    assert FolderImages.find(tmp_path / "all").classes == ("cat", "dog", "e.zip")

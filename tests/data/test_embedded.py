"""Embedded datasets: drawn letters and handwritten digits."""

import unicodedata
from itertools import combinations

import numpy as np
import pytest
from fontTools.ttLib import TTFont
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from nas.data import embedded


def drawn(name: str, images: int, seed: int = 0, side: int = 28, difficulty: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    return embedded.draw(name, embedded.ALPHABETS[name], images, side, seed, difficulty)


@pytest.mark.parametrize("name", embedded.ALPHABETS)
def test_every_class_is_drawn_equally_often(name):
    """Twice as many images as letters have each class twice."""
    classes = len(embedded.ALPHABETS[name])
    pixels, labels = drawn(name, 2 * classes)
    assert np.bincount(labels).tolist() == [2] * classes
    assert pixels.shape == (2 * classes, 28, 28, 3) and pixels.dtype == np.uint8


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**40), few=st.integers(34, 60), more=st.integers(1, 30))
def test_more_images_extend_a_dataset(seed, few, more):
    """Image i does not depend on the number of images."""
    short, long = drawn("glyphs", few, seed), drawn("glyphs", few + more, seed)
    assert np.array_equal(short[0], long[0][:few])
    assert np.array_equal(short[1], long[1][:few])


def test_images_seeds_and_datasets_differ():
    """No two images of a dataset are equal, nor those of two seeds or of two datasets with one alphabet."""
    pixels = drawn("glyphs", 300)[0]
    assert len(np.unique(pixels.reshape(300, -1), axis=0)) == 300
    other_seed, other_dataset = drawn("glyphs", 300, seed=1)[0], embedded.draw("greek", embedded.ALPHABETS["glyphs"], 300, 28, 0, 0.5)[0]
    assert not (pixels == other_seed).all(axis=(1, 2, 3)).any()
    assert not (pixels == other_dataset).all(axis=(1, 2, 3)).any()


def test_fonts_really_have_their_letters():
    """By fontTools, each font's outline of a letter is not empty, and at least ten fonts have each letter."""
    used = {letter: embedded.fonts(letter) for letter in set("".join(embedded.ALPHABETS.values()))}
    assert min(map(len, used.values())) >= 10
    for path in set().union(*used.values()):
        font = TTFont(path)
        characters, outlines = font.getBestCmap(), font["glyf"]
        for letter in (letter for letter, paths in used.items() if path in paths):
            assert outlines[characters[ord(letter)]].numberOfContours != 0, (path, letter)


def test_a_stencil_is_the_letter_centred():
    """Its ink is centred, its longer extent is 3/4 of the side, and O has a hole."""
    for letter in "IOA":
        for stencil in embedded._stencils(letter, 64):
            left, top, right, bottom = stencil.getbbox()
            assert max(right - left, bottom - top) == 48
            assert abs(left + right - 64) <= 1 and abs(top + bottom - 64) <= 1
    ring = np.asarray(embedded._stencils("O", 64)[0])
    assert ring[32, 32] == 0 and ring[32].max() == 255


@pytest.mark.parametrize("name", embedded.ALPHABETS)
def test_letters_of_a_dataset_have_different_shapes(name):
    """No two letters of an alphabet share more than 0.85 of their ink (intersection over union) in a plain font."""
    ink = {letter: np.asarray(embedded._stencils(letter, 64)[0]) > 127 for letter in embedded.ALPHABETS[name]}
    for a, b in combinations(ink, 2):
        assert (ink[a] & ink[b]).sum() < 0.85 * (ink[a] | ink[b]).sum(), (a, b)


def test_alphabets_are_of_their_script():
    """Greek letters are Greek and Cyrillic ones Cyrillic, by Unicode's names: look-alikes of other scripts would be duplicates."""
    for name, script in {"glyphs": "LATIN", "greek": "GREEK", "cyrillic": "CYRILLIC"}.items():
        assert all(unicodedata.name(letter).startswith(script) for letter in embedded.ALPHABETS[name])


def test_difficulty_lowers_the_accuracy_of_a_linear_classifier():
    """The nearest class mean of edges, on 360 test images, is at least 1.5 times as accurate on easy images."""

    def accuracy(difficulty: float) -> float:
        pixels, labels = embedded.draw("glyphs", "ABCDEFGHIJ", 1360, 16, 0, difficulty)
        grey = pixels.mean(axis=3)
        edges = np.hypot(np.gradient(grey, axis=1), np.gradient(grey, axis=2)).reshape(1360, -1)
        edges /= np.linalg.norm(edges, axis=1, keepdims=True)
        means = np.stack([edges[:1000][labels[:1000] == c].mean(axis=0) for c in range(10)])
        return float((np.argmax(edges[1000:] @ means.T, axis=1) == labels[1000:]).mean())

    assert accuracy(0.0) > 1.5 * accuracy(1.0)


def test_digits_are_those_of_scikit_learn():
    """At side 8 the pixels are scikit-learn's 17 levels scaled to 0..255, with its labels."""
    pixels, labels = embedded.digits(8)
    reference = load_digits()
    assert np.abs(pixels[..., 0] / 255 * 16 - reference.images).max() < 0.04
    assert (pixels[..., 0] == pixels[..., 2]).all()
    assert np.array_equal(labels, reference.target)
    assert embedded.digits(28)[0].shape == (1797, 28, 28, 3)


def test_a_letter_without_a_font_is_named():
    """No font has Chinese; the message names the letter and the key."""
    with pytest.raises(ValueError, match=r"'中'.*split\.data\.alphabet"):
        embedded.draw("glyphs", "A中", 10, 16, 0, 0.5)


@pytest.mark.parametrize(("alphabet", "images"), [("A", 5), ("ABA", 5), ("ABC", 2)])
def test_impossible_datasets_are_an_error(alphabet, images):
    """One letter, a repeated letter and fewer images than letters raise."""
    with pytest.raises(ValueError, match=r"params.yaml split\.data"):
        embedded.draw("glyphs", alphabet, images, 16, 0, 0.5)

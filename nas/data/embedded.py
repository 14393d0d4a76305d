"""Embedded datasets, without download: drawn letters in three scripts, and scikit-learn's handwritten digits.

A drawn image is a letter in one of matplotlib's fonts, over a crop of one of scikit-learn's two sample photographs:
random colours, affine distortion, parts of other letters next to it, blur and noise. Image i depends on
(seed, dataset, i) only, so a larger dataset extends a smaller one.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from zlib import crc32

import numpy as np
from matplotlib import get_data_path
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFilter, ImageFont

# Letters that stay distinguishable when distorted, in any font: no pairs such as o/O, x/X, l/I; no g, q, whose italics resemble a.
ALPHABETS = {
    "glyphs": "ABCDEFGHIJKLMNOPQRSTUVWXYZabdehnrt",
    "greek": "ΓΔΘΛΞΠΣΦΨΩαβγδεηλμξσω",
    "cyrillic": "АБВГДЕЖЗИКЛМНОПРСТУФХЦЧШЭЮЯ",
}

_UNICODE_FONTS = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
)
_TEX_FONTS = ("cmb10", "cmmi10", "cmr10", "cmss10", "cmti10", "cmtt10")  # their other code points hold other glyphs than declared


def draw(name: str, alphabet: str, images: int, side: int, seed: int, difficulty: float) -> tuple[np.ndarray, np.ndarray]:
    """Images of letters, with class i % len(alphabet) for image i.

    Args:
        name: of the dataset; datasets of different names are drawn independently.
        alphabet: one letter per class.
        images: number of images.
        side: pixels.
        seed: any non-negative number.
        difficulty: 0 (upright, sharp, on a plain background) to 1 (faint, crowded, distorted).

    Returns:
        uint8 pixels (images, side, side, 3) and int64 labels (images,).

    Raises:
        ValueError: for a letter without a font, a repeated letter, and fewer images than letters.
    """
    if len(set(alphabet)) < max(2, len(alphabet)):
        raise ValueError(f"alphabet {alphabet!r}: at least two letters, each once, are needed (params.yaml split.data.alphabet)")
    if images < len(alphabet):
        raise ValueError(
            f"images {images}: dataset {name!r} has {len(alphabet)} classes and needs an image of each (params.yaml split.data.images)"
        )
    stencils = [_stencils(letter, min(2 * side, 128)) for letter in alphabet]
    photos = _photos()
    labels = np.arange(images, dtype=np.int64) % len(alphabet)
    pixels = np.empty((images, side, side, 3), dtype=np.uint8)
    for i, label in enumerate(labels):
        rng = np.random.default_rng([seed, crc32(name.encode()), i])
        pixels[i] = _image(rng, stencils, int(label), photos, side, difficulty)
    return pixels, labels


def digits(side: int) -> tuple[np.ndarray, np.ndarray]:
    """The 1,797 handwritten digits of scikit-learn (8 x 8, 17 grey levels), enlarged (bicubic).

    Returns:
        uint8 pixels (1797, side, side, 3) and int64 labels (1797,).
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    small = (data.images * (255 / 16)).round().astype(np.uint8)
    large = [np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)) for image in small]
    return np.repeat(np.stack(large)[..., None], 3, axis=3), data.target.astype(np.int64)


def fonts(letter: str) -> list[Path]:
    """Font files whose character map has the letter; may be empty."""
    names = _UNICODE_FONTS + (_TEX_FONTS if letter.isascii() and letter.isalpha() else ())
    return [path for path, characters in map(_font, names) if ord(letter) in characters]


@cache
def _font(name: str) -> tuple[Path, frozenset[int]]:
    path = Path(get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"
    return path, frozenset(FT2Font(str(path)).get_charmap())


@cache
def _stencils(letter: str, side: int) -> tuple[Image.Image, ...]:
    """The letter in every font that has it, centred, its longer extent 3/4 of the side, white on black."""
    paths = fonts(letter)
    if not paths:
        raise ValueError(f"no font has the letter {letter!r}; remove it from params.yaml split.data.alphabet")
    return tuple(_stencil(letter, path, side) for path in paths)


def _stencil(letter: str, path: Path, side: int) -> Image.Image:
    font = ImageFont.truetype(str(path), 2 * side)
    left, top, right, bottom = font.getbbox(letter)
    ink = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(ink).text((-left, -top), letter, fill=255, font=font)
    ink = ink.crop(ink.getbbox())
    scale = 0.75 * side / max(ink.size)
    ink = ink.resize([max(1, round(scale * extent)) for extent in ink.size], Image.Resampling.LANCZOS)
    stencil = Image.new("L", (side, side))
    stencil.paste(ink, [(side - extent) // 2 for extent in ink.size])
    return stencil


@cache
def _photos() -> tuple[Image.Image, ...]:
    from sklearn.datasets import load_sample_images

    return tuple(Image.fromarray(photo) for photo in load_sample_images().images)


def _image(
    rng: np.random.Generator, stencils: list[tuple[Image.Image, ...]], label: int, photos: tuple, side: int, difficulty: float
) -> np.ndarray:
    """(side, side, 3) uint8."""
    d = difficulty
    canvas = _background(rng, photos, side)
    level = canvas.mean(axis=(0, 1))
    canvas = level + (0.4 + 0.45 * d) * (canvas - level)
    for _ in range(rng.integers(round(3 * d) + 1)):  # parts of other letters at the border
        angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 0.75)
        dx, dy = distance * np.cos(angle), distance * np.sin(angle)
        distractor = _place(rng, _choose(rng, _choose(rng, stencils)), side, d, rng.uniform(0.5, 1.0), dx, dy)
        canvas += distractor * (_colour(rng, level, d) - canvas)
    dx, dy = rng.uniform(-1, 1, size=2) * (0.04 + 0.08 * d)
    letter = _place(rng, _choose(rng, stencils[label]), side, d, rng.uniform(1.05 - 0.35 * d, 1.1), dx, dy)
    canvas += letter * (_colour(rng, level, d) - canvas)
    canvas += (3 + 16 * d) * rng.standard_normal(canvas.shape, dtype=np.float32)
    image = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
    blur = ImageFilter.GaussianBlur(rng.uniform(0, 0.2 + 0.6 * d) * side / 28)
    return np.asarray(image.filter(blur))


def _choose(rng: np.random.Generator, choices: Sequence) -> object:
    return choices[rng.integers(len(choices))]


def _background(rng: np.random.Generator, photos: tuple, side: int) -> np.ndarray:
    """A square crop of a photograph, a twentieth to a third of its height, (side, side, 3) float32."""
    photo = _choose(rng, photos)
    edge = rng.uniform(0.05, 0.35) * photo.height
    left, top = rng.random() * (photo.width - edge), rng.random() * (photo.height - edge)
    crop = photo.resize((side, side), Image.Resampling.BILINEAR, box=(left, top, left + edge, top + edge))
    return np.asarray(crop, dtype=np.float32)


def _colour(rng: np.random.Generator, level: np.ndarray, d: float) -> np.ndarray:
    """A colour brighter or darker than the background's mean colour `level` (3,); the contrast falls with the difficulty."""
    contrast = rng.uniform(100 - 50 * d, 150 - 30 * d)
    brightness = level.mean()
    brighter = rng.random() < 0.5 if contrast < brightness < 255 - contrast else brightness < 127.5
    tint = rng.uniform(-60, 60, size=3)
    return np.clip(brightness + (contrast if brighter else -contrast) + tint - tint.mean(), 0, 255).astype(np.float32)


def _place(rng: np.random.Generator, stencil: Image.Image, side: int, d: float, scale: float, dx: float, dy: float) -> np.ndarray:
    """The stencil rotated, sheared, scaled and shifted (dx, dy in sides), as a mask (side, side, 1), float32 in [0, 1]."""
    angle = np.deg2rad(rng.uniform(-1, 1) * (5 + 19 * d))
    shear, stretch = rng.uniform(-1, 1) * (0.05 + 0.22 * d), np.exp(rng.uniform(-1, 1) * (0.05 + 0.19 * d))
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    forward = scale * side / stencil.width * rotation @ [[stretch, shear], [0, 1 / stretch]]  # stencil -> image, about the centres
    inverse = np.linalg.inv(forward)
    offset = stencil.width / 2 - inverse @ [side * (0.5 + dx), side * (0.5 + dy)]
    mask = stencil.transform(
        (side, side), Image.Transform.AFFINE, (*inverse[0], offset[0], *inverse[1], offset[1]), resample=Image.Resampling.BILINEAR
    )
    return np.asarray(mask, dtype=np.float32)[..., None] / 255

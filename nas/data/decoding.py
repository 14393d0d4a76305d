"""Decoding of an image file to RGB pixels, whatever its mode, and the register of files that cannot be decoded.

The content of a file decides its format, not its suffix, and it has to be one of `FORMATS`: Pillow knows more, among them
PostScript, which it would hand to Ghostscript to execute.
"""

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
_SYSTEM_ERRORS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # too many open files, no memory: not caused by the image


class ImageError(ValueError):
    """A file is not an image, or it is broken."""


@dataclass
class BrokenFiles:
    """The broken files of one dataset: skipped up to a limit, each reported once; one more stops the run.

    Lives in the process that uses the images; with several processes (torchrun) each has its own.
    """

    title: str = "the dataset"
    limit: int = 0  # tolerated files: params.yaml split.broken_files
    left_out: int = 0  # of these, found by stage split and in no part
    files: dict[int, str] = field(default_factory=dict)  # index -> its path and error
    _printed: int = 0

    def add(self, errors: Mapping[int, str]) -> None:
        """Register broken files; files that are registered already do not count again.

        Raises:
            ImageError: if they exceed the limit; names the new ones.
        """
        new = {index: message for index, message in errors.items() if index not in self.files}
        total = self.left_out + len(self.files) + len(new)
        if total > self.limit:
            raise ImageError(over_limit(list(new.values()), f"{self.title}: {total} files", self.limit))
        for message in new.values():
            print(f"{self.title}: skipped: {message}", flush=True)
        self.files |= new

    def print_count(self) -> None:
        """Print the number of broken files, if it grew since the last call."""
        if len(self.files) > self._printed:
            before = f" in addition to {self.left_out} left out by split" if self.left_out else ""
            print(f"{self.title}: {len(self.files)} broken files skipped{before}; {self.limit} are tolerated", flush=True)
            self._printed = len(self.files)

    def metrics(self) -> dict[str, int]:
        """{"broken_files": number}; empty if none is tolerated."""
        return {"broken_files": len(self.files)} if self.limit else {}


def over_limit(messages: list[str], what: str, limit: int) -> str:
    """The message for more broken files than tolerated; lists the first ten."""
    listed = "\n".join(f"  {line}" for line in messages[:10])
    return f"{what} are broken, {limit} are tolerated; replace or remove them, or raise params.yaml split.broken_files:\n{listed}"


def decode(path: Path) -> np.ndarray:
    """Pixels (height, width, 3) uint8, rotated as the EXIF orientation says; of an animation, the first frame.

    Raises:
        ImageError: if the file cannot be decoded, or exceeds Pillow's limit against decompression bombs; names it.
    """
    with image_errors(path, "cannot be decoded"), Image.open(path, formats=FORMATS) as image:
        image.load()
        return to_rgb(_apply_orientation(image))


def check_header(path: Path) -> None:
    """Read the file's header only.

    Raises:
        ImageError: if it is not that of an image; names the file.
    """
    with image_errors(path, "is not a readable image"), Image.open(path, formats=FORMATS):
        pass


@contextmanager
def image_errors(path: Path | str, complaint: str) -> Iterator[None]:
    """Turn Pillow's errors about a file into an ImageError with its path."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # Pillow's parsers raise many kinds: struct.error, KeyError, zlib.error, ...
        if isinstance(error, OSError) and error.errno in _SYSTEM_ERRORS:
            raise
        raise ImageError(f"{printable(path)} {complaint}: {_reason(path, error)}") from None


def to_rgb(image: Image.Image) -> np.ndarray:
    """Any mode -> (height, width, 3) uint8; transparent pixels get a white background, 16-bit grey keeps its high byte."""
    if image.mode.startswith("I;16") or image.mode == "I":
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))


def printable(path: Path | str) -> str:
    """A path as valid UTF-8 text; bytes that are not UTF-8 are written \\udcXX."""
    return os.fspath(path).encode("utf-8", "backslashreplace").decode()


def _apply_orientation(image: Image.Image) -> Image.Image:
    """The decoded image rotated as its EXIF orientation says; a damaged EXIF block is ignored."""
    with suppress(Exception):  # the pixels are rotated before the block is rewritten
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _reason(path: Path | str, error: Exception) -> str:
    if isinstance(error, FileNotFoundError) and os.path.islink(path):
        return "it is a broken link"
    if isinstance(error, UnidentifiedImageError):
        empty = os.path.isfile(path) and not os.path.getsize(path)
        return "it is empty" if empty else f"its content is none of {', '.join(FORMATS)}"
    return str(error) or type(error).__name__

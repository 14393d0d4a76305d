"""An image file as RGB pixels, whatever its mode, and the register of those that cannot be decoded.

A file's format is told by its content, not by its suffix, and has to be one of `FORMATS`: Pillow knows more, among them
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
_THIS_COMPUTER = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # too many open files, no memory: no fault of the image's


class ImageError(ValueError):
    """A file is no image, or a broken one."""


@dataclass
class Broken:
    """The broken files of one set that were met: passed over up to a limit and told once each; one more stops.

    Kept in the process that uses the images; with several processes (torchrun) each has its own.
    """

    title: str = "the set"
    limit: int = 0  # how many may be: params.yaml split.broken_files
    left_out: int = 0  # of these, found by stage split and in no part
    files: dict[int, str] = field(default_factory=dict)  # item -> its path and what is wrong with it
    _told: int = 0

    def add(self, found: Mapping[int, str]) -> None:
        """Register broken files; those that are known already do not count again.

        Raises:
            ImageError: if they are more than may be; names the new ones.
        """
        new = {item: message for item, message in found.items() if item not in self.files}
        many = self.left_out + len(self.files) + len(new)
        if many > self.limit:
            raise ImageError(over_limit(list(new.values()), f"{self.title}: {many} files", self.limit))
        for message in new.values():
            print(f"{self.title}: passed over: {message}", flush=True)
        self.files |= new

    def tell(self) -> None:
        """Print how many there are, unless that was said already."""
        if len(self.files) > self._told:
            before = f", beside {self.left_out} left out by split" if self.left_out else ""
            print(f"{self.title}: broken files passed over: {len(self.files)}{before}; {self.limit} may be", flush=True)
            self._told = len(self.files)

    def metrics(self) -> dict[str, int]:
        """{"broken_files": how many}, or nothing where none may be."""
        return {"broken_files": len(self.files)} if self.limit else {}


def over_limit(messages: list[str], what: str, limit: int) -> str:
    """The message for more broken files than may be: the first ten of them."""
    listed = "\n".join(f"  {line}" for line in messages[:10])
    return f"{what} are broken and {limit} may be; replace or remove them, or raise params.yaml split.broken_files:\n{listed}"


def decode(path: Path) -> np.ndarray:
    """Pixels (height, width, 3) uint8, turned upright as the file's EXIF orientation says; of an animation, the first.

    Raises:
        ImageError: if the file cannot be decoded, or has so many pixels that Pillow takes it for an attack; names it.
    """
    with naming(path, "cannot be decoded"), Image.open(path, formats=FORMATS) as image:
        image.load()
        return rgb(_upright(image))


def look(path: Path) -> None:
    """Read the file's head only.

    Raises:
        ImageError: if it is not that of an image; names it.
    """
    with naming(path, "is no image that can be read"), Image.open(path, formats=FORMATS):
        pass


@contextmanager
def naming(path: Path | str, complaint: str) -> Iterator[None]:
    """Whatever Pillow raises about the file, as a ImageError with its path."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises what its parsers happen to: struct.error, KeyError, zlib.error, ...
        if isinstance(error, OSError) and error.errno in _THIS_COMPUTER:
            raise
        raise ImageError(f"{printable(path)} {complaint}: {_reason(path, error)}") from None


def rgb(image: Image.Image) -> np.ndarray:
    """Any mode -> (height, width, 3) uint8; see-through pixels get a white ground, 16-bit grey keeps its high byte."""
    if image.mode.startswith("I;16") or image.mode == "I":
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))


def printable(path: Path | str) -> str:
    """A path as text that any terminal and any UTF-8 file takes; bytes that are no UTF-8 are written \\udcXX."""
    return os.fspath(path).encode("utf-8", "backslashreplace").decode()


def _upright(image: Image.Image) -> Image.Image:
    """The decoded image turned as its EXIF orientation says; a damaged EXIF block is as good as none."""
    with suppress(Exception):  # the pixels are turned before the block is written anew
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _reason(path: Path | str, error: Exception) -> str:
    if isinstance(error, FileNotFoundError) and os.path.islink(path):
        return "it is a link to nothing"
    if isinstance(error, UnidentifiedImageError):
        empty = os.path.isfile(path) and not os.path.getsize(path)
        return "it is empty" if empty else f"its content is none of {', '.join(FORMATS)}"
    return str(error) or type(error).__name__

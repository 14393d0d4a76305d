"""Any image file becomes RGB pixels or an error that names it."""

import errno
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from nas.data.decoding import FORMATS, BrokenFiles, ImageError, check_header, decode

GREY = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5


def content(image: Image.Image, form: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def photo(side: int = 24) -> Image.Image:
    """A smooth image, which JPEG preserves; no rotation or mirror image equals it."""
    y, x = np.mgrid[:side, : side + 8]
    return Image.fromarray(np.stack([x * 255 // x.max(), y * 255 // y.max(), (x + 2 * y) * 80 // x.max()], 2).astype(np.uint8))


# What each EXIF orientation says has to be done to the stored rows and columns (EXIF 2.32, tag 0x0112).
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_the_exif_orientation_is_applied(tmp_path, form, orientation):
    """A file with an orientation gives the pixels of the plain file, rotated as the standard says."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"lossless": True} if form == "WEBP" else {}
    plain = decode(written(tmp_path / "plain", content(photo(), form, **options)))
    turned = decode(written(tmp_path / "turned", content(photo(), form, exif=exif.tobytes(), **options)))
    assert np.array_equal(turned, UPRIGHT[orientation](plain))


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(6, 200), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_damaged_exif_block_does_not_break_an_image(tmp_path, changes):
    """With any bytes in the EXIF block, the pixels are decoded, in one of the eight orientations."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.XResolution], exif[ExifTags.Base.Make] = 6, 72.0, "camera"
    data = bytearray(exif.tobytes())
    for place, value in changes:
        data[6 + (place - 6) % (len(data) - 6)] = value
    plain = decode(written(tmp_path / "plain", content(photo(), "JPEG")))
    damaged = decode(written(tmp_path / "damaged", content(photo(), "JPEG", exif=bytes(data))))
    assert any(np.array_equal(damaged, turn(plain)) for turn in UPRIGHT.values())


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("form", FORMATS)
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bytes_give_pixels_or_an_image_error(tmp_path, monkeypatch, form, data):
    """A file with changed bytes and a truncated end gives RGB pixels or an ImageError with its name."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10**5)
    damaged = bytearray(content(photo(), form))
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, min(len(damaged) - 1, 400)))] = data.draw(st.integers(0, 255))
    path = written(tmp_path / "odd.png", bytes(damaged[: data.draw(st.integers(len(damaged) // 2, len(damaged)))]))
    try:
        pixels = decode(path)
    except ImageError as error:
        assert "odd.png cannot be decoded: " in str(error)
    else:
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.size


@pytest.mark.parametrize(
    ("mode", "form"), [("L", "PNG"), ("LA", "PNG"), ("I;16", "PNG"), ("I;16", "TIFF"), ("I;16B", "TIFF"), ("P", "GIF"), ("1", "PNG")]
)
def test_grey_modes_are_the_shade_in_three_channels(tmp_path, mode, form):
    """8 bits stay, 16 bits keep the high byte in either byte order, black and white become 0 and 255."""
    shades = np.where(GREY > 120, 255, 0).astype(np.uint8) if mode == "1" else GREY
    if mode.startswith("I;16"):
        image = Image.fromarray(shades.astype(np.uint16) * 256 + 17)
        image = image.convert("I").convert("I;16B") if mode == "I;16B" else image
    else:
        image = Image.fromarray(shades).convert(mode)
    pixels = decode(written(tmp_path / "grey", content(image, form)))
    assert np.array_equal(pixels, np.repeat(shades[..., None], 3, 2))


def test_deep_integers_beyond_16_bits_do_not_wrap(tmp_path):
    """32-bit grey values below 0 are black and those above 65,535 white."""
    values = np.array([[-5, 0, 0x8000, 0xFFFF, 0x10000, 2**30]], dtype=np.int32)
    pixels = decode(written(tmp_path / "deep", content(Image.fromarray(values), "TIFF")))
    assert pixels[0, :, 0].tolist() == [0, 0, 128, 255, 255, 255]


def test_colours_of_other_modes(tmp_path):
    """Red is red from CMYK and from a palette; half-transparent red over white is pink."""
    red = Image.new("RGB", (8, 8), (255, 0, 0))
    for name, data in {
        "cmyk": content(red.convert("CMYK"), "JPEG", quality=100),
        "palette": content(red.convert("P"), "PNG"),
        "gif": content(red, "GIF"),
    }.items():
        assert np.abs(decode(written(tmp_path / name, data)).astype(int) - (255, 0, 0)).max() <= 3, name
    half = decode(written(tmp_path / "half", content(Image.new("RGBA", (8, 8), (255, 0, 0, 128)), "PNG")))
    assert np.unique(half.reshape(-1, 3), axis=0).tolist() == [[255, 127, 127]]


def test_transparency_of_a_palette_is_white(tmp_path):
    """A see-through entry of a palette shows the white ground."""
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8))
    image = image.convert("P")
    image.putpalette([9, 9, 9, 200, 0, 0])
    path = written(tmp_path / "see", content(image, "PNG", transparency=0))
    assert decode(path).tolist() == [[[255, 255, 255], [200, 0, 0]]]


def test_of_an_animation_the_first_image_counts(tmp_path):
    """An animated GIF gives its first frame."""
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("blue", "red")]
    path = written(tmp_path / "moving", content(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert np.unique(decode(path).reshape(-1, 3), axis=0).tolist() == [[0, 0, 255]]


def test_a_pair_of_photographs_in_one_jpeg_is_the_first(tmp_path):
    """Phones write MPO files with the suffix .jpg."""
    second = Image.new("RGB", photo().size)
    path = written(tmp_path / "phone.jpg", content(photo(), "MPO", save_all=True, append_images=[second]))
    assert Image.open(path).format == "MPO"
    assert np.abs(decode(path).astype(int) - np.asarray(photo())).max() < 30


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".bmp", ""])
def test_the_content_counts_and_not_the_suffix(tmp_path, suffix):
    """A PNG file under another name has the same pixels."""
    assert np.array_equal(decode(written(tmp_path / f"image{suffix}", content(photo(), "PNG"))), np.asarray(photo()))


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 7), (5000, 1)])
def test_the_smallest_images_are_decoded(tmp_path, width, height):
    """A single pixel and a single row are decoded like any image."""
    path = written(tmp_path / "small.png", content(Image.new("RGB", (width, height), (1, 2, 3)), "PNG"))
    assert np.array_equal(decode(path), np.full((height, width, 3), (1, 2, 3)))


@pytest.mark.parametrize("read", [decode, check_header])
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it is empty"),
        (b"PK\x03\x04" + bytes(200), "its content is none of PNG, JPEG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n", "its content is none of PNG, JPEG"),
        (b"<html>404 Not Found</html>", "its content is none of PNG, JPEG"),
    ],
)
def test_a_file_that_is_not_an_image_is_named_with_the_reason(tmp_path, read, data, reason):
    """An empty file, an archive, PostScript (which Pillow would run in Ghostscript) and an HTML page raise."""
    with pytest.raises(ImageError, match=rf"cat/7\.jpg .*: {reason}"):
        (tmp_path / "cat").mkdir()
        read(written(tmp_path / "cat" / "7.jpg", data))


@pytest.mark.parametrize("read", [decode, check_header])
def test_a_decompression_bomb_is_refused(tmp_path, read):
    """A PNG file of 61 bytes that declares 50,000 x 50,000 pixels is not decoded."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")
    with pytest.raises(ImageError, match=r"bomb\.png .*2500000000 pixels"):
        read(written(tmp_path / "bomb.png", bomb))


def test_a_text_bomb_is_refused(tmp_path):
    """A comment of 2 MB compressed into a small PNG file is not decompressed."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("comment", "a" * 2_000_000, zip=True)
    path = written(tmp_path / "text.png", content(photo(), "PNG", pnginfo=info))
    with pytest.raises(ImageError, match=r"text\.png cannot be decoded"):
        decode(path)


@pytest.mark.parametrize(("target", "reason"), [("nowhere.png", "it is a broken link"), ("self.png", "Too many levels")])
def test_a_broken_link_is_named(tmp_path, target, reason):
    """A link without a target and a link to itself raise."""
    (tmp_path / "self.png").symlink_to(target)
    for read in (check_header, decode):
        with pytest.raises(ImageError, match=rf"self\.png .*{reason}"):
            read(tmp_path / "self.png")


def test_names_that_are_not_utf8_can_be_printed(tmp_path):
    """Bytes of a file name that are not UTF-8 are escaped in the message."""
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    path.touch()
    with pytest.raises(ImageError, match=r"caf\\udce9\.png cannot be decoded: it is empty") as caught:
        decode(path)
    str(caught.value).encode()


def test_too_many_open_files_do_not_count_as_a_broken_image(tmp_path, monkeypatch):
    """An error of the system is raised unchanged."""
    path = written(tmp_path / "fine.png", content(photo(), "PNG"))

    def full(*_, **__):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(Image, "open", full)
    with pytest.raises(OSError, match="Too many open files"):
        decode(path)


def test_formats_are_decoded_by_pillow_itself():
    """No format starts another program."""
    assert "EPS" not in FORMATS
    Image.init()
    assert set(FORMATS) <= set(Image.OPEN)


# The register


def test_broken_files_count_once_and_one_above_the_limit_is_an_error(capsys):
    """Two of at most two are reported once; a third raises and is named."""
    broken = BrokenFiles("pets", 2)
    broken.add({3: "a.png is bad"})
    broken.add({3: "a.png is bad", 9: "b.png is bad"})
    broken.print_count()
    broken.print_count()
    output = capsys.readouterr().out
    assert [output.count(text) for text in ("a.png", "b.png", "pets: 2 broken files skipped; 2 are tolerated")] == [1, 1, 1]
    assert broken.metrics() == {"broken_files": 2}
    with pytest.raises(ImageError, match=r"pets: 3 files are broken, 2 are tolerated(.|\n)*split\.broken_files:\n  c\.png is bad"):
        broken.add({9: "b.png is bad", 4: "c.png is bad"})


def test_files_left_out_by_split_count_towards_the_limit():
    """With a limit of three and three left out by split, the next one raises."""
    with pytest.raises(ImageError, match="4 files are broken, 3 are tolerated"):
        BrokenFiles("pets", 3, left_out=3).add({0: "a.png is bad"})


def test_without_a_limit_the_first_broken_file_is_an_error():
    """The default tolerates nothing and adds no metric."""
    broken = BrokenFiles("pets")
    assert broken.metrics() == {}
    with pytest.raises(ImageError, match="1 files are broken, 0 are tolerated"):
        broken.add({0: "a.png is bad"})

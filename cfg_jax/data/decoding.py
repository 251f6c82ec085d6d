"""Decoding of pictures to the pixels that a viewer shows.

One decoder reads files and TFDS records, so a picture has the same pixels in both, with or without
OpenCV. Only the first frame counts; docs/data.md has a table of encodings.
"""

import contextlib
import dataclasses
import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageColor, ImageOps

from cfg_jax.io.text import one_line

DECODER = "cfg_jax 1"
"""Version of the decoder in fingerprints; increase it if `decode` gives other pixels."""

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")

# Decoding takes up to 20 bytes a pixel, and a small file can claim very many. A blank page at 600
# dots per inch has 35 million pixels.
_ALWAYS_PIXELS = 40_000_000
_MOST_PIXELS_PER_BYTE = 100

# Pillow warns of every such picture, and still reads its pixels.
warnings.filterwarnings("ignore", r".*corrupt EXIF data", UserWarning)


def decoder_name(background: tuple[int, int, int]) -> str:
    """The decoder and its background, for fingerprints."""
    return f"{DECODER} over #{bytes(background).hex()}"


def background_colour(name: str) -> tuple[int, int, int]:
    """Red, green and blue of "white", "#ff8000" and the like; ValueError for an unknown colour."""
    try:
        red, green, blue, *_ = ImageColor.getrgb(name)
    except ValueError as error:
        raise ValueError(
            f"background is {name!r}: give a colour by name, or as '#rrggbb'"
        ) from error
    return red, green, blue


def decode(
    encoded: bytes, channels: int, background: tuple[int, int, int] = (255, 255, 255)
) -> np.ndarray:
    """The pixels that a viewer shows: uint8 [h, w, channels], 1 for grey and 3 for colour.

    Palettes, CMYK and 1-bit pictures become colours or grey levels, levels of 16 bits keep their
    high byte, transparent parts show `background`, and the EXIF orientation is applied. Colour
    profiles are not. Raises ValueError for anything incomplete or without such a meaning.
    """
    try:
        with _open(encoded) as image:
            return as_shown(_upright(image), channels, background)
    except Exception as error:  # Pillow raises errors of many types for damaged files
        raise ValueError(f"picture cannot be decoded: {_reason(error)}") from error


def as_shown(image: Image.Image, channels: int, background: tuple[int, int, int]) -> np.ndarray:
    """Pixels of an upright Pillow image, as `decode`."""
    if image.mode.startswith("I;16"):
        image = _high_byte(image)
    if image.mode in ("I", "F"):
        raise ValueError("levels have 32 bits, of which white is unknown; save it with 8 or 16")
    if image.has_transparency_data:
        below = Image.new("RGBA", image.size, (*background, 255))
        image = Image.alpha_composite(below, image.convert("RGBA"))
    image = image.convert("RGB")
    return np.asarray(image if channels == 3 else image.convert("L")).reshape(
        image.height, image.width, channels
    )


def is_plain(encoded: bytes) -> bool:
    """Whether TFDS has the same pixels: 8 bits, grey or colour, opaque, upright; or none at all."""
    try:
        with _open(encoded) as image:
            opaque = image.mode in ("L", "RGB") and not image.has_transparency_data
            return opaque and image.getexif().get(ExifTags.Base.Orientation, 1) == 1
    except Exception:  # neither decoder reads it
        return True


class Probe(NamedTuple):
    """Height and width in pixels as `decode` gives them, and whether there are only greys."""

    height: int
    width: int
    grey: bool


def probe(encoded: bytes) -> Probe:
    """Size and channels of a picture, after decoding it completely; ValueError as `decode`."""
    height, width, _ = decode(encoded, 3).shape
    with _open(encoded) as image:
        grey = image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I;16")
    return Probe(height, width, grey)


@dataclasses.dataclass(frozen=True)
class Decoded(Sequence[Mapping[str, Any]]):
    """Records with their "image" decoded: bytes to uint8 [h, w, channels].

    Attributes:
      records: `records[i]` is {"image": bytes, "label": int, ...}, with a "file" that errors name.
      channels, background: arguments of `decode`.
    """

    records: Sequence[Mapping[str, Any]]
    channels: int
    background: tuple[int, int, int]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index):
        record = self.records[index]
        try:
            image = decode(record["image"], self.channels, self.background)
        except ValueError as error:
            raise ValueError(f"{record['file']}: {error}" if "file" in record else error) from error
        return {**record, "image": image}


def _open(encoded: bytes) -> Image.Image:
    # The list of formats keeps Pillow from running other programs, such as Ghostscript.
    image = Image.open(io.BytesIO(encoded), formats=FORMATS)
    if image.width * image.height > max(_MOST_PIXELS_PER_BYTE * len(encoded), _ALWAYS_PIXELS):
        raise ValueError(
            f"it has {image.height} x {image.width} pixels in a file of {len(encoded)} bytes; "
            "save it smaller"
        )
    return image


def _upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF says; as stored if it says nothing readable."""
    image.load()
    with contextlib.suppress(Exception):
        return ImageOps.exif_transpose(image)
    return image


def _high_byte(image: Image.Image) -> Image.Image:
    """8 bits of 16, as Pillow reads colours of 16 bits; a transparent level stays transparent."""
    levels = np.asarray(image)
    grey = Image.fromarray((levels >> 8).astype(np.uint8))
    clear = image.info.get("transparency")
    if clear is not None:
        grey.putalpha(Image.fromarray(np.where(levels == clear, 0, 255).astype(np.uint8)))
    return grey


def _reason(error: BaseException) -> str:
    known = f"it is not one of {', '.join(FORMATS)}, or damaged"
    if isinstance(error, Image.UnidentifiedImageError):
        return known
    return one_line(error) or known

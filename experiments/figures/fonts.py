"""Other fonts for letters that the usual font lacks."""

from collections.abc import Sequence
from functools import cache

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.text import Text

_USUAL = "DejaVu Sans"  # comes with Matplotlib


def drawable_names(class_names: Sequence[str]) -> list[str]:
    """Returns the names; those that no font can draw become numbers."""
    _, missing = _fonts_for("".join(class_names))
    return [
        f"class {number}" if missing & set(name) else name
        for number, name in enumerate(class_names)
    ]


def choose_fonts(figure: Figure) -> None:
    """Sets fonts that have all letters of a figure; other letters become codes."""
    texts = figure.findobj(Text)
    fonts, missing = _fonts_for("".join(text.get_text() for text in texts))
    codes = {ord(letter): f"\\u{ord(letter):04x}" for letter in missing}
    for text in texts:
        text.set_fontfamily(fonts)
        text.set_text(text.get_text().translate(codes))


@cache
def _fonts_for(text: str) -> tuple[list[str], frozenset[str]]:
    """Returns the usual font, fonts for letters it lacks, and letters in no font."""
    letters = frozenset(letter for letter in text if not letter.isspace())
    fonts, missing = [_USUAL], letters - _letters_of(font_manager.findfont(_USUAL))
    while missing:
        found = {name: missing & _letters_of(path) for name, path in _others()}
        best = max(found, key=lambda name: (len(found[name]), name), default=None)
        if best is None or not found[best]:
            break
        fonts.append(best)
        missing -= found[best]
    return fonts, missing


def _others() -> list[tuple[str, str]]:
    """Returns name and file of upright fonts of usual weight."""
    return [
        (font.name, font.fname)
        for font in font_manager.fontManager.ttflist
        if (font.style, font.weight, font.stretch) == ("normal", 400, "normal")
        # These draw a box for every letter.
        and not font.name.replace(" ", "").lower().lstrip(".").startswith("lastresort")
    ]


@cache
def _letters_of(path: str) -> frozenset[str]:
    try:
        return frozenset(map(chr, font_manager.get_font(path).get_charmap()))
    except (OSError, RuntimeError):  # missing, or no font
        return frozenset()

"""Letters and symbols of font packages, as masks. A package, not a font file, is a source: its fonts are of one design."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mingle_edge.demo.canvas import Bytes
from mingle_edge.demo.splits import Split
from research.suite.real.drawing import trimmed
from research.suite.real.packages import Package

_OFL = "OFL-1.1"
TRAINING = (
    Package("apt", "fonts-anonymous-pro", "1.003-4", _OFL),
    Package("apt", "fonts-averia-gwf", "1.00-3.1", _OFL),
    Package("apt", "fonts-b612", "1.008-3", _OFL),
    Package("apt", "fonts-cabin", "1.5-3", _OFL),
    Package("apt", "fonts-cantarell", "0.303.1-1", _OFL),
    Package("apt", "fonts-cardo", "1.04-3", _OFL),
    Package("apt", "fonts-comic-neue", "2.51-4", _OFL),
    Package("apt", "fonts-courier-prime", "0+git20190115-3", _OFL),
    Package("apt", "fonts-dejavu-core", "2.37-6", "Bitstream Vera"),
    Package("apt", "fonts-ebgaramond", "0.016+git20210310.42d4f9f2-1", _OFL),
    Package("apt", "fonts-fantasque-sans", "1.7.2~alpha.3~dfsg-2", _OFL),
    Package("apt", "fonts-go", "0~20170330-1", "BSD-3-Clause"),
    Package("apt", "fonts-inconsolata", "001.010-6", _OFL),
    Package("apt", "fonts-jura", "5.103-3", _OFL),
    Package("apt", "fonts-league-spartan", "2.210-1", _OFL),
    Package("apt", "fonts-linuxlibertine", "5.3.0-6", _OFL),
    Package("apt", "fonts-manrope", "4.504+git20201211-2", _OFL),
    Package("apt", "fonts-open-sans", "1.11-2", "Apache-2.0"),
    Package("apt", "fonts-play", "1.002+20150307.1-0.1", "Apache-2.0"),
    Package("apt", "fonts-quattrocento", "1.1-2.1", _OFL),
    Package("apt", "fonts-roboto-slab", "1.100263+20170512-2", "Apache-2.0"),
    Package("apt", "fonts-sil-andika", "6.101-2", _OFL),
    Package("apt", "fonts-tuffy", "20120614-2.1", "public domain"),
    Package("apt", "fonts-yanone-kaffeesatz", "2.0+git20211102+ds-1", _OFL),
)
SEEDS = (
    Package("apt", "fonts-dosis", "1.7-3", _OFL),
    Package("apt", "fonts-goudybookletter", "2010.07.03-6", "public domain"),
    Package("apt", "fonts-hack", "3.003-3", "MIT and Bitstream Vera"),
    Package("apt", "fonts-karla", "20201218-1", _OFL),
    Package("apt", "fonts-oldstandard", "2.2really-4", _OFL),
    Package("apt", "fonts-oxygen", "4:5.4.3-4", _OFL),
)
TUNE = (
    Package("apt", "fonts-crosextra-caladea", "20200211-1", _OFL),
    Package("apt", "fonts-firacode", "6.2-2", _OFL),
    Package("apt", "fonts-gfs-didot", "1.1-7", _OFL),
    Package("apt", "fonts-humor-sans", "1.0-4", _OFL),
    Package("apt", "fonts-junicode", "2+git20230104+ds-1", _OFL),
    Package("apt", "fonts-quicksand", "0.2016-2.1", _OFL),
)
TEST = (
    Package("apt", "fonts-comfortaa", "3.001-3", _OFL),
    Package("apt", "fonts-dancingscript", "1.2-2", _OFL),
    Package("apt", "fonts-gfs-artemisia", "1.1-6", _OFL),
    Package("apt", "fonts-jetbrains-mono", "2.242+ds-3", "Apache-2.0"),
    Package("apt", "fonts-lato", "2.0-2.1", _OFL),
    Package("apt", "fonts-liberation", "1:1.07.4-11", "GPL-2 with font exception"),
    Package("apt", "fonts-mononoki", "1.5+dfsg-1", _OFL),
    Package("apt", "fonts-national-park", "0.0~20220205-2", _OFL),
    Package("apt", "fonts-opendyslexic", "20160623-4", "CC-BY-3.0 and Bitstream Vera"),
    Package("apt", "fonts-prociono", "2.3-6", "public domain"),
    Package("apt", "fonts-sora", "0+git20201221+ds-2", _OFL),
    Package("apt", "fonts-vollkorn", "4.105-2", _OFL),
)
PARTS: dict[Split, tuple[Package, ...]] = {"train": TRAINING, "seeds": SEEDS, "tune": TUNE, "test": TEST}
_SKIPPED = re.compile(
    r"italic|oblique|thin|hairline|light|outline|tamil|minus|smallcaps|initials|_[IK][.]|\[|it[.]otf", re.IGNORECASE
)
_FILES = 3  # of a package at most
_SIZE = 96  # pixels


def font_files(sources: Path, package: Package) -> list[Path]:
    """Return the first few upright fonts of a package, neither light nor decorated nor of variable weight."""
    found = {path.name: path for path in package.files(sources, "usr/share/fonts/**/*.[ot]tf")}
    return [path for name, path in sorted(found.items()) if not _SKIPPED.search(name)][:_FILES]


def all_font_files(sources: Path) -> list[Path]:
    """Return the fonts of all packages."""
    return [path for packages in PARTS.values() for package in packages for path in font_files(sources, package)]


def letters(sources: Path, split: Split, texts: Sequence[str]) -> list[list[Bytes]]:
    """Return masks `[h, w]` of each text in every font of the packages of a part."""
    fonts = [path for package in PARTS[split] for path in font_files(sources, package)]
    return [[mask(path, text) for path in fonts] for text in texts]


def mask(path: Path, text: str) -> Bytes:
    """Return a text set in a font as a mask `[h, w]`, as large as its ink.

    Raises:
        ValueError: the font has no ink for it.
    """
    font = ImageFont.truetype(str(path), _SIZE)
    left, top, right, bottom = (round(edge) for edge in font.getbbox(text))
    if right <= left or bottom <= top:
        raise ValueError(f"{path} has no ink for {text!r}; leave the font out")
    page = Image.new("L", (right - left + 8, bottom - top + 8))
    ImageDraw.Draw(page).text((4 - left, 4 - top), text, fill=255, font=font)
    pixels = np.asarray(page)
    return trimmed(pixels, pixels)

"""The vendors of emoji, flags and icons by part, and what each calls the classes."""

from __future__ import annotations

from collections.abc import Mapping

from mingle_edge.demo.splits import Split
from research.suite.real.packages import Package
from research.suite.real.vectors import icon_set

Sets = Mapping[Split, tuple[Package, ...]]
"""Icon sets by part; `seeds` has those of `train`. No vendor is in two of the parts train, tune and test."""
Names = Mapping[str, tuple[str, ...]]
"""What the sets call a class, the best name first."""

EMOJI: Sets = {
    "train": (
        icon_set("noto", "1.2.9", "Apache-2.0"),
        icon_set("noto-v1", "1.2.5", "Apache-2.0"),
        icon_set("fluent-emoji", "1.2.7", "MIT"),
        icon_set("fluent-emoji-flat", "1.2.6", "MIT"),
        icon_set("openmoji", "1.2.29", "CC-BY-SA-4.0"),
        icon_set("fxemoji", "1.2.2", "Apache-2.0"),
        icon_set("streamline-emojis", "1.2.4", "CC-BY-4.0"),
    ),
    "tune": (icon_set("emojione", "1.2.3", "CC-BY-4.0"), icon_set("emojione-v1", "1.2.3", "CC-BY-SA-4.0")),
    "test": (icon_set("twemoji", "1.2.5", "CC-BY-4.0"),),
}
SMILEYS: Names = {
    "laughing": ("face-with-tears-of-joy", "grintears"),
    "loving": ("smiling-face-with-heart-eyes", "hearteyes"),
    "enraged": ("pouting-face", "enraged-face", "pouting"),
    "crying": ("loudly-crying-face", "loudlycrying"),
    "cool": ("smiling-face-with-sunglasses", "sunglasses"),
    "sleeping": ("sleeping-face", "sleeping"),
    "screaming": ("face-screaming-in-fear", "screamfear"),
    "kissing": ("face-blowing-a-kiss", "kiss"),
    "masked": ("face-with-medical-mask", "medicalmask"),
    "angelic": ("smiling-face-with-halo", "halo"),
    "devilish": ("smiling-face-with-horns", "devilhorns"),
    "speechless": ("face-without-mouth", "nomouth"),
}
ANIMALS: Names = {
    "cat": ("cat-face", "cat"),
    "dog": ("dog-face", "dog"),
    "pig": ("pig-face", "pig"),
    "frog": ("frog", "frog-face"),
    "panda": ("panda", "panda-face", "pandaface"),
    "tiger": ("tiger-face", "tiger"),
    "rabbit": ("rabbit-face", "bunny"),
    "mouse": ("mouse-face", "mouse"),
    "koala": ("koala",),
    "monkey": ("monkey-face", "monkeyface"),
    "penguin": ("penguin", "penguin-1"),
    "octopus": ("octopus",),
}
FLAG_SETS: Sets = {
    "train": (
        icon_set("flag", "1.2.12", "MIT"),
        icon_set("flagpack", "1.2.8", "MIT"),
        icon_set("openmoji", "1.2.29", "CC-BY-SA-4.0"),
        icon_set("emojione", "1.2.3", "CC-BY-4.0"),
        icon_set("emojione-v1", "1.2.3", "CC-BY-SA-4.0"),
    ),
    "tune": (icon_set("cif", "1.2.7", "CC0-1.0"),),
    "test": (icon_set("twemoji", "1.2.5", "CC-BY-4.0"), icon_set("circle-flags", "1.2.11", "MIT")),
}
_COUNTRIES = {
    "Japan": "jp",
    "Sweden": "se",
    "Switzerland": "ch",
    "France": "fr",
    "Germany": "de",
    "Canada": "ca",
    "Brazil": "br",
    "Greece": "gr",
    "Turkey": "tr",
    "India": "in",
    "South Africa": "za",
    "Jamaica": "jm",
}
FLAGS: Names = {
    name: (code, f"{code}-4x3", f"{code}-1x1", *(f"{kind}{name.lower().replace(' ', '-')}" for kind in ("flag-", "flag-for-")))
    for name, code in _COUNTRIES.items()
}
ICON_SETS: Sets = {
    "train": (
        icon_set("bx", "1.2.3", "MIT"),
        icon_set("bxs", "1.2.3", "MIT"),
        icon_set("carbon", "1.2.29", "Apache-2.0"),
        icon_set("f7", "1.2.2", "MIT"),
        icon_set("fa6-solid", "1.2.4", "CC-BY-4.0"),
        icon_set("ic", "1.2.4", "Apache-2.0"),
        icon_set("iconoir", "1.2.11", "MIT"),
        icon_set("ion", "1.2.7", "MIT"),
        icon_set("lucide", "1.2.137", "ISC"),
        icon_set("majesticons", "1.2.5", "MIT"),
        icon_set("mdi", "1.2.3", "Apache-2.0"),
        icon_set("mingcute", "1.2.8", "Apache-2.0"),
        icon_set("solar", "1.2.13", "CC-BY-4.0"),
        icon_set("uil", "1.2.3", "Apache-2.0"),
    ),
    "tune": (icon_set("bi", "1.2.7", "MIT"),),
    "test": (icon_set("ph", "1.2.2", "MIT"), icon_set("tabler", "1.2.41", "MIT")),
}


def _variants(*names: str) -> tuple[str, ...]:
    kinds = ("{}", "{}-outline", "{}-fill", "{}-line", "{}-bold", "{}-filled", "baseline-{}", "outline-{}")
    return tuple(kind.format(name) for name in names for kind in kinds)


ICONS: Names = {
    "house": _variants("house", "home"),
    "heart": _variants("heart", "favorite"),
    "star": _variants("star"),
    "lock": _variants("lock", "locked", "lock-closed"),
    "key": _variants("key"),
    "camera": _variants("camera", "camera-alt", "photo-camera"),
    "umbrella": _variants("umbrella"),
    "cart": _variants("cart", "shopping-cart"),
    "cloud": _variants("cloud"),
    "book": _variants("book"),
    "gift": _variants("gift", "card-giftcard"),
    "bell": _variants("bell", "notifications"),
}
STAMP_SETS: Sets = {
    "train": (
        icon_set("emojione-monotone", "1.2.1", "CC-BY-4.0"),
        icon_set("fa6-solid", "1.2.4", "CC-BY-4.0"),
        icon_set("game-icons", "1.2.4", "CC-BY-3.0"),
        icon_set("hugeicons", "1.2.35", "MIT"),
        icon_set("lucide", "1.2.137", "ISC"),
        icon_set("mdi", "1.2.3", "Apache-2.0"),
        icon_set("mingcute", "1.2.8", "Apache-2.0"),
        icon_set("ri", "1.2.10", "Apache-2.0"),
        icon_set("solar", "1.2.13", "CC-BY-4.0"),
    ),
    "tune": (icon_set("tabler", "1.2.41", "MIT"),),
    "test": (icon_set("fluent-emoji-high-contrast", "1.2.6", "MIT"), icon_set("ph", "1.2.2", "MIT")),
}
STAMPS: Names = {
    "airplane": _variants("airplane", "plane", "commercial-airplane"),
    "anchor": _variants("anchor"),
    "bomb": _variants("bomb"),
    "crown": _variants("crown"),
    "fish": _variants("fish"),
    "ghost": _variants("ghost"),
    "hammer": _variants("hammer"),
    "rocket": _variants("rocket"),
    "scissors": _variants("scissors"),
    "skull": _variants("skull"),
    "snowflake": _variants("snowflake", "snowflake-1", "snowflake-2"),
    "trophy": _variants("trophy", "trophy-cup"),
}

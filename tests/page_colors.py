"""Colors as WCAG 2.2 compares them (w3.org/TR/WCAG22, "contrast ratio", "relative luminance")."""

from __future__ import annotations

Color = tuple[float, float, float]


def parsed(color: str) -> Color:
    """Red, green and blue from 0 to 1 of `#abc` or `#aabbcc`."""
    digits = color[1:] if len(color) == 7 else "".join(2 * digit for digit in color[1:])
    red, green, blue = (int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4))
    return red, green, blue


def contrast(one: Color, other: Color) -> float:
    """The contrast ratio, from 1 to 21."""
    dark, light = sorted((_luminance(one), _luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def _luminance(color: Color) -> float:
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in color)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue

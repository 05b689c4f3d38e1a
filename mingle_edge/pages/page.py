"""Fill a template of this package: every value is escaped, and a name the template misspells is an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

_ENVIRONMENT = Environment(
    loader=PackageLoader("mingle_edge.pages"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)


def plain(value: object, between: str = ", ") -> str:
    """Return a setting as text: `scale 0.3, layers 1/2` for a table, what is `between` the items of a list, "-" for None."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(item, '/')}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return between.join(plain(item, between) for item in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def record(groups: Mapping[str, Mapping[str, object]]) -> list[tuple[str, str]]:
    """Return rows of settings by group and name."""
    return [
        (f"{group}: {name.replace('_', ' ')}", plain(value))
        for group, settings in groups.items()
        for name, value in settings.items()
    ]


def render(template: str, **content: Any) -> str:
    """Return the page that `templates/<template>` makes of `content`: values, functions, and charts as `Markup`."""
    return _ENVIRONMENT.get_template(template).render(content)

"""HTML and SVG by functions: text is escaped unless it was made here, so no page can forget to."""

import math
from collections.abc import Sequence
from html import escape

import numpy as np

EMPTY = frozenset({"circle", "line", "path", "rect"})
"""SVG elements without contents, closed in their start tag; HTML's void elements stand in the template."""


class Safe(str):
    """Text that is markup already. Only this module and the package's own templates make it."""

    __slots__ = ()


def text(child: object) -> str:
    """Markup of one child: `Safe` as it is, nothing for None, everything else escaped."""
    if child is None:
        return ""
    return child if isinstance(child, Safe) else escape(str(child), quote=True)


def join(*children: object) -> Safe:
    """Children one after the other, each escaped unless `Safe`."""
    return Safe("".join(text(child) for child in children))


def tag(name: str, *children: object, **attributes: object) -> Safe:
    """One element.

    Attribute names lose a trailing underscore (``class_``) and turn the others into hyphens (``aria_label``).
    An attribute that is None or False is left out; True gives the bare name.

    Args:
        name: element name, written by us, never taken from data.
        *children: contents, escaped unless `Safe`.
        **attributes: attribute values, always escaped.

    Returns:
        The element as markup.

    Example:
        >>> tag("p", "1 < 2", class_="note")
        '<p class="note">1 &lt; 2</p>'
    """
    parts = [name]
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            parts.append(key)
        elif value is not None and value is not False:
            parts.append(f'{key}="{escape(str(value), quote=True)}"')
    start = " ".join(parts)
    return Safe(f"<{start}/>" if name in EMPTY else f"<{start}>{join(*children)}</{name}>")


def readable(value: float | int | None, digits: int = 3) -> str:
    """A number as people read it: raised powers of ten, a real minus sign, words for what is not finite.

    Args:
        value: the number; None shows a dash.
        digits: significant digits; whole numbers below a million keep all of theirs.

    Returns:
        The number as text.

    Example:
        >>> [readable(x) for x in (0.0, 1234, 0.5, -3.14159e-12, float("nan"), None)]
        ['0', '1234', '0.5', '−3.14 × 10⁻¹²', 'not a number', '–']
    """
    if value is None:
        return "–"
    if isinstance(value, (int, np.integer)) and abs(int(value)) < 10**6:
        return str(int(value)).replace("-", "−")
    value = float(value)
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "infinite" if value > 0 else "minus infinite"
    small = 0 < abs(value) < 1e-3  # 4 × 10⁻⁴ is read faster than 0.0004
    short = f"{value:.{digits - 1}e}" if small else f"{value:.{digits}g}"
    if 10**digits <= abs(value) < 1e6:  # 1024 is read faster than 1.02 × 10³
        short = f"{value:.0f}"
    if "e" not in short:
        return short.replace("-", "−")
    mantissa, exponent = short.split("e")
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{mantissa} × 10{raised}".replace("-", "−")


def number(value: float | int | None, source: str, digits: int = 3, **attributes: object) -> Safe:
    """A shown number that names the series it came from, for the reader (tooltip) and for machines.

    Args:
        value: what is shown; None shows a dash.
        source: where in the run folder it stands, for example ``scalars/loss@final``.
        digits: significant digits.
        **attributes: further attributes.

    Returns:
        A ``data`` element.
    """
    exact = None if value is None else repr(value.item() if isinstance(value, np.generic) else value)
    return tag(
        "data",
        readable(value, digits),
        class_="n",
        value=exact or "",
        title=f"from {source}",
        data_source=source,
        **attributes,
    )


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> Safe:
    """A table for eyes and screen readers: caption, column scopes, the first cell of a row names the row."""
    top = tag("tr", *[tag("th", word, scope="col") for word in head])
    body = [tag("tr", tag("th", row[0], scope="row"), *[tag("td", cell) for cell in row[1:]]) for row in rows]
    whole = tag("table", tag("caption", caption), tag("thead", top), tag("tbody", *body))
    return tag("div", whole, class_="scroll", tabindex="0", role="region", aria_label=caption)

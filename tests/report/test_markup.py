"""Nothing that came from data becomes markup, and every shown number names its source."""

import math
from html.parser import HTMLParser

import pytest

from dynascope.report.markup import Safe, join, number, readable, table, tag

HOSTILE = "</td><script>alert('1')</script>\" onload=\"x"


class Seen(HTMLParser):
    """Collects elements, attributes and text, as a browser's parser would."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(markup)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_children_and_attributes_are_escaped():
    seen = Seen(tag("p", HOSTILE, title=HOSTILE))
    assert seen.elements == [("p", {"title": HOSTILE})]
    assert seen.text == HOSTILE


def test_only_safe_text_passes_unchanged():
    assert join(Safe("<b>"), "<b>", None) == "<b>&lt;b&gt;"


def test_attribute_names_and_flags():
    assert tag("path", d="M0 0", class_="x", aria_label="a", hidden=True, title=None) == (
        '<path d="M0 0" class="x" aria-label="a" hidden/>'
    )


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "–"),
        (0.0, "0"),
        (64, "64"),
        (1234567, "1.23 × 10⁶"),
        (1024.3, "1024"),
        (-0.25, "−0.25"),
        (4e-4, "4 × 10⁻⁴"),
        (-1.5e-12, "−1.5 × 10⁻¹²"),
        (math.nan, "not a number"),
        (-math.inf, "minus infinite"),
    ],
)
def test_numbers_in_words(value, words):
    assert readable(value) == words


def test_number_names_its_source_and_keeps_all_digits():
    (name, attributes), *rest = Seen(number(0.1 + 0.2, "scalars/<loss>@3")).elements
    assert (name, rest) == ("data", [])
    assert float(attributes["value"] or "nan") == 0.1 + 0.2
    assert attributes["data-source"] == "scalars/<loss>@3"


def test_table_has_caption_and_scopes():
    seen = Seen(table("things", ["a", "b"], [["x", HOSTILE]]))
    assert [attributes["scope"] for name, attributes in seen.elements if name == "th"] == [
        "col",
        "col",
        "row",
    ]
    assert "caption" in [name for name, _ in seen.elements]
    assert HOSTILE in seen.text

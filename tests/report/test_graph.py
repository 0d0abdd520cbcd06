"""The drawing holds every bond and parameter once, arrows go downwards, and many bonds collapse."""

import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from typing import Any

import pytest

from dynascope.report.graph import ABREAST, HEIGHT, LIMIT, ROW, collapse, draw
from tests.report.conftest import HOSTILE


def bond(name: str, writers: list[str], readers: list[str], group: str = "R") -> dict[str, Any]:
    return {"name": name, "size": 4, "group": group, "through": [], "writers": writers, "readers": readers}


def chain(length: int, template: str = "{}") -> list[dict[str, Any]]:
    name = template.format
    return [
        bond(f"h{name(i)}", [f"{name(i)}.weight", f"{name(i)}.bias"], [f"{name(i + 1)}.weight"]) for i in range(length)
    ]


def parsed(bonds: list[dict[str, Any]]) -> ElementTree.Element:
    return ElementTree.fromstring(draw(bonds).markup)


def places(root: ElementTree.Element) -> dict[str, float]:
    """Upper edge of each node by the text of its first line and its class."""
    return {
        f"{group.get('class')} {group.findtext('text')}": float(group.find("rect").get("y"))
        for group in root.iter("g")
        if group.get("class") in {"bond", "box"}
    }


def test_a_chain_is_drawn_from_the_input_down():
    at = places(parsed(chain(3)))
    order = sorted(at, key=at.__getitem__)
    assert order == ["box 0", "bond h0", "box 1", "bond h1", "box 2", "bond h2", "box 3"]
    assert {b - a for a, b in pairwise(sorted(at.values()))} == {ROW}


def test_a_bias_stands_beside_the_weight_that_writes_the_same_bond():
    split = [bond("a", ["w0"], ["w1"]), bond("b", ["w1", "shift"], ["w2"])]
    at = places(parsed(split))
    assert at["box shift"] == at["box w1"]


def test_cycles_end_in_dashed_lanes_and_not_in_a_hang():
    residual = [bond("stream", ["embed.w", "out.w"], ["in.w", "head.w"]), bond("hidden", ["in.w"], ["out.w"])]
    root = parsed(residual)
    assert len([path for path in root.iter("path") if path.get("class") == "long"]) == 1
    assert places(root)["bond stream"] < places(root)["bond hidden"]


def test_nodes_do_not_overlap_and_stay_inside():
    root = parsed([bond("stream", ["e.w"], [f"r{i}.w" for i in range(6)])])
    rows: dict[float, list[tuple[float, float]]] = {}
    width = float(root.get("width"))
    for rect in root.iter("rect"):
        x, wide = float(rect.get("x")), float(rect.get("width"))
        assert 0 <= x <= x + wide <= width
        assert float(rect.get("y")) + HEIGHT <= float(root.get("height"))
        rows.setdefault(float(rect.get("y")), []).append((x, x + wide))
    for row in rows.values():
        row.sort()
        assert all(left[1] < right[0] for left, right in pairwise(row))


def test_many_like_bonds_become_one_and_too_many_unlike_ones_are_counted():
    drawn, left = collapse(chain(LIMIT + 1, "layers.{}"))
    assert ([(one["name"], one["count"]) for one in drawn], left) == ([("hlayers.*", LIMIT + 1)], 0)
    unlike = [bond("x" * (i + 1), [], []) for i in range(LIMIT + 5)]
    drawn, left = collapse(unlike)
    assert (len(drawn), left) == (LIMIT, 5)
    assert "5 further bonds are in the table only" in draw(unlike).markup
    assert collapse(chain(LIMIT))[0][0]["name"] == "h0"


def test_wide_layers_collapse_too():
    wide = [bond("stream", ["e.w"], [f"h.{i}.w" for i in range(ABREAST + 3)])]
    assert "h.*" in draw(wide).markup


def test_names_are_escaped():
    root = parsed([bond(HOSTILE, [HOSTILE], [], group=HOSTILE)])
    assert not list(root.iter("script"))
    assert any(HOSTILE in (title.text or "") for title in root.iter("title"))


@pytest.mark.parametrize("count", [0, 1])
def test_labels_for_screen_readers(count):
    root = parsed(chain(count))
    assert root.get("role") == "img"
    assert re.match(rf"Bond graph: {count} bonds", root.get("aria-label") or "")

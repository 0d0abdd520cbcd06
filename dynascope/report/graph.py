"""The bond graph as inline SVG: writers, the bond they share, readers, from the input down to the output.

A small layered layout in the manner of Sugiyama: cycles are cut (a residual stream is written by those who
read it), layers are longest paths, the order in a layer is that of the neighbours' mean position.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from dynascope.report.markup import Safe, join, tag

LIMIT = 40
"""Bonds drawn before equal ones are collapsed, and bonds drawn at all."""
ABREAST = 8
"""Nodes side by side before equal bonds are collapsed."""
LETTER, ROW, HEIGHT, GAP, MARGIN, LANE, LANES = 6.6, 86, 46, 26, 14, 12, 8
"""Pixels: width of a letter, height of a layer and of a node, gap between neighbours, margin, distance of the
side lanes; and how many of these there are before they are shared."""


@dataclass(frozen=True)
class Drawing:
    """An inline SVG and its natural width in pixels."""

    markup: Safe
    width: float


@dataclass
class Node:
    """A bond (pill) or the parameters of one module around it (box)."""

    name: str
    lines: tuple[str, str]
    bond: bool
    title: str
    targets: list[str] = field(default_factory=list)
    layer: int = 0
    x: float = 0.0

    @property
    def width(self) -> float:
        """Width in pixels that fits the longer line."""
        return max(84.0, LETTER * max(len(self.lines[0]), len(self.lines[1])) + 28)

    @property
    def y(self) -> int:
        """Upper edge in pixels."""
        return self.layer * ROW + MARGIN


def collapse(bonds: Sequence[Mapping[str, Any]], limit: int = LIMIT) -> tuple[list[dict[str, Any]], int]:
    """Few enough bonds to read: those alike up to the numbers in their names become one, marked ``count``.

    Args:
        bonds: as in ``Anatomy.to_dict()["bonds"]``.
        limit: how many are drawn one by one.

    Returns:
        The bonds to draw, and how many are left out because even the collapsed ones are too many.

    Example:
        >>> layers = [{"name": f"h.{i}", "size": 4, "group": "GL"} for i in range(50)]
        >>> drawn, left = collapse(layers)
        >>> [(bond["name"], bond["count"]) for bond in drawn], left
        ([('h.*', 50)], 0)
    """
    if len(bonds) <= limit:
        return [{**bond, "count": 1} for bond in bonds], 0
    groups: dict[tuple[str, Any, Any], dict[str, Any]] = {}
    for bond in bonds:
        key = (_star(bond["name"]), bond.get("size"), bond.get("group"))
        kept = groups.setdefault(key, {**bond, "name": key[0], "count": 0, "writers": [], "readers": []})
        kept["count"] += 1
        for side in ("writers", "readers"):
            kept[side] = list(dict.fromkeys([*kept[side], *(_star(name) for name in bond.get(side, ()))]))
    merged = list(groups.values())
    return merged[:LIMIT], sum(bond["count"] for bond in merged[LIMIT:])


def draw(bonds: Sequence[Mapping[str, Any]]) -> Drawing:
    """The graph in its natural size; the table beside it says the same in words.

    More than `LIMIT` bonds, or more than `ABREAST` nodes side by side, are collapsed.

    Args:
        bonds: as in ``Anatomy.to_dict()["bonds"]``.

    Returns:
        Inline SVG and its width; colours come from the page's classes.
    """
    drawn, left = collapse(bonds)
    nodes, rows = _layout(drawn)
    if max(map(len, rows), default=0) > ABREAST:
        drawn, left = collapse(bonds, limit=0)
        nodes, rows = _layout(drawn)
    inner = max((sum(node.width for node in row) + GAP * (len(row) - 1) for row in rows), default=0.0)
    lanes = sum(nodes[target].layer - node.layer != 1 for node in nodes.values() for target in node.targets)
    width = inner + 2 * MARGIN + LANE * min(lanes, LANES)
    height = ROW * len(rows) + MARGIN
    for row in rows:
        _centre(row, inner)
    title = f"Bond graph: {len(bonds)} bonds"
    about = "Boxes are parameters, pills are bonds; arrows lead from writers to their bond and on to its readers."
    if left:
        about += f" {left} further bonds are in the table only."
    picture = tag(
        "svg",
        tag("title", title),
        tag("desc", about),
        tag("g", *_edges(nodes, inner), class_="edges"),
        *[_shape(node) for node in nodes.values()],
        class_="bondgraph",
        role="img",
        aria_label=f"{title}. {about}",
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        width=f"{width:.0f}",
        height=f"{height:.0f}",
    )
    return Drawing(picture, width)


def module_of(parameter: str) -> str:
    """Name of the module that owns a parameter; the parameter itself where it has no owner."""
    return parameter.rsplit(".", 1)[0] if "." in parameter else parameter


def _star(name: str) -> str:
    return re.sub(r"\d+", "*", str(name))


def _short(words: str, length: int = 34) -> str:
    return words if len(words) <= length else f"{words[: length // 2 - 1]}…{words[-(length // 2) :]}"


def _layout(bonds: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Node], list[list[Node]]]:
    nodes = _nodes(bonds)
    _layers(nodes)
    return nodes, _places(nodes)


def _nodes(bonds: Iterable[Mapping[str, Any]]) -> dict[str, Node]:
    """Bonds and, around them, one box for the parameters of a module that write the same bonds."""
    writes, reads = defaultdict(list), defaultdict(list)
    nodes: dict[str, Node] = {}
    for index, bond in enumerate(bonds):
        key = f"bond {index}"
        times = f" ×{bond['count']}" if bond["count"] > 1 else ""
        group = str(bond.get("group") or "no continuous group")
        nodes[key] = Node(
            key,
            (_short(str(bond["name"]) + times), _short(f"{bond.get('size', '?')} · {group}", 42)),
            bond=True,
            title=f"bond {bond['name']}{times}, size {bond.get('size', '?')}, {group}",
        )
        for parameter in bond.get("writers", ()):
            writes[parameter].append(key)
        for parameter in bond.get("readers", ()):
            reads[parameter].append(key)
    boxes: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
    for parameter in dict.fromkeys([*writes, *reads]):
        boxes[module_of(parameter), tuple(writes[parameter])].append(parameter)
    for (module, targets), parameters in boxes.items():
        key = f"box {parameters[0]}"
        leaves = ", ".join(sorted({name.rsplit(".", 1)[-1] for name in parameters}, reverse=True))
        nodes[key] = Node(key, (_short(module), _short(leaves)), bond=False, title=", ".join(parameters))
        nodes[key].targets = list(targets)
        for bond in dict.fromkeys(bond for parameter in parameters for bond in reads[parameter]):
            nodes[bond].targets.append(key)
    return nodes


def _layers(nodes: dict[str, Node]) -> None:
    """Longest-path layers over the edges that are left when a depth-first walk has cut the cycles."""
    forward: dict[str, list[str]] = {}
    state: dict[str, int] = {}
    finished: list[str] = []
    entered = {target for node in nodes.values() for target in node.targets}
    for root in [*(key for key in nodes if key not in entered), *nodes]:
        stack = [(root, iter(nodes[root].targets))] if root not in state else []
        if stack:
            state[root], forward[root] = 1, []
        while stack:
            key, rest = stack[-1]
            target = next(rest, None)
            if target is None:
                state[key] = 2
                finished.append(key)
                stack.pop()
            elif state.get(target) != 1:  # an edge into the open path would close a cycle
                forward[key].append(target)
                if target not in state:
                    state[target], forward[target] = 1, []
                    stack.append((target, iter(nodes[target].targets)))
    for key in reversed(finished):
        for target in forward[key]:
            nodes[target].layer = max(nodes[target].layer, nodes[key].layer + 1)
    for key in finished:  # sources (a bias, a norm's gain) stand next to the bond they write, not at the top
        if key not in entered and forward[key]:
            nodes[key].layer = min(nodes[target].layer for target in forward[key]) - 1


def _places(nodes: dict[str, Node]) -> list[list[Node]]:
    """Rows of nodes, each ordered by the mean place of the neighbours above it and then below it."""
    rows: dict[int, list[Node]] = defaultdict(list)
    for node in nodes.values():
        rows[node.layer].append(node)
    ordered = [rows[layer] for layer in sorted(rows)]
    for index, row in enumerate(ordered):
        for node in row:
            node.layer = index
    neighbours: dict[str, list[str]] = defaultdict(list)
    for node in nodes.values():
        for target in node.targets:
            neighbours[node.name].append(target)
            neighbours[target].append(node.name)
    for sweep in range(4):
        for row in ordered if sweep % 2 == 0 else reversed(ordered):
            place = {node.name: i - len(r) / 2 for r in ordered for i, node in enumerate(r)}

            def mean(node: Node, place: dict[str, float] = place) -> float:
                near = [place[name] for name in neighbours[node.name]]
                return sum(near) / len(near) if near else place[node.name]

            row.sort(key=mean)
    return ordered


def _centre(row: list[Node], inner: float) -> None:
    x = MARGIN + (inner - sum(node.width for node in row) - GAP * (len(row) - 1)) / 2
    for node in row:
        node.x = x + node.width / 2
        x += node.width + GAP


def _edges(nodes: dict[str, Node], inner: float) -> list[Safe]:
    """Neighbouring layers by a curve; longer or backward edges by a lane on the right."""
    paths, lanes = [], count()
    for node in nodes.values():
        for target in (nodes[name] for name in node.targets):
            near = target.layer - node.layer == 1
            way = _curve(node, target) if near else _detour(node, target, _lane(next(lanes), inner))
            paths.append(tag("path", d=way, class_=None if near else "long", marker_end="url(#tip)"))
    arrow = tag("path", d="M0 0 8 4 0 8z")
    size = {"refX": 6, "refY": 4, "markerWidth": 7, "markerHeight": 7}
    return [tag("defs", tag("marker", arrow, id="tip", viewBox="0 0 8 8", orient="auto", **size)), *paths]


def _lane(index: int, inner: float) -> float:
    return inner + MARGIN + LANE * (index % LANES + 0.6)


def _curve(node: Node, target: Node) -> str:
    """From the lower edge of one node to the upper edge of the next."""
    start, end = node.y + HEIGHT, target.y - 5
    middle = (start + end) / 2
    points = ((node.x, start), (node.x, middle), (target.x, middle), (target.x, end))
    return "M{} C{} {} {}".format(*(f"{x:.0f} {y:.0f}" for x, y in points))


def _detour(node: Node, target: Node, lane: float) -> str:
    """Out to a lane on the right, along it, and back in; the corners are rounded by 8 pixels."""
    start, end = node.y + HEIGHT / 2, target.y + HEIGHT / 2
    turn = 8 if end > start else -8
    return (
        f"M{node.x + node.width / 2:.0f} {start:.0f}H{lane - 8:.0f}"
        f"Q{lane:.0f} {start:.0f} {lane:.0f} {start + turn:.0f}V{end - turn:.0f}"
        f"Q{lane:.0f} {end:.0f} {lane - 8:.0f} {end:.0f}H{target.x + target.width / 2 + 5:.0f}"
    )


def _shape(node: Node) -> Safe:
    y = node.y
    box = tag(
        "rect",
        x=f"{node.x - node.width / 2:.0f}",
        y=y,
        width=f"{node.width:.0f}",
        height=HEIGHT,
        rx=23 if node.bond else 6,
    )
    first = tag("text", node.lines[0], x=f"{node.x:.0f}", y=y + 20, class_="name")
    second = tag("text", node.lines[1], x=f"{node.x:.0f}", y=y + 36, class_="small")
    return tag("g", tag("title", node.title), join(box, first, second), class_="bond" if node.bond else "box")

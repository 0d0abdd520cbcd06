"""Single figures as PNG: which there are, that each draws, and what is refused."""

import subprocess
import sys

import numpy as np
import pytest

from dynascope.base.errors import UnknownName, Unsupported
from dynascope.report import figure_names, png
from dynascope.runs import RunWriter, load

pytest.importorskip("matplotlib", reason="the extra 'plots' is not installed")


def test_names_are_those_with_data(run, content):
    names = figure_names(run)
    assert names[:3] == ["loss", "learning_rate", "leak"]
    assert names[3:] == [family.key for family in content.families]


@pytest.mark.parametrize("index", [0, 1, 2, 3, 9])
def test_every_kind_of_figure_is_a_png_with_ink(run, tmp_path, index):
    from matplotlib.image import imread

    target = png(run, figure_names(run)[index], tmp_path / "figure.png")
    pixels = imread(target)[..., :3]
    assert pixels.shape[:2] == (840, 1400)
    assert 0.005 < float((pixels.min(axis=-1) < 0.9).mean()) < 0.5
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]


def test_unknown_figures_and_missing_matplotlib_are_refused(run, tmp_path, monkeypatch):
    with pytest.raises(UnknownName, match="did you mean 'loss'"):
        png(run, "los", tmp_path / "x.png")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(Unsupported, match=r"dynascope\[plots\]"):
        png(run, "loss", tmp_path / "x.png")
    assert not list(tmp_path.iterdir())


def test_names_that_look_like_mathematics_are_drawn_as_they_are(tmp_path):
    writer = RunWriter.create(tmp_path / "r", {"name": "$\\frac{$"})
    writer.block("charges:$x_{$", np.arange(3), {"value": np.array([[1.0], [np.inf], [2.0]])})
    writer.finish("complete")
    png(load(tmp_path / "r"), "charges:$x_{$", tmp_path / "x.png")


def test_importing_the_room_loads_neither_torch_nor_matplotlib():
    code = "import sys, dynascope.report; sys.exit(bool({'torch', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

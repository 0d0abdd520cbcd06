"""Charts hold recorded numbers, and their readout tables name where each came from."""

from dataclasses import replace

import numpy as np

from dynascope.base.series import Series
from dynascope.report.charts import Charts, family_chart, leak_chart, leak_lines, scalar_lines
from tests.report.test_markup import Seen


def test_every_drawn_number_is_in_the_archive(run, content):
    charts = Charts(points=50)
    family_chart(charts, content.families[0])
    spec = charts.specs["chart0"]
    rows = [run.series(spec["source"], "value").steps.tolist().index(step) for step in spec["x"]]
    checked = 0
    for line in spec["lines"]:
        if line["neuron"] is not None:
            stored = run.series(*line["source"].rsplit("/", 1)).values[rows, line["neuron"]]
            np.testing.assert_allclose(line["y"], stored, rtol=5e-6)  # six significant digits
            checked += 1
    assert checked == 9  # three neurons: measured, law, naive


def test_readout_shows_the_last_step_with_its_source(content):
    seen = Seen(family_chart(Charts(points=50), content.families[0]))
    shown = [attributes for name, attributes in seen.elements if name == "data"]
    assert len(shown) == 12
    line = next(line for line in content.families[0].lines.lines if line.row == "largest")
    source = f"{content.families[0].key}/value[{line.neuron}]@599"
    (found,) = [attributes for attributes in shown if attributes["data-source"] == source]
    assert float(found["value"] or "nan") == float(f"{line.values[-1]:.6g}")


def test_readout_indices_point_at_their_lines(content):
    charts = Charts(points=50)
    seen = Seen(family_chart(charts, content.families[0]))
    lines = charts.specs["chart0"]["lines"]
    for attributes in (attributes for name, attributes in seen.elements if name == "data"):
        line = lines[int(attributes["data-line"] or -1)]
        assert f"/{line['col']}" in (attributes["data-source"] or "")


def test_columns_and_rows_are_switches_unless_alone(content, bare):
    def switches(markup: str) -> int:
        return [name for name, _ in Seen(markup).elements].count("button")

    assert switches(family_chart(Charts(50), content.families[0])) == 3 + 4
    assert switches(family_chart(Charts(50), bare.families[0])) == 4
    assert "No law is stored" in family_chart(Charts(50), bare.families[0])


def test_leak_lines_take_the_worst_family_at_every_step(content):
    steps = np.arange(3)
    first, second = Series(steps, [1.0, np.nan, 3.0], "a"), Series(np.array([0, 2, 4]), [2.0, 1.0, 5.0], "b")
    like = content.families[0]
    drawn = leak_lines([replace(like, leak=first), replace(like, leak=second), replace(like, leak=None)])
    assert drawn is not None
    assert drawn.steps.tolist() == [0, 1, 2, 4]
    np.testing.assert_array_equal(drawn.lines[0].values, [2.0, np.nan, 3.0, 5.0])
    assert first.values[0] == 1.0  # what was read is not written into
    assert leak_lines([]) is None


def test_leak_chart_is_logarithmic_and_absent_without_accounts(content, bare):
    charts = Charts(50)
    assert leak_chart(charts, bare) is None
    assert leak_chart(charts, content) is not None
    (spec,) = charts.specs.values()
    assert spec["log"]
    assert {line["row"] for line in spec["lines"]} == {"rescale", "scale", "translation"}


def test_scalars_with_different_steps_share_an_axis():
    scalars = {"a": Series(np.array([0, 2]), [1.0, 2.0], "a"), "b": Series(np.array([1, 2]), [3.0, 4.0], "b")}
    drawn = scalar_lines(scalars, ["a", "b", "c"])
    assert drawn is not None
    assert drawn.steps.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(drawn.lines[1].values, [np.nan, 3.0, 4.0])
    assert scalar_lines(scalars, ["c"]) is None

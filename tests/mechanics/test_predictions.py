import numpy as np
import pytest

from dynascope.base.errors import UnknownName
from dynascope.mechanics.predictions import LAWS, prediction


@pytest.mark.parametrize("law", sorted(LAWS))
def test_a_prediction_says_what_its_law_assumes_and_was_fed(law):
    values = np.arange(6.0).reshape(3, 2)
    made = prediction(law, values, steps=[0, 10, 20], quantity="rescale/0-2", inputs=["value at step 0"], unit="1")
    assert made.kind == ("account" if law == "account" else "law")
    assert made.inputs == ("value at step 0",)
    assert made.assumptions == LAWS[law].assumptions
    assert "2012.04728" in made.source
    assert made.series.name == "rescale/0-2"
    assert made.series.unit == "1"
    np.testing.assert_array_equal(made.series.steps, [0, 10, 20])
    np.testing.assert_array_equal(made.series.values, values)


def test_an_unknown_law_is_named():
    with pytest.raises(UnknownName, match="naive"):
        prediction("naiv", np.zeros(1), steps=[0], quantity="q", inputs=[])

"""The result reads well and says everything."""

import json

import pytest
import torch
from torch import nn

from dynascope.base.errors import Unsupported
from dynascope.symmetry.anatomy import Anatomy
from dynascope.symmetry.find import inspect_model


@pytest.fixture(scope="module")
def anatomy() -> Anatomy:
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)).train()
    return inspect_model(model, torch.randn(8, 4), output="softmax")


def test_it_prints_counts_words_and_marks(anatomy: Anatomy) -> None:
    text = str(anatomy)
    assert f"{anatomy.dimension} independent continuous symmetries" in text
    assert "~ scale of 5 channels" in text
    assert "positive diagonal x permutations" in text
    assert max(map(len, text.splitlines())) < 160


def test_html_is_escaped(anatomy: Anatomy) -> None:
    hostile = Anatomy("<script>alert(1)</script>", 1, "train", "identity", anatomy.symmetries, notes=("<b>",))
    page = hostile._repr_html_()
    assert "<script>" not in page
    assert "<b>" not in page


def test_charges_are_evaluated_by_name(anatomy: Anatomy) -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))
    values = anatomy.charges(dict(model.named_parameters()))
    assert set(values) == {c.name for c in anatomy.charge_families}
    w, b = model[0].weight, model[0].bias
    torch.testing.assert_close(values["scale/0.weight"], w.square().sum(1) + b.square())


def test_it_can_be_written_as_json(anatomy: Anatomy) -> None:
    document = json.loads(json.dumps(anatomy.to_dict()))
    assert document["dimension"] == anatomy.dimension
    assert document["unexplained"] is None or isinstance(document["unexplained"], int)
    assert {s["kind"] for s in document["symmetries"]} >= {"scale", "rescale", "translation"}


def test_the_census_is_taken_once_and_then_shown(anatomy: Anatomy) -> None:
    fresh = anatomy.only("scale", "rescale", "translation")
    assert fresh.unexplained is None
    assert fresh.census() is fresh.census()
    assert fresh.unexplained == 0
    assert "census: nullity" in str(fresh)


def test_what_is_left_out_is_unexplained(anatomy: Anatomy) -> None:
    """The control: without one kind of symmetry the census must miss exactly these."""
    lost = sum(s.dimension for s in anatomy.symmetries if s.kind == "rescale")
    assert lost > 0
    assert anatomy.only("scale", "translation").census().unexplained == lost


def test_an_anatomy_without_a_function_has_no_census() -> None:
    with pytest.raises(Unsupported, match="inspect the model again"):
        Anatomy("m", 1, "train", "identity", ()).census()

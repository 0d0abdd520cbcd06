"""Symmetries and bonds as tables; what is missing is said."""

from dataclasses import replace

from dynascope.report.anatomy import NAMES, symmetries
from tests.report.builder import anatomy
from tests.report.conftest import HOSTILE
from tests.report.test_markup import Seen


def with_anatomy(content, **changes):
    return replace(content, meta={**content.meta, "anatomy": {**anatomy(), **changes}})


def test_every_symmetry_has_its_row_and_links_to_its_charge(content):
    seen = Seen(symmetries(content))
    for stored in content.meta["anatomy"]["symmetries"]:
        assert stored["words"] in seen.text
    links = {attributes["href"] for name, attributes in seen.elements if name == "a"}
    assert links == {f"#family-{i}" for i in range(7)}
    assert "5 exact, 2 up to a normalisation's epsilon" in seen.text


def test_violation_and_residual_name_their_entry(content):
    seen = Seen(symmetries(content))
    values = {
        attributes.get("data-source"): attributes["value"] for name, attributes in seen.elements if name == "data"
    }
    assert values["run.json#/anatomy/symmetries/2/violation"] == repr(4.5e-6)
    assert values["run.json#/anatomy/symmetries/0/violation"] == ""


def test_unrecorded_and_absent_charges(content):
    stored = anatomy()["symmetries"][:2]
    stored[0]["charge"], stored[1]["charge"] = "elsewhere", None
    text = Seen(symmetries(with_anatomy(content, symmetries=stored))).text
    assert "not recorded" in text
    assert "none" in text


def test_no_anatomy_and_no_symmetry_are_different_statements(content):
    assert "No anatomy is stored" in symmetries(replace(content, meta={}))
    assert "no continuous symmetry" in symmetries(with_anatomy(content, symmetries=[], bonds=[]))


def test_long_lists_of_parameters_are_counted(content):
    writers = [f"layer{i}.w" for i in range(NAMES + 4)]
    bonds = [{"name": "b", "size": 1, "group": None, "through": [], "writers": writers, "readers": []}]
    seen = Seen(symmetries(with_anatomy(content, bonds=bonds)))
    assert "and 4 more" in seen.text
    assert "no continuous group" in seen.text


def test_hostile_names(hostile):
    seen = Seen(symmetries(hostile))
    assert "script" not in [name for name, _ in seen.elements]
    assert HOSTILE in seen.text

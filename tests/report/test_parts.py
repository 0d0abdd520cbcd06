"""Shared pieces: folded tables, labels, flattened settings."""

from dynascope.report.content import Judgement
from dynascope.report.parts import MANY, absent, facts, flat, folded, pill, section, verdict_pill
from tests.report.test_markup import Seen


def test_long_tables_fold_and_lose_no_row():
    parts = folded("t", ["a"], [[f"row {i}"] for i in range(MANY + 3)])
    assert len(parts) == 2
    seen = Seen("".join(parts))
    assert "Show 3 more" in seen.text
    assert all(f"row {i}" in seen.text for i in range(MANY + 3))
    assert len(folded("t", ["a"], [["x"]] * MANY)) == 1


def test_section_is_labelled_by_its_title():
    (name, attributes), (title, of_title), *_ = Seen(section("a", "Title", None)).elements
    assert (name, title, attributes["aria-labelledby"]) == ("section", "h2", of_title["id"])
    assert "nothing" in absent("nothing")


def test_verdict_words_do_not_rest_on_colour():
    def words(verdict: str, error: float, *, exact: bool = True) -> str:
        return Seen(verdict_pill(Judgement("account", error, 1.0, verdict, False, "", ""), exact=exact)).text

    assert words("supported", 0.0) == "balances"
    assert words("refuted", 0.0) == "does not balance"
    assert words("inconclusive", 2.0) == "does not balance"
    assert words("supported", 0.0, exact=False) == "balances (epsilon)"
    assert Seen(verdict_pill(None, exact=True)).text == "not judged"
    assert 'class="pill bad"' in pill("x", "bad")


def test_nested_settings_become_one_level():
    groups = [{"momentum": 0.9}, {"momentum": 0.0}]
    assert flat({"a": {"b": 1}, "groups": groups, "long": list(range(9))}) == {
        "a.b": 1,
        "groups 0.momentum": 0.9,
        "groups 1.momentum": 0.0,
        "long": "9 entries",
    }
    assert flat(None) == {}


def test_facts_leave_out_what_is_empty():
    assert facts("t", {"a": None, "b": ""}, "run.json") is None
    seen = Seen(facts("t", {"count": 26122, "on": True, "rate": 0.05}, "run.json#/x") or "")
    assert "26\u202f122" in seen.text
    assert "yes" in seen.text
    names = Seen(facts("t", {"a.lr": 1, "b.lr": 2, "a.momentum": 3}, "run.json#/x") or "").text
    assert names == "ta.lr1b.lr2momentum3"
    assert {attributes["data-source"] for name, attributes in seen.elements if name == "data"} == {"run.json#/x"}

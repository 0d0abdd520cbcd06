"""Every family has its row and its card; too many cards leave the worst ones."""

from dataclasses import replace

from dynascope.report.charges import DRAWN_FAMILIES, charges
from dynascope.report.charts import Charts
from dynascope.report.content import Judgement
from tests.report.test_markup import Seen


def test_rows_and_cards(content):
    charts = Charts(40)
    seen = Seen(charges(content, charts))
    cards = [attributes["id"] for name, attributes in seen.elements if name == "article"]
    assert sorted(cards) == [f"family-{i}" for i in range(7)]
    assert len(charts.specs) == 8  # seven families and the leak
    assert seen.text.count("balances") == 7


def test_errors_are_those_of_run_json(content):
    seen = Seen(charges(content, Charts(40)))
    shown = {attributes.get("data-source"): attributes["value"] for name, attributes in seen.elements if name == "data"}
    for index, stored in enumerate(content.meta["verdicts"]):
        assert float(shown[f"run.json#/verdicts/{index}/error"] or "nan") == stored["error"]


def test_without_verdicts_the_recorded_leak_is_shown(content):
    family = replace(content.families[0], judgements={})
    seen = Seen(charges(replace(content, families=(family,)), Charts(40)))
    (leak,) = [a["value"] for n, a in seen.elements if n == "data" and (a["data-source"] or "").endswith("account@max")]
    assert float(leak or "nan") == family.leak.values.max()
    assert "not judged" in seen.text


def test_missing_predictions_and_charges_are_said(content, bare):
    assert "No account is stored" in charges(bare, Charts(40))
    assert "No charge was recorded" in charges(replace(content, families=()), Charts(40))


def test_of_too_many_families_the_worst_are_drawn(content):
    like = content.families[0]
    fine = [replace(like, key=f"charges:f{i}") for i in range(DRAWN_FAMILIES)]
    bad = replace(
        like,
        key="charges:bad",
        judgements={"account": Judgement("account", 1.0, 0.1, "leaks", False, "so", "")},
    )
    seen = Seen(charges(replace(content, families=(*fine, bad)), Charts(8)))
    assert "1 further families are in the table only" in seen.text
    assert f"family-{DRAWN_FAMILIES}" in [
        attributes.get("id") for name, attributes in seen.elements if name == "article"
    ]


def test_a_failed_account_says_so_on_its_card(broken):
    text = Seen(charges(broken, Charts(40))).text
    assert "does not balance" in text
    assert "Account: leaks 2.0e-02." in text


def test_a_family_without_a_law_says_why(content):
    why = replace(content.families[0], without_law="the optimiser is Adam")
    assert "No law applies: the optimiser is Adam." in charges(replace(content, families=(why,)), Charts(40))

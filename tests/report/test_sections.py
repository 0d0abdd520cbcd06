"""The sections around symmetries and charges, full and empty."""

from dataclasses import replace

import numpy as np

from dynascope.base.series import Series
from dynascope.report import sections
from dynascope.report.charts import Charts
from dynascope.report.content import Content
from tests.report.test_markup import Seen


def empty(content: Content) -> Content:
    return replace(content, meta={}, scalars={}, families=(), others=())


def test_verdict_comes_first_and_its_numbers_are_stored(content):
    seen = Seen(sections.verdict(content))
    assert [name for name, _ in seen.elements if name.startswith("h")] == ["h1"]
    assert "Every account balances." in seen.text
    shown = {attributes.get("data-source"): attributes["value"] for name, attributes in seen.elements if name == "data"}
    assert float(shown["scalars/loss@0"] or "nan") == content.scalars["loss"].values[0]
    worst = max(entry["error"] for entry in content.meta["verdicts"] if entry["kind"] == "account")
    assert repr(worst) in shown.values()


def test_non_finite_loss_leads(content):
    broken = replace(content, scalars={"loss": Series(np.arange(2), [1.0, np.nan], "loss")}, status="failed")
    text = Seen(sections.verdict(broken)).text
    assert "The loss is not a number at step 1" in text
    assert "The run failed" in sections.standing_out(broken)


def test_links_lead_to_sections_that_exist(content):
    charts = Charts(40)
    parts = [
        sections.standing_out(content),
        sections.model(content),
        sections.training(content, charts),
        sections.norms(content),
    ]
    ids = {attributes["id"] for name, attributes in Seen("".join(parts)).elements if name == "section"}
    assert ids == set(sections.LINKS) - {"symmetries", "charges"}
    assert all(f'href="#{name}"' in sections.bar(content) for name in sections.LINKS)


def test_model_shows_settings(content):
    text = Seen(sections.model(content)).text
    for word in ("VGG", "26\u202f122", "momentum", "weight decay", "seed of data"):
        assert word in text


def test_training_draws_loss_and_rate_and_lists_the_rest(content):
    charts = Charts(40)
    seen = Seen(sections.training(content, charts))
    assert [spec["ylabel"] for spec in charts.specs.values()] == ["loss", "learning rate"]
    sources = [attributes["data-source"] for name, attributes in seen.elements if name == "data"]
    assert "scalars/step_seconds@median" in sources


def test_a_constant_learning_rate_is_called_constant(content):
    rate = Series(np.arange(5), np.full(5, 0.1), "learning_rate")
    assert "Constant over the whole run" in sections.training(
        replace(content, scalars={"learning_rate": rate}), Charts(40)
    )


def test_other_families_are_listed(content):
    others = (("kernel", {"kind": "matrix", "size": 3, "columns": {"drift": {}}}),)
    assert "drift" in Seen(sections.training(replace(content, others=others), Charts(40))).text


def test_an_empty_run_says_what_is_missing(content):
    nothing = empty(content)
    assert "No charge was recorded." in sections.verdict(nothing)
    assert "does not describe its model" in sections.model(nothing)
    assert "No scalar was recorded" in sections.training(nothing, Charts(40))
    assert "No equilibrium is stored" in sections.norms(nothing)
    assert "No versions are stored" in sections.footer(nothing, "0")


def test_footer_has_citation_versions_and_the_data(content):
    seen = Seen(sections.footer(content, "9.9"))
    assert "dynascope 9.9" in seen.text
    assert "torch 2.13.0" in seen.text
    assert "download" in [attributes.get("id") for name, attributes in seen.elements if name == "button"]

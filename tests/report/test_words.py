"""Sentences say what the series hold, and are silent where there is nothing to say."""

import numpy as np
import pytest

from dynascope.base.series import Series
from dynascope.report.content import Family, Judgement
from dynascope.report.lines import Line, Lines
from dynascope.report.words import (
    PUSH,
    accounts,
    broken_since,
    findings,
    headline,
    laws,
    loss,
    non_finite,
    notes,
    pushed,
    sampled,
    status,
    unknown_operations,
)

STEPS = np.arange(5)


def series(*values: float) -> Series:
    return Series(np.arange(len(values)), np.array(values), "x")


def family(
    steps: np.ndarray = STEPS, *, exact: bool = True, push: float = 0.0, leak: float = 0.0, **errors: float
) -> Family:
    tolerances = {"account": 1e-4, "law": 0.05, "naive": None}
    judged = {
        kind: Judgement(kind, error, tolerances[kind], "inconclusive", False, "", f"run.json#/verdicts/{kind}")
        for kind, error in errors.items()
    }
    lines = Lines(steps, (Line("single", "value", 0, np.ones(len(steps))),))
    leaks = np.where(np.arange(len(steps)) >= 3, leak, 0.0)
    pushes = Series(steps, np.full(len(steps), push), "push")
    return Family(
        key="charges:f",
        kind="scale",
        words="w",
        degree=2,
        size=4,
        exact=exact,
        sampled=bool((np.diff(steps) > 1).any()),
        lines=lines,
        leak=Series(steps, leaks, "leak"),
        leak_source="predicted:f/account",
        push=pushes,
        judgements=judged,
    )


def test_non_finite_loss_names_its_first_step():
    (said,) = non_finite({"loss": series(1.0, 2.0, np.nan, 1.0, np.inf)})
    assert said.level == "warning"
    assert said.text == "The loss is not a number at step 2 (2 of 5 recorded values are not finite)."
    assert non_finite({"loss": series(1.0, 2.0)}) == []


def test_loss_falls_rises_or_is_not_spoken_of():
    assert loss(series(2.0, 1.0))[0].text == "The loss falls from 2 at step 0 to 1 at step 1."
    assert loss(series(1.0, 2.0))[0].level == "warning"
    assert loss(series(1.0, np.nan)) == loss(series(1.0)) == loss(None) == []


def test_accounts_good_and_bad():
    (good,) = accounts([family(account=1e-7), family(account=1e-9)])
    assert (good.level, "2 accounts balance (8 charges in all)" in good.text) == ("good", True)
    assert "the largest leak is 1 × 10⁻⁷ of the scale (1 × 10⁻⁴ is allowed)" in good.text
    (bad,) = accounts([family(account=0.01)])
    assert (bad.level, "does not balance" in bad.text) == ("warning", True)
    assert accounts([family()]) == []


def test_broken_since_names_the_first_step_over_the_tolerance():
    (said,) = broken_since([family(leak=0.01, account=0.01)])
    assert said.text == "The account of f leaks since step 3: 0.01 of the scale there."
    assert broken_since([family(leak=1e-9, account=1e-9)]) == []


@pytest.mark.parametrize(("share", "count"), [(1.1, 1), (0.9, 0)])
def test_an_exact_charge_pushed_by_its_gradient_is_a_warning(share, count):
    # degree 2 * learning_rate 0.1 * push, over five steps
    push = share * PUSH / (2 * 0.1 * 5)
    said = pushed([family(push=push)], Series(STEPS, np.full(5, 0.1), "learning_rate"))
    assert [finding.level for finding in said] == ["warning"] * count


@pytest.mark.parametrize(("leak", "count"), [(1e-7, 0), (0.01, 1)])
def test_a_push_is_no_warning_where_the_account_balances_without_it(leak, count):
    rate = Series(STEPS, np.full(5, 0.1), "learning_rate")
    assert len(pushed([family(push=1.0, account=leak)], rate)) == count


def test_epsilon_is_information_and_needs_the_learning_rate():
    rate = Series(STEPS, np.full(5, 0.1), "learning_rate")
    (said,) = pushed([family(exact=False, push=1.0)], rate)
    assert (said.level, "1 family holds only up to" in said.text, "by up to 1 of" in said.text) == (
        "info",
        True,
        True,
    )
    assert pushed([family(push=1.0)], None) == []


def test_laws_compare_with_the_naive_law():
    (said,) = laws([family(law=0.01, naive=0.2)])
    assert said.text.endswith("a factor of 20 (f).")
    assert laws([family(law=0.2, naive=0.01)])[0].level == "warning"
    assert laws([family(law=0.2)]) == []


def test_sampled_record():
    (said,) = sampled([family(np.array([0, 10, 20]))])
    assert "about every 10 steps" in said.text
    assert sampled([family()]) == []


def test_status_operations_and_notes():
    assert status("complete", 5) == []
    assert status("failed", None)[0].text == "The run failed; this page shows what was written until then."
    assert "aten.foo" in unknown_operations(["aten.foo"])[0].text
    (note,) = notes([{"step": 3, "level": "warning", "text": "off"}])
    assert (note.level, note.text, note.source) == ("warning", "Step 3: off", "run.json#/notes/0")


def test_headline_of_whole_runs(content, bare, broken):
    assert headline(content) == ("Every account balances.", "good")
    assert headline(broken) == ("1 of 7 accounts does not balance.", "bad")
    assert headline(bare) == ("Charges recorded, not yet judged.", "open")


def test_findings_put_warnings_first_and_name_what_is_missing(bare, broken):
    levels = [finding.level for finding in findings(broken)]
    assert levels == sorted(levels, key=["warning", "good", "info"].index)
    assert "leaks since step 50" in " ".join(finding.text for finding in findings(broken))
    assert "Not in this run: predictions." in [finding.text for finding in findings(bare)]

"""Copy this file to add a study: the new file's name is the study's public name, and nothing else needs editing.

A study states claims (each with a control that ought to fail and a reason for its tolerance), lists the runs it needs,
and says which prediction to compare with which recorded series. Formulas live in ``mechanics`` or ``exact``, error
metrics in ``base.claims``, reductions in ``base.series``: a study imports neither torch nor numpy.
"""

from collections.abc import Iterator, Mapping

from dynascope.base.cards import StudyCard
from dynascope.base.claims import Claim, Comparison, compare, relative_to_start
from dynascope.base.settings import SGDSettings
from dynascope.mechanics import family_laws
from dynascope.mechanics.family_laws import FamilyRecord
from dynascope.runs import Run
from dynascope.studies import STUDIES, Scale, Study
from dynascope.training.specs import RunSpec

CONSERVED = Claim(
    id="conserved",
    statement="without weight decay the column sums of a softmax classifier do not move",
    tolerance=1e-12,
    reason="float64 rounding, 1e-16 a step",
    control="the decay by a weight decay of 0.01",
    factor=10.0,
)
STEPS: Mapping[Scale, int] = {"quick": 20, "default": 200, "full": 2000}


@STUDIES.register(
    StudyCard(
        name="skeleton",
        title="Title of the paper",
        paper="0000.00000",
        authors="A. Author",
        venue="Venue",
        year=2026,
        summary="The claims under test, in one or two sentences.",
    )
)
def skeleton(scale: Scale) -> Study:
    """The study at one scale.

    Args:
        scale: quick, default or full.

    Returns:
        Claims, runs and how to judge them.
    """
    spec = RunSpec(
        "digits-mlp",
        SGDSettings(0.1),
        steps=STEPS[scale],
        batch_size=64,
        seed=0,
        task_settings={"precision": "float64"},
        observation={"charges": "all"},
    )
    return Study(claims=(CONSERVED,), runs={"plain": spec}, evaluate=_judge)


def _judge(runs: Mapping[str, Run]) -> Iterator[Comparison]:
    record = FamilyRecord(runs["plain"].series("charges:translation/2.weight", "value"), SGDSettings(0.1))
    law, control = (
        family_laws.law(record),
        family_laws.naive(record, optimizer=SGDSettings(0.1, weight_decay=0.01)),
    )
    yield compare(CONSERVED, law, record.value, control, metric=relative_to_start)

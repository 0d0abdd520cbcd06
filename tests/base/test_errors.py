import pickle

import pytest

from dynascope.base.errors import (
    AlreadyObserved,
    DamagedRun,
    DynascopeError,
    NotASymmetry,
    UnknownName,
    Unsupported,
)

ERRORS = [
    (
        UnknownName("probe", "chrages", ["kernel", "charges"]),
        "no probe is called 'chrages'; did you mean 'charges'?",
    ),
    (UnknownName("probe", "zzz", ["kernel", "charges"]), "no probe is called 'zzz'. Known: charges, kernel"),
    (UnknownName("probe", "zzz", []), "Known: none"),
    (
        Unsupported("the product", "it is random", "fix it"),
        "the product is not supported: it is random. Instead: fix it",
    ),
    (DamagedRun("runs/a/run.json", "not JSON"), "runs/a/run.json cannot be read as part of a run: not JSON"),
    (
        NotASymmetry("rescale", 0.25, 1e-9),
        "rescale is not a symmetry: acting with it changes the output by 0.25",
    ),
    (AlreadyObserved("SGD is being observed"), "SGD is being observed"),
]


@pytest.mark.parametrize(("error", "message"), ERRORS)
def test_message_says_what_was_given_and_what_to_do(error: DynascopeError, message: str) -> None:
    assert message in str(error)
    assert isinstance(error, DynascopeError)


@pytest.mark.parametrize("error", [error for error, _ in ERRORS])
def test_errors_survive_the_way_back_from_a_worker_process(error: DynascopeError) -> None:
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


def test_unknown_name_is_a_lookup_error() -> None:
    assert isinstance(ERRORS[0][0], LookupError)

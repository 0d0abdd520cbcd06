"""Run specs and their names."""

import pickle
from dataclasses import replace

import pytest

from dynascope import tasks
from dynascope.base.settings import SGDSettings
from dynascope.training.loop import fit, sgd
from dynascope.training.specs import RunSpec

SPEC = RunSpec("digits-mlp", SGDSettings(0.1), steps=3, batch_size=8, seed=0, task_settings={"hidden": (4,)})


def test_every_field_changes_the_name():
    changes = [
        {"task": "digits-vgg"},
        {"optimizer": SGDSettings(0.1, momentum=0.5)},
        {"steps": 4},
        {"batch_size": None},
        {"seed": 1},
        {"replacement": True},
        {"clip": 1.0},
        {"task_settings": {"hidden": (5,)}},
        {"observation": {"every": 10}},
    ]
    names = {SPEC.name, *(replace(SPEC, **change).name for change in changes)}
    assert len(names) == 1 + len(changes)
    assert len(changes) == len(SPEC.__dataclass_fields__)


def test_the_name_is_stable():
    # a literal: a change here orphans every finished run of every user
    assert SPEC.name == "digits-mlp-cea0aece7c83"
    assert pickle.loads(pickle.dumps(SPEC)) == SPEC  # noqa: S301 (our own bytes)
    assert replace(SPEC, task="digits_mlp", task_settings={"hidden": [4]}).name == SPEC.name


def test_a_spec_keeps_its_own_settings():
    settings = {"hidden": (4,)}
    spec = replace(SPEC, task_settings=settings)
    name = spec.name
    settings["hidden"] = (9,)
    assert spec.name == name


def test_what_has_no_stable_name_is_refused():
    with pytest.raises(TypeError, match="stable name"):
        replace(SPEC, task_settings={"activation": object()})
    with pytest.raises(ValueError, match="steps=-1"):
        replace(SPEC, steps=-1)


def test_a_spec_drives_the_loop():
    assert SPEC.loop == {"steps": 3, "batch_size": 8, "seed": 0, "replacement": False, "clip": None}
    task = tasks.get(SPEC.task, **SPEC.task_settings)
    assert len(fit(task, optimizer=sgd(SPEC.optimizer), **SPEC.loop).losses) == 3

"""A plausible run folder without training: charges of a small convolution-BatchNorm net, made from a seed."""

from pathlib import Path
from typing import Any, Literal

import numpy as np

from dynascope.runs import Run, RunWriter, load

RATE, MOMENTUM, DECAY, TOLERANCE = 0.05, 0.9, 5e-3, 1e-4
FamilyPlan = tuple[str, str, str, str, int, bool]
"""Name, kind, words, group, size, exact."""


def meta(name: str = "vgg-fashion") -> dict[str, Any]:
    """Everything of run.json but the families."""
    return {
        "name": name,
        "model": {"class": "VGG", "dtype": "float32", "device": "cpu"},
        "optimizer": {
            "class": "SGD",
            "groups": [{"learning_rate": RATE, "momentum": MOMENTUM, "weight_decay": DECAY}],
        },
        "settings": {"batch_size": 64, "every": 1, "task": "fashion_mnist"},
        "seeds": {"model": 0, "data": 1},
        "versions": {"dynascope": "0.1.0", "torch": "2.13.0", "numpy": "2.4.6", "python": "3.11.7"},
        "anatomy": anatomy(),
    }


def symmetry(name: str, kind: str, words: str, group: str, size: int, *, exact: bool = True) -> dict[str, Any]:
    return {
        "name": name,
        "words": words,
        "kind": kind,
        "group": group,
        "dimension": size,
        "size": size,
        "exact": exact,
        "residual": 2.1e-15 if exact else 7.3e-16,
        "violation": None if exact else 4.5e-6,
        "modes": ["train", "eval"] if kind == "rescale" else ["train"],
        "charge": name,
        "legs": [{"parameter": "features.0.weight", "coefficient": 1, "shape": [16, 1, 3, 3]}],
        "bond": "features.2",
    }


FAMILIES: list[FamilyPlan] = [
    (
        "rescale/features.5.weight-classifier.0.weight",
        "rescale",
        "gains of features.5 against the columns of classifier.0",
        "R₊ⁿ",
        32,
        True,
    ),
    (
        "rescale/classifier.0.weight-classifier.2.weight",
        "rescale",
        "hidden neurons between classifier.0 and classifier.2",
        "R₊ⁿ",
        24,
        True,
    ),
    (
        "scale/features.0.weight",
        "scale",
        "filters of features.0 before BatchNorm features.1",
        "R₊ⁿ",
        16,
        False,
    ),
    (
        "scale/features.4.weight",
        "scale",
        "filters of features.4 before BatchNorm features.5",
        "R₊ⁿ",
        32,
        False,
    ),
    (
        "translation/features.0.bias",
        "translation",
        "biases of features.0 before BatchNorm features.1",
        "Rⁿ",
        16,
        True,
    ),
    (
        "translation/classifier.2.weight",
        "translation",
        "common shift of the logits, softmax cross-entropy",
        "R",
        25,
        True,
    ),
    ("translation/classifier.2.bias", "translation", "common shift of the output bias", "R", 1, True),
]


def anatomy() -> dict[str, Any]:
    bond = lambda name, size, group, through, writers, readers: {  # noqa: E731
        "name": name,
        "size": size,
        "group": group,
        "through": through,
        "writers": writers,
        "readers": readers,
    }
    return {
        "model": "VGG",
        "parameters": 26122,
        "mode": "train",
        "output": "softmax",
        "dimension": sum(f[4] for f in FAMILIES),
        "unknown_ops": [],
        "notes": [],
        "symmetries": [
            symmetry(name, kind, words, group, size, exact=exact) for name, kind, words, group, size, exact in FAMILIES
        ],
        "bonds": [
            bond(
                "features.0",
                16,
                "scale × translation",
                ["batch_norm"],
                ["features.0.weight", "features.0.bias"],
                ["features.1.weight"],
            ),
            bond(
                "features.1",
                16,
                "R₊¹⁶ × S₁₆",
                ["relu", "max_pool2d"],
                ["features.1.weight", "features.1.bias"],
                ["features.4.weight"],
            ),
            bond(
                "features.4",
                32,
                "scale × translation",
                ["batch_norm"],
                ["features.4.weight", "features.4.bias"],
                ["features.5.weight"],
            ),
            bond(
                "features.5",
                32,
                "R₊³² × S₃₂",
                ["relu", "max_pool2d", "flatten"],
                ["features.5.weight", "features.5.bias"],
                ["classifier.0.weight"],
            ),
            bond(
                "classifier.0",
                24,
                "R₊²⁴ × S₂₄",
                ["relu"],
                ["classifier.0.weight", "classifier.0.bias"],
                ["classifier.2.weight"],
            ),
            bond("logits", 10, "translation", ["softmax"], ["classifier.2.weight", "classifier.2.bias"], []),
        ],
    }


def charge_columns(
    rng: np.random.Generator, steps: np.ndarray, kind: str, size: int, *, exact: bool
) -> dict[str, np.ndarray]:
    """Columns that look like those of a charge: growth against decay, a good account, a naive law that drifts."""
    time = steps[:, None] * RATE / (1 - MOMENTUM)
    start = np.exp(rng.normal(0.3, 0.5, size))
    growth = rng.gamma(3.0, 0.012, size) if kind != "translation" else np.zeros(size)
    start = start if kind != "translation" else rng.normal(0, 0.6, size)
    rate = 2 * DECAY if kind != "translation" else DECAY
    law = start * np.exp(-rate * time) + growth / rate * (1 - np.exp(-rate * time)) * (0.6 + 0.8 * np.exp(-time / 60))
    drift = growth if kind != "translation" else np.full(size, 1e-4)
    value = law + 0.004 * np.cumsum(rng.normal(size=law.shape), axis=0) * drift
    scale = np.abs(value) * 2 + 0.5
    return {
        "value": value,
        "scale": scale,
        "gradient": rng.normal(size=law.shape) * (1e-8 if exact else 1e-5),
        "account": value + scale * 3e-8 * rng.normal(size=law.shape) * np.sqrt(1 + steps[:, None] / 40),
        "law": law,
        "naive": start * np.exp(-rate * time),
    }


def build(
    folder: Path,
    *,
    steps: int = 600,
    every: int = 1,
    predicted: bool = True,
    broken: bool = False,
    hostile: str = "",
    status: Literal["complete", "interrupted", "failed"] = "complete",
    families: list[FamilyPlan] | None = None,
    nan_at: int | None = None,
) -> Run:
    """Write a run with `RunWriter` and open it again.

    With ``broken`` the second family's account leaks from the middle on; ``hostile`` becomes the name of nearly
    everything that has one; from ``nan_at`` on the loss is not a number.
    """
    rng = np.random.default_rng(0)
    plans = list(FAMILIES if families is None else families)
    about = meta(hostile or "vgg-fashion")
    if hostile:
        plans[0] = (hostile, hostile, hostile, hostile, 5, True)
        about["anatomy"]["model"] = hostile
        about["anatomy"]["symmetries"][0] |= {"words": hostile, "name": hostile}
        about["anatomy"]["bonds"][0] |= {"name": hostile, "group": hostile, "writers": [hostile]}
    about["families"] = {f"charges:{plan[0]}": family_meta(plan) for plan in plans}
    writer = RunWriter.create(folder, about)
    at = np.arange(0, steps, every)
    write_scalars(writer, rng, at, nan_at)
    verdicts = []
    for index, plan in enumerate(plans):
        columns = charge_columns(rng, np.append(at, at[-1] + 1), plan[1], plan[4], exact=plan[5])
        if broken and index == 1:
            columns["account"][len(at) // 2 :] += 0.02 * columns["scale"][len(at) // 2 :]
        measured = {key: columns[key][:-1] for key in ("value", "scale", "gradient")}
        writer.block(f"charges:{plan[0]}", at, {**measured, "after": columns["value"][1:]})
        if predicted and every == 1:
            laws = {key: columns[key] for key in ("account", "law", "naive")}
            writer.block(f"predicted:{plan[0]}", np.append(at, at[-1] + 1), laws)
        elif predicted:  # single steps: what each charge is after its step
            writer.block(f"predicted:{plan[0]}", at, {"account": columns["account"][1:]})
        verdicts += judged(f"charges:{plan[0]}", columns, sampled=every > 1)
    if predicted:
        writer.update(verdicts=verdicts, equilibrium=[equilibrium(rng)])
    writer.note(120, "info", "learning rate warm-up ended")
    writer.finish(status)
    return load(folder)


def family_meta(plan: FamilyPlan) -> dict[str, Any]:
    _, kind, words, _, size, exact = plan
    return {"kind": kind, "degree": 1 if kind == "translation" else 2, "size": size, "words": words, "exact": exact}


def write_scalars(writer: RunWriter, rng: np.random.Generator, at: np.ndarray, nan_at: int | None) -> None:
    for step in at.tolist():
        smooth = 0.18 + 2.1 * np.exp(-step / 90)
        loss = float(smooth * np.exp(0.12 * rng.normal()))
        rate = RATE * (0.1 if step > 0.7 * at[-1] else 1.0)
        values = {
            "loss": float("nan") if nan_at is not None and step >= nan_at else loss,
            "learning_rate": rate,
            "step_seconds": 0.021 + 0.002 * float(rng.random()),
        }
        writer.scalars(step, step * RATE, values)


def judged(key: str, columns: dict[str, np.ndarray], *, sampled: bool) -> list[dict[str, Any]]:
    """Verdicts as the front door stores them: an account is judged, errors of laws are measured."""
    value = columns["value"]
    leak = float((np.abs(columns["account"] - value) / columns["scale"]).max())
    common = {"family": key, "sampled": sampled}
    word = "balances" if leak <= TOLERANCE else "leaks"
    entries = [
        {
            **common,
            "kind": "account",
            "error": leak,
            "tolerance": TOLERANCE,
            "verdict": word,
            "words": f"leaks {leak:.1e}",
        }
    ]
    for kind in () if sampled else ("law", "naive"):
        error = float(np.abs(columns[kind] - value).max() / np.ptp(value, axis=0).max())
        words = f"off by {error:.1e} of the charge's motion"
        entries.append(
            {**common, "kind": kind, "error": error, "tolerance": None, "verdict": "measured", "words": words}
        )
    return entries


def equilibrium(rng: np.random.Generator) -> dict[str, Any]:
    norms = rng.normal(2.0, 0.25, 32)
    return {
        "family": "charges:scale/features.4.weight",
        "words": "filters of features.4 approach their equilibrium norm",
        "predicted_norm": norms.tolist(),
        "measured_norm": (norms * rng.normal(1.01, 0.02, 32)).tolist(),
        "effective_learning_rate": {"predicted": 0.0125, "measured": (RATE / norms**2).tolist()},
    }

"""What inspection found, as a value that people enjoy reading."""

import html
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from dynascope.base.errors import Unsupported
from dynascope.symmetry.census import Census, take_census
from dynascope.symmetry.charges import Charge
from dynascope.symmetry.kinds import Symmetry
from dynascope.symmetry.propose import Bond
from dynascope.symmetry.verify import Bench


@dataclass(frozen=True, eq=False)
class Anatomy:
    """The symmetries of a model: each verified, counted, and with what it conserves.

    Attributes:
        model: class name of the module.
        parameters: number of parameters.
        mode: "train" or "eval".
        output: "identity" or "softmax".
        symmetries: all that were confirmed.
        bonds: index spaces with the group that each tolerates.
        unknown_ops: operations without a rule; what they touch was kept fixed.
        notes: what a reader should know, such as proposals that did not hold.
        bench: the function and the random points of verification, for the census.
    """

    model: str
    parameters: int
    mode: str
    output: str
    symmetries: tuple[Symmetry, ...]
    bonds: tuple[Bond, ...] = ()
    unknown_ops: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    bench: Bench | None = field(default=None, repr=False)
    _census: list[Census] = field(default_factory=list, repr=False)

    @property
    def dimension(self) -> int:
        """Number of independent continuous symmetries, approximate ones included."""
        return sum(s.dimension for s in self.symmetries)

    @property
    def charge_families(self) -> tuple[Charge, ...]:
        """The families of conserved numbers."""
        return tuple(s.charge for s in self.symmetries if s.charge is not None)

    def charges(self, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Value of every charge.

        Args:
            params: parameters by name, as from ``dict(model.named_parameters())``.

        Returns:
            One vector per family.
        """
        return {c.name: c.value(params) for c in self.charge_families}

    @property
    def unexplained(self) -> int | None:
        """Null directions without a name, or None before :meth:`census`."""
        return self._census[0].unexplained if self._census else None

    def census(self) -> Census:
        """Measure the Jacobian's nullity at generic parameters and account for it.

        Returns:
            Measured and explained numbers, and what is known about the remainder.

        Raises:
            Unsupported: the model is too large for a dense Jacobian, or was found without a function to evaluate.
        """
        if self.bench is None:
            raise Unsupported(
                "the census of this anatomy", "it carries no function to evaluate", "inspect the model again"
            )
        if not self._census:
            self._census.append(take_census(self.bench, self.symmetries, self.bonds))
        return self._census[0]

    def only(self, *kinds: str) -> "Anatomy":
        """The same anatomy with some kinds of symmetry only.

        Args:
            *kinds: kinds to keep.

        Returns:
            A new anatomy.
        """
        return replace(self, symmetries=tuple(s for s in self.symmetries if s.kind in kinds), _census=[])

    def to_dict(self) -> dict[str, Any]:
        """Everything that can be written as JSON.

        Returns:
            The dictionary that a run keeps.
        """
        return {
            "model": self.model,
            "parameters": self.parameters,
            "mode": self.mode,
            "output": self.output,
            "dimension": self.dimension,
            "unexplained": self.unexplained,
            "unknown_ops": list(self.unknown_ops),
            "notes": list(self.notes),
            "symmetries": [_as_dict(s) for s in self.symmetries],
            "bonds": [
                {
                    "name": b.name,
                    "size": b.size,
                    "through": list(b.through),
                    "group": b.group,
                    "writers": list(b.writers),
                    "readers": list(b.readers),
                }
                for b in self.bonds
            ],
        }

    def _headline(self) -> str:
        exact = sum(s.dimension for s in self.symmetries if s.exact)
        marked = self.dimension - exact
        return (
            f"{self.model}: {self.parameters:,} parameters, {self.mode} mode, output up to "
            f"{'a common shift (softmax)' if self.output == 'softmax' else 'nothing (identity)'}\n"
            f"{self.dimension} independent continuous symmetries"
            + (f", {marked} of them only at normalisation epsilon 0 (marked ~)" if marked else "")
        )

    def _remarks(self) -> list[str]:
        out = []
        if self.unknown_ops:
            out.append("no rule for: " + ", ".join(self.unknown_ops) + " (what they touch was kept fixed)")
        if self._census:
            out.append(str(self._census[0]))
        return out + list(self.notes)

    def __str__(self) -> str:
        lines = [self._headline(), ""]
        for s in self.symmetries:
            mark = " " if s.exact else "~"
            charge = "" if s.charge is not None else "   (no charge)"
            lines.append(f"  {s.dimension:>6} {mark} {s.words}{charge}")
        if self.bonds:
            lines += ["", "  bonds"]
            lines += [f"  {b.size:>6}   {b.name}: {b.group} (through {', '.join(b.through)})" for b in self.bonds]
        lines += [f"  note: {r}" for r in self._remarks()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        cells = "".join(
            f"<tr><td style='text-align:right'>{s.dimension}</td><td>{html.escape(s.words)}</td>"
            f"<td>{html.escape(s.group)}</td>"
            f"<td>{'exact' if s.exact else f'at epsilon 0 (off by {s.violation:.1e})'}</td>"
            f"<td>{'yes' if s.charge is not None else 'no'}</td></tr>"
            for s in self.symmetries
        )
        notes = "".join(f"<li>{html.escape(r)}</li>" for r in self._remarks())
        head = html.escape(self._headline()).replace("\n", "<br>")
        return (
            f"<div><p>{head}</p><table><thead><tr><th>count</th><th>symmetry</th><th>group</th><th>holds</th>"
            f"<th>charge</th></tr></thead><tbody>{cells}</tbody></table><ul>{notes}</ul></div>"
        )


def _as_dict(s: Symmetry) -> dict[str, Any]:
    return {
        "name": s.name,
        "words": s.words,
        "kind": s.kind,
        "group": s.group,
        "dimension": s.dimension,
        "size": s.charge.size if s.charge else s.dimension,
        "exact": s.exact,
        "residual": s.residual,
        "violation": s.violation,
        "modes": list(s.modes),
        "bond": s.bond,
        "charge": s.charge.name if s.charge else None,
        "legs": [
            {"parameter": leg.parameter, "coefficient": leg.coefficient, "slice": leg.slice, "shape": list(leg.shape)}
            for leg in s.legs
        ],
    }

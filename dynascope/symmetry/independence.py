"""How many families of charges are independent: the rank of their gradients at one generic point."""

import torch
from jaxtyping import Float
from scipy import sparse
from torch import Tensor

from dynascope.symmetry.charges import Charge, Leg
from dynascope.symmetry.draws import Params

# Eigenvalues of a Gram matrix of unit gradients are squared sines: dependent gradients give 1e-15,
# independent ones at a generic point rarely less than 1e-6.
DEPENDENT = 1e-10


class ChargeSpan:
    """The span of charge gradients at one point, grown family by family.

    Gradients are kept sparse: a family touches each element of a leg once, so wide models stay affordable.

    Args:
        point: generic parameters by name.
        used: 1 for elements that influence the function, 0 for others, by name; all of them by default. What moves
            only unused elements tells no two charges apart.
    """

    def __init__(self, point: Params, used: Params | None = None) -> None:
        self._point = {name: p.detach().cpu() for name, p in point.items()}
        self._used = {name: used[name].cpu() if used else torch.ones_like(p) for name, p in self._point.items()}
        self._start: dict[str, int] = {}
        self._dimension = 0
        for name, p in point.items():
            self._start[name] = self._dimension
            self._dimension += p.numel()
        self._rows = sparse.csr_array((0, self._dimension))
        self.rank = 0

    def add(self, charge: Charge) -> int:
        """Add a family to the span, unless nothing in it is new.

        Args:
            charge: the family.

        Returns:
            Number of its charges that are independent of all families added before.
        """
        rows = sparse.csr_array(sparse.vstack([self._rows, self._gradients(charge)]))
        rank = _rank(rows)
        gained = rank - self.rank
        if gained:
            self._rows, self.rank = rows, rank
        return gained

    def _gradients(self, charge: Charge) -> sparse.csr_array:
        total = sparse.csr_array((charge.size, self._dimension))
        for leg in charge.legs:
            total = total + self._leg_gradients(charge, leg)
        norms = sparse.linalg.norm(total, axis=1)
        return sparse.csr_array(sparse.diags_array(1 / norms.clip(min=1e-300)) @ total)

    def _leg_gradients(self, charge: Charge, leg: Leg) -> sparse.csr_array:
        p = self._point[leg.parameter]
        # Positions travel as float64, exact up to 2^53, because legs sort numbers of the parameters' kind.
        place = leg.unfold(torch.arange(p.numel(), dtype=torch.float64).reshape(p.shape)).long()
        place = place + self._start[leg.parameter]
        used = leg.unfold(self._used[leg.parameter])
        value = leg.coefficient * (used if charge.degree == 1 else used * leg.unfold(p))
        i, j = torch.triu_indices(leg.size, leg.size) if charge.full else torch.arange(leg.size).repeat(2, 1)
        row = torch.arange(len(i))[:, None].expand(-1, place.shape[1])
        # d <theta_i, theta_j> = theta_j at the elements of row i and theta_i at those of row j; overlapping
        # entries add up.
        return _sparse(value[j], row, place[i], charge.size, self._dimension) + _sparse(
            value[i], row, place[j], charge.size, self._dimension
        )


def _sparse(value: Tensor, row: Tensor, column: Tensor, height: int, width: int) -> sparse.csr_array:
    flat = (value.reshape(-1).numpy(), (row.reshape(-1).numpy(), column.reshape(-1).numpy()))
    return sparse.csr_array(sparse.coo_array(flat, shape=(height, width)))


def _rank(rows: sparse.csr_array) -> int:
    gram: Float[Tensor, "charges charges"] = torch.from_numpy((rows @ rows.T).toarray())
    return int((torch.linalg.eigvalsh(gram) > DEPENDENT).sum())

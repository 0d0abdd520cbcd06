r"""Extreme eigenvalues, traces and spectral densities of symmetric matrices known by their products alone.

The eigenvalue method is Rayleigh-Ritz on a growing orthonormal basis, fully reorthogonalised. Each new
direction is the residual of the leading pair that has not converged. From one start vector that spans
Lanczos' Krylov space; it stays right from several start vectors and from warm starts. Products with the
basis are kept, so that residuals come from their definition and not from a recurrence that rounding spoils.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Matvec = Callable[[Tensor], Tensor]
Which = Literal["largest", "smallest", "magnitude"]

_SORT_KEYS: dict[str, Callable[[Tensor], Tensor]] = {
    "largest": lambda values: -values,
    "smallest": lambda values: values,
    "magnitude": lambda values: -values.abs(),
}


@dataclass(frozen=True, eq=False)
class Eigenpairs:
    """Approximate eigenpairs with error bounds.

    Args:
        values: Ritz values, in the order that was asked for.
        vectors: Ritz vectors of unit length, one a column.
        residuals: |A y - value y| of each pair. A symmetric matrix has an eigenvalue within this distance
            of the value, up to the rounding of the products. The actual error is usually of the order of
            its square.
        within_tolerance: for each pair, whether its residual is.
        products: number of products with the matrix that were spent.
    """

    values: Float[Tensor, " k"]
    vectors: Float[Tensor, " dim k"]
    residuals: Float[Tensor, " k"]
    within_tolerance: Bool[Tensor, " k"]
    products: int

    @property
    def converged(self) -> bool:
        """Whether every pair is within the tolerance. Do not use a value that is not without its residual."""
        return bool(self.within_tolerance.all())


@dataclass(frozen=True)
class Estimate:
    """A number estimated from random probes.

    Args:
        value: unbiased estimate.
        standard_error: estimated from the scatter of the probes; 0 where the value is exact.
        probes: number of products with the matrix that were spent.
    """

    value: float
    standard_error: float
    probes: int


@dataclass(frozen=True, eq=False)
class Density:
    """A spectral density as weighted points: weights sum to 1, moments are those of the spectrum.

    Args:
        nodes: places on the eigenvalue axis.
        weights: share of the eigenvalues at each place.
    """

    nodes: Float[Tensor, " points"]
    weights: Float[Tensor, " points"]

    def smooth(self, grid: Float[Tensor, " grid"], *, width: float) -> Float[Tensor, " grid"]:
        """The density on a grid, with every point widened to a Gaussian.

        Args:
            grid: places to evaluate at.
            width: standard deviation of the Gaussian, in units of eigenvalues.

        Returns:
            Density, per unit of eigenvalue.

        Raises:
            ValueError: width is not positive.
        """
        if not width > 0:
            raise ValueError(f"width={width} must be > 0")
        distance = (grid[:, None] - self.nodes) / width
        return torch.exp(-0.5 * distance**2) @ self.weights / (width * math.sqrt(2 * math.pi))


def lanczos(
    matvec: Matvec,
    dim: int,
    *,
    generator: torch.Generator,
    k: int = 1,
    which: Which = "largest",
    tolerance: float = 1e-3,
    start: Float[Tensor, " dim *starts"] | None = None,
    max_products: int | None = None,
    dtype: torch.dtype | None = None,
) -> Eigenpairs:
    r"""Eigenvalues at one end of the spectrum of a symmetric matrix, with certified residuals.

    Stops when |A y - value y| <= tolerance * (largest |Ritz value|) for each pair. Running out of products
    raises nothing: ``converged`` is False then, and the residuals say how far the values may be off.

    What the bound certifies: some eigenvalue lies within the residual of each value. What it does not: that
    none further out was missed. A random start has a part along every eigenvector, so that is unlikely; and
    since there are as many start vectors as pairs, an eigenvalue of multiplicity up to k is found that often.
    A warm start that is nearly an eigenvector is content with it, even where another eigenvalue has overtaken
    it since: start cold now and then.

    Args:
        matvec: product of the matrix with a vector; the matrix must be symmetric.
        dim: its number of rows.
        generator: for the random start vectors; vectors live on its device.
        k: number of pairs.
        which: "largest", "smallest" (most negative) or "magnitude" (largest absolute value).
        tolerance: on the residual, relative to the largest absolute Ritz value.
        start: one start vector, or several as columns; completed by random ones to k.
        max_products: limit; 100 + 10 k by default, never more than ``dim``. Memory: two vectors a product.
        dtype: precision of the vectors; by default that of ``start``, else torch's default.

    Returns:
        The pairs; look at ``converged``.

    Raises:
        ValueError: k, tolerance, max_products or which is outside its range, or start has another length.

    Example:
        >>> diagonal = torch.tensor([1.0, 3.0, -5.0, 2.0])
        >>> generator = torch.Generator().manual_seed(0)
        >>> top = lanczos(lambda v: diagonal * v, 4, k=2, generator=generator)
        >>> [round(value, 3) for value in top.values.tolist()], top.converged
        ([3.0, 2.0], True)
    """
    limit = min(dim, 100 + 10 * k if max_products is None else max_products)
    if not 1 <= k <= dim:
        raise ValueError(f"k={k} must be between 1 and dim={dim}")
    if not tolerance > 0:
        raise ValueError(f"tolerance={tolerance} must be > 0: a residual relative to the largest Ritz value")
    if limit < k:
        raise ValueError(f"max_products={max_products} must be at least k={k}")
    if which not in _SORT_KEYS:
        raise ValueError(f"which={which!r} must be one of {', '.join(_SORT_KEYS)}")
    starts = _start_vectors(start, dim, k, generator, dtype)
    space = _Subspace(starts)
    for vector in starts.unbind(1)[:limit]:
        space.append(_independent(space, vector, generator), matvec)
    floor = 10 * torch.finfo(starts.dtype).eps  # the rounding of the products: residuals stall there
    while True:
        ritz = space.ritz(which, k)
        residual = space.first_residual_above(max(tolerance, floor) * ritz.scale, ritz)
        direction = None if residual is None or space.size == limit else space.orthogonal(residual)
        if direction is None:
            return space.eigenpairs(tolerance * ritz.scale, ritz)
        space.append(direction, matvec)


def trace(
    matvec: Matvec, dim: int, *, probes: int, generator: torch.Generator, dtype: torch.dtype | None = None
) -> Estimate:
    r"""Trace of a symmetric matrix by Hutch++.

    A third of the products finds a subspace Q with most of the trace, a third takes the trace there exactly,
    and the rest estimates the remainder:
    tr(A) = tr(Q^T A Q) + E[z^T (1 - Q Q^T) A (1 - Q Q^T) z], z of random signs.

    Args:
        matvec: product of the matrix with a vector; the matrix must be symmetric.
        dim: its number of rows.
        probes: number of products to spend, at least 6.
        generator: for the random vectors; they live on its device.
        dtype: precision of the vectors; torch's default if not given.

    Returns:
        The estimate, unbiased, with the standard error of its random part; exact if a third of the probes
        is dim or more.

    Raises:
        ValueError: probes is below 6.

    Source: Meyer, Musco, Musco, Woodruff 2021 (arXiv 2010.09649), algorithm 1.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> round(trace(lambda v: 2 * v, 5, probes=15, generator=generator).value, 4)
        10.0
    """
    if probes < 6:
        raise ValueError(f"probes={probes} must be at least 6: two for each of the three parts of Hutch++")
    third = probes // 3
    sketch = _signs(dim, min(third, dim), generator, dtype)
    frame, _ = torch.linalg.qr(_product(matvec, sketch))
    exact = (frame * _product(matvec, frame)).sum().item()
    if third >= dim:
        return Estimate(exact, 0.0, 2 * dim)
    tests = _signs(dim, probes - 2 * third, generator, dtype)
    tests = tests - frame @ (frame.T @ tests)
    samples = (tests * _product(matvec, tests)).sum(0)
    error = samples.std().item() / math.sqrt(len(samples))
    return Estimate(exact + samples.mean().item(), error, probes)


def spectral_density(
    matvec: Matvec,
    dim: int,
    *,
    probes: int,
    degree: int,
    generator: torch.Generator,
    dtype: torch.dtype | None = None,
) -> Density:
    r"""Density of eigenvalues by stochastic Lanczos quadrature.

    The spectral measure of a random z, averaged over z. Ritz values are the nodes, squared first entries of
    the Ritz vectors the weights; moments up to order 2 ``degree`` - 1 are exact for each z.

    Args:
        matvec: product of the matrix with a vector; the matrix must be symmetric.
        dim: its number of rows.
        probes: number of random vectors.
        degree: number of products for each of them.
        generator: for the random vectors; they live on its device.
        dtype: precision of the vectors; torch's default if not given.

    Returns:
        The density as weighted points; ``.smooth`` draws it.

    Raises:
        ValueError: probes or degree is below 1.

    Source: Ubaru, Chen, Saad 2017 (SIAM J. Matrix Anal. Appl. 38), algorithm 1.
    """
    if probes < 1 or degree < 1:
        raise ValueError(f"probes={probes} and degree={degree} must be at least 1")
    nodes, weights = [], []
    for start in _signs(dim, probes, generator, dtype).unbind(1):
        space = _Subspace(start[:, None])
        direction = space.orthogonal(start)
        while direction is not None and space.size < min(degree, dim):
            space.append(direction, matvec)
            direction = space.orthogonal(space.images[-1])
        values, combinations = torch.linalg.eigh(space.projected)
        nodes.append(values)
        weights.append(combinations[0] ** 2 / probes)
    return Density(torch.cat(nodes), torch.cat(weights))


@dataclass(frozen=True, eq=False)
class _Ritz:
    """Leading Ritz values, Ritz vectors as combinations of the basis, and the largest absolute Ritz value."""

    values: Float[Tensor, " k"]
    combinations: Float[Tensor, " k size"]
    scale: float


class _Subspace:
    """Orthonormal vectors V, their images A V, and the projection V^T A V. Vectors are rows: contiguous."""

    def __init__(self, like: Float[Tensor, " dim *any"]) -> None:
        self._room: Float[Tensor, " two capacity dim"] = like.new_empty(2, 4, len(like))
        self.projected: Float[Tensor, " size size"] = torch.empty(0, 0, dtype=torch.float64)

    @property
    def size(self) -> int:
        return len(self.projected)

    @property
    def basis(self) -> Float[Tensor, " size dim"]:
        return self._room[0, : self.size]

    @property
    def images(self) -> Float[Tensor, " size dim"]:
        return self._room[1, : self.size]

    def orthogonal(self, vector: Float[Tensor, " dim"]) -> Float[Tensor, " dim"] | None:
        """The unit vector along the part outside the subspace; None where that part is mere rounding."""
        before = torch.linalg.vector_norm(vector)
        part = vector - (self.basis @ vector) @ self.basis
        length = torch.linalg.vector_norm(part)
        if length < 0.7 * before:  # much was taken away, and rounding with it: twice is enough (Kahan, Parlett)
            part = part - (self.basis @ part) @ self.basis
            length = torch.linalg.vector_norm(part)
        return part / length if length > 10 * torch.finfo(vector.dtype).eps * before else None

    def append(self, unit: Float[Tensor, " dim"], matvec: Matvec) -> None:
        """Take in a unit vector orthogonal to all others, at the price of one product."""
        image = matvec(unit)
        size = self.size
        if size == self._room.shape[1]:  # doubled: growing by one vector at a time would copy all at each product
            self._room = torch.cat([self._room, torch.empty_like(self._room)], dim=1)
        self._room[:, size] = torch.stack([unit, image])
        column = (self._room[0, : size + 1] @ image).double().cpu()
        if not torch.isfinite(column).all():  # one entry that is not spoils every inner product
            raise ValueError("a product with the matrix is not finite: the function or its derivatives overflow")
        grown = torch.empty(size + 1, size + 1, dtype=torch.float64)
        grown[:-1, :-1] = self.projected
        grown[-1, :] = grown[:, -1] = column
        self.projected = grown

    def ritz(self, which: Which, k: int) -> _Ritz:
        values, combinations = torch.linalg.eigh(self.projected)
        order = _SORT_KEYS[which](values).argsort()[:k]
        scale = values.abs().max().item()
        return _Ritz(values[order].to(self.basis), combinations.T[order].to(self.basis), scale)

    def first_residual_above(self, bound: float, ritz: _Ritz) -> Float[Tensor, " dim"] | None:
        """The residual vector of the leading pair that is not good enough yet."""
        for value, combination in zip(ritz.values, ritz.combinations, strict=True):
            residual = combination @ self.images - value * (combination @ self.basis)
            if torch.linalg.vector_norm(residual) > bound:
                return residual
        return None

    def eigenpairs(self, bound: float, ritz: _Ritz) -> Eigenpairs:
        vectors = ritz.combinations @ self.basis
        errors = ritz.combinations @ self.images - ritz.values[:, None] * vectors
        residuals = torch.linalg.vector_norm(errors, dim=1)
        return Eigenpairs(ritz.values, vectors.T, residuals, residuals <= bound, self.size)


def _start_vectors(
    start: Tensor | None, dim: int, k: int, generator: torch.Generator, dtype: torch.dtype | None
) -> Float[Tensor, " dim starts"]:
    """The given start vectors, completed by random ones to k."""
    given = torch.empty(dim, 0, dtype=dtype, device=generator.device) if start is None else start
    given = given.detach().reshape(len(given), -1).to(generator.device, dtype or given.dtype)
    if len(given) != dim:
        raise ValueError(f"start has vectors of length {len(given)}; they must have dim={dim} entries")
    missing = max(k - given.shape[1], 0)
    drawn = torch.randn(dim, missing, generator=generator, dtype=given.dtype, device=given.device)
    return torch.cat([given, drawn], dim=1)


def _independent(space: _Subspace, vector: Tensor, generator: torch.Generator) -> Float[Tensor, " dim"]:
    """The vector's unit part outside the subspace, or a random direction if it has none."""
    unit = space.orthogonal(vector)
    while unit is None:
        unit = space.orthogonal(
            torch.randn(vector.shape, generator=generator, dtype=vector.dtype, device=vector.device)
        )
    return unit


def _signs(dim: int, count: int, generator: torch.Generator, dtype: torch.dtype | None) -> Float[Tensor, " dim count"]:
    """Random signs: among all probes with independent entries, those of least variance for a trace."""
    bits = torch.randint(2, (dim, count), generator=generator, device=generator.device)
    return (2 * bits - 1).to(dtype or torch.get_default_dtype())


def _product(matvec: Matvec, columns: Float[Tensor, " dim count"]) -> Float[Tensor, " dim count"]:
    return torch.stack([matvec(column) for column in columns.unbind(1)], dim=1)

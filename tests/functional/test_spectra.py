import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dynascope.functional.hessian import HessianOperator
from dynascope.functional.model import as_function, batch_loss
from dynascope.functional.params import buffers_of, parameters_of
from dynascope.functional.spectra import lanczos, spectral_density, trace
from tests.cases import LOSSES, case, names

DIM = 60


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rotated(eigenvalues: list[float] | Tensor, seed: int = 0) -> Tensor:
    """A dense symmetric matrix with these eigenvalues."""
    values = torch.as_tensor(eigenvalues, dtype=torch.float64)
    basis, _ = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator(seed), dtype=values.dtype))
    return basis @ torch.diag(values) @ basis.T


def solve(matrix: Tensor, **options: object):
    options = {"generator": generator(), "dtype": matrix.dtype} | options
    return lanczos(lambda v: matrix @ v, len(matrix), **options)


def hessian_of(name: str) -> HessianOperator:
    it = case(name)
    loss_fn = batch_loss(as_function(it.model), LOSSES["cross_entropy_mean"], buffers_of(it.model), it.x, it.y)
    return HessianOperator(loss_fn, parameters_of(it.model))


def exact(matrix: np.ndarray, which: str) -> np.ndarray:
    values = np.linalg.eigvalsh(matrix)
    key = {"largest": -values, "smallest": values, "magnitude": -np.abs(values)}[which]
    return values[np.argsort(key)]


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("which", ["largest", "smallest", "magnitude"])
def test_eigenvalues_of_networks(name: str, which: str) -> None:
    hessian = hessian_of(name)
    dense = (hessian @ torch.eye(hessian.dim, dtype=hessian.dtype)).numpy()
    found = lanczos(hessian.matvec, hessian.dim, k=3, which=which, generator=generator(), dtype=hessian.dtype)
    truth = exact(dense, which)
    assert found.converged
    # the promise: each value lies within its residual of an eigenvalue, the residual within the tolerance
    assert (found.residuals <= 1e-3 * np.abs(truth).max() * (1 + 1e-9)).all()
    assert (np.abs(found.values.numpy() - truth[:3]) <= found.residuals.numpy() + 1e-12).all()
    products = torch.from_numpy(dense) @ found.vectors - found.values * found.vectors
    assert torch.allclose(products.norm(dim=0), found.residuals, atol=1e-12)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    eigenvalues=st.lists(st.floats(-10, 10).map(lambda x: round(x, 2)), min_size=3, max_size=25),
    k=st.integers(1, 3),
    which=st.sampled_from(["largest", "smallest", "magnitude"]),
    tolerance=st.sampled_from([1e-1, 1e-3, 1e-8]),
)
def test_residual_bounds_the_distance_to_an_eigenvalue(
    eigenvalues: list[float], k: int, which: str, tolerance: float
) -> None:
    matrix = rotated(eigenvalues)
    found = solve(matrix, k=k, which=which, tolerance=tolerance)
    nearest = (found.values[:, None] - torch.tensor(eigenvalues, dtype=torch.float64)).abs().amin(1)
    assert (nearest <= found.residuals + 1e-12).all()  # 1e-12: rounding of a 25 x 25 product of size 10
    assert torch.allclose(found.vectors.T @ found.vectors, torch.eye(k, dtype=torch.float64), atol=1e-10)


def test_two_products_are_not_called_converged() -> None:
    """The trap of a fixed small number of iterations: a wrong value that looks like a result."""
    matrix = rotated(torch.linspace(0, 1, DIM).double() ** 4)
    found = solve(matrix, max_products=2)
    assert found.products == 2
    assert not found.converged
    assert abs(found.values.item() - 1) > 0.05
    assert solve(matrix).converged
    assert abs(solve(matrix).values.item() - 1) < 1e-3


@pytest.mark.parametrize("which", ["largest", "magnitude"])
def test_multiple_eigenvalues_are_found_as_often_as_they_occur(which: str) -> None:
    matrix = rotated([5.0, 5.0, 5.0, *np.linspace(-1, 2, DIM - 3)])
    found = solve(matrix, k=4, which=which, tolerance=1e-9)
    assert found.converged
    # eigenvalues are within the residual, 1e-9 * 5
    assert found.values.tolist() == pytest.approx([5, 5, 5, 2], abs=5e-9)


@pytest.mark.parametrize("scale", [0.0, 3.0])
def test_multiple_of_the_identity_ends_after_k_products(scale: float) -> None:
    found = solve(scale * torch.eye(10, dtype=torch.float64), k=3)
    assert found.converged
    assert found.products == 3
    assert found.values.tolist() == pytest.approx([scale] * 3, abs=1e-14)


def test_invariant_subspace_of_the_start_is_left_for_the_other_pairs() -> None:
    matrix = torch.diag(torch.arange(10.0, dtype=torch.float64))
    start = torch.zeros(10, dtype=torch.float64)
    start[9] = 1
    found = solve(matrix, k=2, start=start, tolerance=1e-10)
    assert found.converged
    assert found.values.tolist() == pytest.approx([9, 8], abs=1e-9)  # residual 1e-10 * 9


def test_dependent_and_vanishing_start_vectors_are_replaced() -> None:
    matrix = rotated(torch.arange(12))
    start = torch.ones(12, 3, dtype=torch.float64)
    start[:, 2] = 0
    found = solve(matrix, k=3, start=start, tolerance=1e-10)
    assert found.converged
    assert found.values.tolist() == pytest.approx([11, 10, 9], abs=2e-9)  # residual 1e-10 * 11


def test_low_rank_is_exhausted_early() -> None:
    matrix = rotated([4.0, -2.0, 1.0] + [0.0] * (DIM - 3))
    found = solve(matrix, k=1, tolerance=1e-12)
    assert found.products <= 4  # three eigenvectors and the kernel span the Krylov space
    assert found.values.item() == pytest.approx(4, abs=1e-11)


def test_whole_space_gives_every_eigenvalue() -> None:
    values = torch.linspace(-3, 2, 8, dtype=torch.float64)
    found = solve(rotated(values), k=8, tolerance=1e-12, which="smallest")
    assert found.converged
    assert torch.allclose(found.values, values, atol=1e-12)


def test_warm_start_is_cheaper() -> None:
    before = rotated(torch.linspace(0, 1, DIM).double() ** 3, seed=1)
    after = before + 1e-3 * rotated(torch.linspace(-1, 1, DIM), seed=2)
    first = solve(before, k=2)
    cold, warm = solve(after, k=2), solve(after, k=2, start=first.vectors)
    assert warm.converged
    assert warm.products <= 4 < cold.products
    # both within their certified residuals of the same eigenvalues
    assert ((warm.values - cold.values).abs() <= warm.residuals + cold.residuals).all()


def test_warm_start_at_an_overtaken_eigenvector_stays_as_documented() -> None:
    start = torch.zeros(3, dtype=torch.float64)
    start[1] = 1
    found = solve(torch.diag(torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)), start=start)
    assert found.values.item() == 2
    assert found.residuals.item() == 0


def test_single_precision_reaches_its_own_rounding_and_stops() -> None:
    matrix = rotated(torch.linspace(0, 1, 200).double() ** 3).float()
    found = solve(matrix, tolerance=1e-12, max_products=200)
    assert not found.converged
    assert found.products < 60  # about 43 reach the rounding; all that follow would be wasted
    assert found.values.item() == pytest.approx(1, abs=1e-5)  # about a hundred eps of single precision


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_basis_stays_orthonormal_where_lanczos_without_care_loses_it(dtype: torch.dtype) -> None:
    """Converged eigenvalues far outside a cluster are what makes plain Lanczos find ghosts of them."""
    eigenvalues = [*np.linspace(0, 1, 190), 50.0, 70.0, 100.0]
    matrix = rotated(eigenvalues).to(dtype)
    found = solve(matrix, k=5, tolerance=30 * torch.finfo(dtype).eps)
    assert found.products > 40
    # fifty or more vectors, each orthogonal to the others up to a few eps
    identity = torch.eye(5, dtype=dtype)
    assert (found.vectors.T @ found.vectors - identity).abs().max() < 100 * torch.finfo(dtype).eps
    # no ghosts: the errors are within the certified residuals and a few eps of the norm, 100
    truth = torch.tensor(eigenvalues[:-6:-1], dtype=dtype)
    assert ((found.values - truth).abs() <= found.residuals + 1000 * torch.finfo(dtype).eps).all()


def test_same_seed_same_result() -> None:
    matrix = rotated(torch.linspace(0, 1, DIM))
    assert torch.equal(solve(matrix).vectors, solve(matrix).vectors)
    assert not torch.equal(solve(matrix).vectors, solve(matrix, generator=generator(1)).vectors)


def test_product_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        lanczos(lambda v: v / 0, 3, generator=generator())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k=0 must be between 1 and dim=4"),
        ({"k": 5}, "k=5"),
        ({"tolerance": 0.0}, "tolerance=0.0"),
        ({"k": 3, "max_products": 2}, "max_products=2"),
        ({"which": "middle"}, "largest, smallest, magnitude"),
        ({"start": torch.ones(3)}, "length 3"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_arguments_out_of_range(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lanczos(lambda v: v, 4, generator=generator(), **options)


def test_trace_is_exact_for_low_rank_and_for_many_probes() -> None:
    low_rank = rotated([4.0, -2.0, 1.0] + [0.0] * (DIM - 3))
    found = trace(lambda v: low_rank @ v, DIM, probes=12, generator=generator(), dtype=torch.float64)
    assert found.value == pytest.approx(3, abs=1e-12)  # the sketch holds all three directions
    full = rotated(torch.linspace(-1, 3, 8))
    found = trace(lambda v: full @ v, 8, probes=30, generator=generator(), dtype=torch.float64)
    assert (found.value, found.standard_error) == (pytest.approx(8, abs=1e-12), 0)
    assert found.probes == 16


def test_trace_and_its_standard_error_are_calibrated() -> None:
    """Over 200 seeds: unbiased, and errors as large as stated. Both limits are 4 standard deviations wide."""
    matrix = rotated(torch.linspace(-1, 2, DIM))
    truth = matrix.trace().item()
    runs = [
        trace(lambda v: matrix @ v, DIM, probes=60, generator=generator(seed), dtype=torch.float64)
        for seed in range(200)
    ]
    scores = np.array([(run.value - truth) / run.standard_error for run in runs])
    # Student's t with 19 degrees of freedom: variance 19/17, spread of the variance estimate about 12 %
    assert abs(scores.mean()) < 4 * math.sqrt(19 / 17 / 200)
    assert abs(scores.var() - 19 / 17) < 4 * 0.12 * 19 / 17


def test_trace_needs_six_probes() -> None:
    with pytest.raises(ValueError, match="probes=5"):
        trace(lambda v: v, 4, probes=5, generator=generator())


def test_density_has_the_moments_of_the_spectrum() -> None:
    values = torch.cat([torch.zeros(30), torch.linspace(-1, 3, 30)]).double()
    matrix = rotated(values)
    density = spectral_density(
        lambda v: matrix @ v, DIM, probes=400, degree=8, generator=generator(), dtype=values.dtype
    )
    assert density.weights.sum().item() == pytest.approx(1, abs=1e-12)
    # 4 standard errors over 400 probes: a moment by random signs scatters by sqrt(2 mean(values^2p) / dim)
    for power in (1, 2, 3):
        scatter = math.sqrt(2 * (values ** (2 * power)).mean().item() / DIM / 400)
        assert abs((density.nodes**power @ density.weights - (values**power).mean()).item()) < 4 * scatter
    grid = torch.linspace(-6, 8, 2000, dtype=torch.float64)
    assert torch.trapezoid(density.smooth(grid, width=0.3), grid).item() == pytest.approx(1, abs=1e-6)


def test_density_of_few_distinct_eigenvalues_stops_early_and_is_exact() -> None:
    matrix = rotated([2.0] * 5 + [-1.0] * 15)
    calls = []

    def matvec(v: Tensor) -> Tensor:
        calls.append(1)
        return matrix @ v

    density = spectral_density(matvec, 20, probes=1, degree=10, generator=generator(), dtype=torch.float64)
    assert len(calls) == 2
    assert density.nodes.tolist() == pytest.approx([-1, 2], abs=1e-12)


@pytest.mark.parametrize("options", [{"probes": 0, "degree": 1}, {"probes": 1, "degree": 0}])
def test_density_arguments_out_of_range(options: dict) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        spectral_density(lambda v: v, 4, generator=generator(), **options)


def test_density_width_must_be_positive() -> None:
    density = spectral_density(lambda v: v, 4, probes=1, degree=1, generator=generator())
    with pytest.raises(ValueError, match=r"width=0\.0"):
        density.smooth(torch.zeros(1), width=0.0)

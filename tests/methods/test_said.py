"""SAID's projection is the dense matrix that Fastfood stands for, and keeps lengths; files hold no projection."""

import math
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from scipy.linalg import hadamard

from remora.adapters.format import save_adapter
from remora.methods.said import normals, padded_length, project, signs_and_order, walsh_hadamard
from tests.contract.test_storage import INFO
from tests.tiny import tiny_base
from tests.trials import run, spec, toy_data, toy_examples

CPU, WIDE = torch.device("cpu"), torch.float64


def dense(dim: int, num: int, site: str, seed: int) -> torch.Tensor:
    """(num, dim) matrix of a site: blocks H G S H B under one another, cut to both sizes."""
    length = 2 ** math.ceil(math.log2(dim))
    H = torch.from_numpy(hadamard(length)).double()
    signs, order = signs_and_order(seed, site, length, CPU)
    S = torch.zeros(length, length, dtype=WIDE)
    S[torch.arange(length), order] = 1
    G = normals(seed, math.ceil(num / length), length, WIDE, CPU)
    blocks = [H @ torch.diag(g) @ S @ H @ torch.diag(signs.double()) for g in G]
    return torch.cat(blocks)[:num, :dim] / math.sqrt(num * length)


@pytest.mark.parametrize("size", [1, 2, 4, 8, 32])
def test_transform_of_unit_vectors_is_the_hadamard_matrix(size: int) -> None:
    assert torch.equal(walsh_hadamard(torch.eye(size)), torch.from_numpy(hadamard(size)).float())


@pytest.mark.parametrize("dim", [1, 11, 16, 100])
def test_projection_is_the_dense_matrix_and_so_is_its_gradient(dim: int) -> None:
    """More weights than numbers, the last block cut; and fewer."""
    weight = torch.zeros(7, 9, dtype=WIDE)
    rng = torch.Generator().manual_seed(0)
    matrix = dense(dim, 63, "a", 5)
    one = torch.ones(1, dtype=WIDE)
    columns = [project(unit, one, weight, "a", 5).flatten() for unit in torch.eye(dim, dtype=WIDE)]
    torch.testing.assert_close(torch.stack(columns, 1), matrix, rtol=0, atol=1e-12)
    theta = torch.randn(dim, generator=rng, dtype=WIDE).requires_grad_()
    scaler = torch.tensor([0.7], dtype=WIDE, requires_grad=True)
    pull = torch.randn(7, 9, generator=rng, dtype=WIDE)
    (project(theta, scaler, weight, "a", 5) * pull).sum().backward()
    torch.testing.assert_close(theta.grad, 0.7 * matrix.T @ pull.flatten(), rtol=0, atol=1e-12)
    expected = (matrix @ theta.detach()) @ pull.flatten()
    torch.testing.assert_close(scaler.grad, expected[None], rtol=0, atol=1e-12)


def test_lengths_are_kept_and_sites_are_independent() -> None:
    weight, one = torch.zeros(64, 96, dtype=WIDE), torch.ones(1, dtype=WIDE)
    theta = torch.randn(200, generator=torch.Generator().manual_seed(1), dtype=WIDE)
    images = torch.stack([project(theta, one, weight, f"site {k}", 0).flatten() for k in range(40)]) / theta.norm()
    lengths = images.square().sum(1)
    assert abs(float(lengths.mean()) - 1) < 0.02
    assert float((lengths - 1).abs().max()) < 0.2
    products = images @ images.T - torch.diag(lengths)
    assert float(products.abs().max()) < 5 / math.sqrt(padded_length(200)), "as far from parallel as random vectors"
    assert not torch.equal(project(theta, one, weight, "site 0", 1), project(theta, one, weight, "site 0", 0))


def test_half_precision_rounds_the_same_projection() -> None:
    theta = torch.randn(200, generator=torch.Generator().manual_seed(1))
    wide, half = (project(theta, torch.ones(1), torch.zeros(64, 96, dtype=t), "a", 0) for t in (WIDE, torch.bfloat16))
    assert float((wide - half).norm() / wide.norm()) < 0.01


def test_file_holds_the_vector_and_scalers_alone(tmp_path: Path) -> None:
    base = tiny_base("bert")
    (outcome,) = run(base, toy_data(toy_examples(8)), [spec("said", {"dim": 50, "targets": ("ffn.up",)})]).values()
    save_adapter(tmp_path / "a", base, outcome, INFO)
    with safe_open(tmp_path / "a" / "remora.safetensors", "pt") as file:
        sizes = {name: math.prod(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    own = {name: size for name, size in sizes.items() if not name.startswith("head.")}
    assert sorted(own.values()) == [1, 1, 50]
    assert own["common.theta"] == 50

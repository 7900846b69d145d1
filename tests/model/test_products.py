"""Products by oneDNN: the same as torch's, with gradients, and only where they pay."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from onerec.model import products
from onerec.model.products import ROUND, Linear, product

needs_onednn = pytest.mark.skipif(not products.ONEDNN, reason="torch was built without oneDNN")
SHAPES = [(5,), (4, 5), (2, 3, 5), (2, 1, 3, 5), (0, 5), (2, 0, 5), (ROUND, 5)]


@pytest.fixture(autouse=True)
def mkl_is_slow(monkeypatch):
    """As on AMD with AVX-512, whatever the machine of the tests, and for toys too."""
    monkeypatch.setattr(products, "MKL_IS_FAST", False)
    monkeypatch.setattr(products, "SMALL", 0)
    monkeypatch.setattr(products, "NARROW", 0)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_the_linear_layer_with_and_without_gradients(shape, bias):
    torch.manual_seed(7)
    layer = Linear(5, 3, bias=bias)
    x = torch.randn(shape)
    wanted = F.linear(x, layer.weight, layer.bias)
    torch.testing.assert_close(layer(x), wanted)
    wide = x.repeat_interleave(2, -1)[..., ::2]  # not contiguous
    with torch.no_grad():
        torch.testing.assert_close(layer(x), wanted)
        torch.testing.assert_close(layer(wide), wanted)
    torch.testing.assert_close(layer(wide), wanted)


@pytest.mark.parametrize("narrow", [0, 4])
@pytest.mark.parametrize(("inputs", "outputs"), [(5, 3), (3, 5), (4, 4)])
@pytest.mark.parametrize("shape", [(ROUND,), (2, 3), (2, 2, 3)], ids=str)
def test_gradients_are_those_of_float64(monkeypatch, shape, inputs, outputs, narrow):
    monkeypatch.setattr(products, "NARROW", narrow)
    torch.manual_seed(8)
    x = torch.randn(*shape, inputs, requires_grad=True)
    weight = torch.randn(outputs, inputs, requires_grad=True)
    bias = torch.randn(outputs, requires_grad=True)
    grad = torch.randn(*shape, outputs)
    found = torch.autograd.grad(product(x, weight, bias), (x, weight, bias), grad)
    exact = [value.detach().double().requires_grad_() for value in (x, weight, bias)]
    wanted = torch.autograd.grad(F.linear(*exact), exact, grad.double())
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape
        torch.testing.assert_close(one.double(), other, atol=2e-5, rtol=1e-5)
    for place, one in enumerate(found):
        frozen = [value.detach() for value in (x, weight, bias)]
        frozen[place].requires_grad_()
        alone = torch.autograd.grad(product(*frozen), frozen[place], grad)[0]
        assert alone.equal(one), "the others are frozen"


@needs_onednn
def test_the_other_library_is_asked_where_a_shape_comes_again_or_the_work_is_worth_a_plan(
    monkeypatch,
):
    asked = []
    linear = products._linear
    monkeypatch.setattr(products, "_linear", lambda *a: (asked.append(a[0].shape), linear(*a))[1])
    weight = torch.randn(6, 4, requires_grad=True)

    def asks(x: torch.Tensor) -> bool:
        asked.clear()
        product(x, weight)
        return bool(asked)

    assert asks(torch.randn(2, 3, 4))
    assert asks(torch.randn(2 * ROUND, 4))
    assert not asks(torch.randn(ROUND + 1, 4))
    with torch.no_grad():
        assert asks(torch.randn(2, 3, 4))
        assert not asks(torch.randn(ROUND, 4)), "packed tokens are not rounded without gradients"
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not asks(torch.randn(2, 3, 4))
    monkeypatch.setattr(products, "PLANNED", 10 * 24)
    assert asks(torch.randn(10, 4))
    assert not asks(torch.randn(9, 4))
    monkeypatch.setattr(products, "ROUND", 4)
    assert asks(torch.randn(4, 4))
    assert not asks(torch.randn(4)), "one row alone"
    monkeypatch.setattr(products, "SMALL", 6 * 24)
    assert asks(torch.randn(2, 3, 4))
    monkeypatch.setattr(products, "SMALL", 6 * 24 + 1)
    assert not asks(torch.randn(2, 3, 4))
    assert asks(torch.randn(2, 4, 4))
    with torch.no_grad():
        assert asks(torch.randn(2, 3, 4)), "the price is that of a gradient"
    monkeypatch.setattr(products, "MKL_IS_FAST", True)
    assert not asks(torch.randn(2, 4, 4))
    monkeypatch.setattr(products, "MKL_IS_FAST", False)
    monkeypatch.setattr(products, "ONEDNN", False)
    assert not asks(torch.randn(2, 4, 4))


@needs_onednn
@pytest.mark.parametrize("inputs", [3, 6, 7])
def test_the_gradient_of_a_narrow_weight_is_not_that_of_onednn(monkeypatch, inputs):
    """It turns the rows for it, which takes what it spares; only the two others are its."""
    monkeypatch.setattr(products, "NARROW", 6)
    asked, linear = [], products._linear
    monkeypatch.setattr(products, "_linear", lambda *a: (asked.append(a[0].shape), linear(*a))[1])
    x = torch.randn(2, 4, inputs, requires_grad=True)
    product(x, torch.randn(5, inputs, requires_grad=True)).sum().backward()
    turned = [(5, 8)] if inputs == 7 else []
    assert [tuple(shape) for shape in asked] == [(2, 4, inputs), (2, 4, 5), *turned]


@needs_onednn
def test_a_second_factor_is_never_a_part_of_wider_rows():
    """oneDNN's reference took them: 94 ms for 64 x 384 x 80, three quarters of a training."""
    weights = []

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.mkldnn._linear_pointwise.default:
                weights.append(args[1])
            return func(*args, **(kwargs or {}))

    x = torch.randn(2, ROUND, 5, requires_grad=True)
    own = torch.randn(4, 9, requires_grad=True)
    with Seen():
        parts = [product(x, own[:, begin : begin + 5]) for begin in (0, 4)]
        torch.cat([*parts, torch.randn(2, ROUND, 3)], -1).square().sum().backward()
    assert len(weights) == 2 * 3
    for weight in weights:
        assert weight.is_contiguous() or weight.t().is_contiguous()


@needs_onednn
def test_the_gate_is_fused_for_a_grid_without_gradients():
    grid, weight = torch.randn(2, 3, 4), torch.randn(6, 4)
    assert not products.fusable(grid, weight)
    with torch.no_grad():
        assert products.fusable(grid, weight)
        assert not products.fusable(grid[0], weight)
        assert not products.fusable(grid[:, :0], weight)


def test_torch_counts_the_operations():
    x = torch.randn(2, 3, 4, requires_grad=True)
    weight = torch.randn(6, 4, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        product(x, weight).sum().backward()
    assert counter.get_total_flops() == 3 * 2 * math.prod((2, 3, 4, 6))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        if products.fusable(x, weight):
            products.fused_gate(x, weight, weight)
            assert counter.get_total_flops() == 2 * 2 * math.prod((2, 3, 4, 6))

"""Kernels of attention: each gives what the formula gives, and is asked where it can serve."""

import pytest
import torch

from onerec.model import attention
from onerec.model.attention import (
    attend,
    attend_few,
    attend_joined,
    cudnn_serves,
    merge_heads,
    segments_serve,
    split_heads,
)


def test_heads_split_and_merge():
    x = torch.arange(24.0).view(1, 2, 12)
    heads = split_heads(x, 3)
    assert heads.shape == (1, 3, 2, 4)
    assert heads[0, 1, 0].tolist() == [4.0, 5.0, 6.0, 7.0]
    assert merge_heads(heads).equal(x)


@pytest.mark.parametrize("masked", [True, False])
def test_attention_without_gradients_equals_attention_with_them(masked):
    torch.manual_seed(6)
    q, k, v = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 7, 4), torch.randn(2, 3, 7, 4)
    mask = (torch.rand(2, 1, 1, 7) < 0.6) | (torch.arange(7) == 0) if masked else None
    expected = attend(q, k, v, mask)
    with torch.no_grad():
        torch.testing.assert_close(attend(q, k, v, mask), expected)


def test_masked_scores_in_the_thousands_have_a_gradient():
    """cuDNN's is not a number: three trainings with a long history ended of it, at step 500."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    random = torch.Generator().manual_seed(0)
    q = 150 * torch.randn(64, 4, 32, 24, generator=random)
    k, v = (2 * torch.randn(64, 4, 64, 24, generator=random) for _ in range(2))
    q, k, v = (x.to(device, torch.bfloat16).requires_grad_() for x in (q, k, v))
    mask = (torch.arange(64) < torch.arange(1, 65)[:, None])[:, None, None].to(device)
    y = attend(q, k, v, mask)
    for gradient in torch.autograd.grad(y, (q, k, v), torch.ones_like(y)):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("masked", [False, True])
def test_a_handful_of_positions_written_out_gives_the_same_values_and_gradients(masked):
    torch.manual_seed(3)
    q = torch.randn(2, 3, 2, 4, requires_grad=True)
    k, v = (torch.randn(2, 3, 3, 4, requires_grad=True) for _ in range(2))
    mask = torch.ones(2, 3, dtype=torch.bool).tril(1) if masked else None
    given = torch.randn(2, 3, 2, 4)
    found = [
        (y, *torch.autograd.grad(y, (q, k, v), given))
        for y in (attend_few(q, k, v, mask), attend(q, k, v, mask))
    ]
    torch.testing.assert_close(*found)
    half = [x.bfloat16() for x in (q, k, v)]
    summed = attend_few(*(x.float() for x in half), mask)
    assert attend_few(*half, mask).equal(summed.bfloat16()), "in float32"


def test_segments_are_for_gpus_under_autocast():
    assert not segments_serve(torch.device("cpu"), 16)
    assert not segments_serve(torch.device("cuda"), 16)


def test_segments_are_for_heads_that_the_kernel_takes(monkeypatch):
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: kind == "cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    device = torch.device("cuda")
    assert [head for head in (4, 8, 10, 128, 256, 264) if segments_serve(device, head)] == [
        8,
        128,
        256,
    ]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert not segments_serve(device, 8)


class OnAGpu:
    """What is looked at of a tensor, as if it were on a GPU."""

    is_cuda, device = True, None

    def __init__(self, *shape, dtype=torch.bfloat16):
        self.shape, self.dtype = shape, dtype


def test_cudnn_is_for_half_precision_from_hopper_on_and_several_keys(monkeypatch):
    monkeypatch.setattr(attention, "_cudnn_attends", lambda: True)
    q, k = OnAGpu(2, 4, 16, 128), OnAGpu(2, 4, 16, 128)
    assert cudnn_serves(q, k)
    assert not cudnn_serves(torch.zeros(q.shape).bfloat16(), k), "not on a CPU"
    assert not cudnn_serves(OnAGpu(2, 4, 16, 128, dtype=torch.float32), k)
    assert not cudnn_serves(OnAGpu(2, 4, 16, 136), k)
    assert not cudnn_serves(OnAGpu(2, 4, 16, 12), k)
    assert not cudnn_serves(OnAGpu(0, 4, 16, 128), k)
    assert not cudnn_serves(q, OnAGpu(2, 4, 1, 128))
    monkeypatch.setattr(attention, "_cudnn_attends", lambda: False)
    assert not cudnn_serves(q, k)


def test_whether_cudnn_attends_is_no_question_of_compiled_code(monkeypatch):
    """torch 2.11 cannot ask it there, and broke the graph at every layer: 3% of a step."""

    def unknown_to_the_compiler():
        torch._dynamo.graph_break()
        return False

    def asks(x):
        return x.sin() if attention._cudnn_attends() else x.cos()

    monkeypatch.setattr(torch.backends.cuda, "cudnn_sdp_enabled", unknown_to_the_compiler)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    torch.compile(asks, backend="eager")(torch.ones(3))
    assert not torch._dynamo.utils.counters["graph_break"]
    torch._dynamo.reset()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_a_gpu_attention_without_a_mask_is_that_with_a_mask_of_ones():
    torch.manual_seed(4)
    q, k, v = (torch.randn(2, 16, 3, 4, 32, device="cuda").bfloat16()[:, :, 1] for _ in range(3))
    q, k, v = (part.transpose(1, 2).requires_grad_() for part in (q, k, v))
    given = torch.randn(2, 4, 16, 32, device="cuda").bfloat16()
    ones = torch.ones(2, 1, 1, 16, dtype=torch.bool, device="cuda")
    found = [
        (y, *torch.autograd.grad(y, (q, k, v), given))
        for y in (attend(q, k, v), attend(q, k, v, ones))
    ]
    torch.testing.assert_close(*found, rtol=3e-2, atol=3e-2)


@pytest.mark.parametrize("queries", [5, 300])
def test_a_cpu_trains_alike_by_both_of_its_ways(monkeypatch, queries):
    """Written out where it fits, else by torch's kernel; who may attend to nothing is a number."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(3, 2, length, 8, dtype=torch.double) for length in (queries, 60, 60))
    mask = torch.rand(3, 1, 1, 60) > 0.3
    assert (queries * 60 <= attention.WRITTEN_OUT) == (queries == 5)
    found = []
    for how in (attend, attention.attend_written, torch.nn.functional.scaled_dot_product_attention):
        given = [x.clone().requires_grad_() for x in (q, k, v)]
        y = how(*given, mask)
        (y.sin()).sum().backward()
        found.append([y.detach(), *(x.grad for x in given)])
    for one in found[1:]:
        torch.testing.assert_close(one, found[0], rtol=1e-9, atol=1e-12)
    mask[0] = False
    assert attention.attend_written(q, k, v, mask).isfinite().all()
    asked, slow = [], attention.attend_written
    monkeypatch.setattr(attention, "attend_written", lambda *a: (asked.append(a), slow(*a))[1])
    attend(q, k, v, mask)
    assert len(asked) == (queries == 5)
    with torch.no_grad():
        attend(q, k, v, mask)
    assert len(asked) == 1 + (queries == 5), "without gradients nothing is kept"


@pytest.mark.parametrize("length", [1, 7])
@pytest.mark.parametrize("masked", ["not", "some", "all true", "one row has nothing"])
def test_self_attention_of_one_product_is_that_of_its_three_parts(masked, length):
    """Where a CPU trains its gradients are written by hand."""
    torch.manual_seed(1)
    qkv = torch.randn(3, length, 3 * 8, dtype=torch.double, requires_grad=True)
    mask = None if masked == "not" else torch.ones(3, 1, 1, length, dtype=torch.bool)
    if masked in ("some", "one row has nothing"):
        assert mask is not None
        mask[1, ..., 1:] = False
    if masked == "one row has nothing":
        assert mask is not None
        mask[2] = False
    given = torch.randn(3, length, 8, dtype=torch.double)
    parts = (split_heads(part, 2) for part in qkv.chunk(3, dim=-1))
    slow = merge_heads(attention.attend_written(*parts, mask))
    found = [(y, *torch.autograd.grad(y, qkv, given)) for y in (attend_joined(qkv, 2, mask), slow)]
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)
    if masked != "one row has nothing":  # nobody reads its mean: the gradient is a number, not it
        assert torch.autograd.gradcheck(lambda x: attend_joined(x, 2, mask), qkv)
    with torch.no_grad():
        torch.testing.assert_close(attend_joined(qkv, 2, mask), slow)


def test_self_attention_of_one_product_is_written_by_hand_where_a_cpu_trains_and_it_fits(
    monkeypatch,
):
    qkv, asked = torch.randn(2, 5, 12, requires_grad=True), []
    monkeypatch.setattr(attention, "attend", lambda *a: (asked.append(a), attend(*a))[1])

    def by_hand(qkv: torch.Tensor = qkv) -> bool:
        asked.clear()
        attend_joined(qkv, 2)
        return not asked

    assert by_hand()
    assert by_hand(qkv.double())
    assert not by_hand(qkv.bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not by_hand()
    with torch.no_grad():
        assert not by_hand()
    monkeypatch.setattr(attention, "WRITTEN_OUT", 25)
    assert by_hand()
    monkeypatch.setattr(attention, "WRITTEN_OUT", 24)
    assert not by_hand()
    monkeypatch.undo()
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert "_Joined" not in str(attend_joined(qkv, 2).grad_fn)

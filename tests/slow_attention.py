"""What kernels of attention work out, slowly: for tests."""

import itertools

import torch


def slow_sequences(q, k, v, begins, ends, longest_q, longest_k):
    """Attention of each sequence's queries to its own keys: what a GPU's kernel does at once."""
    longest = [int(each.diff().max()) for each in (begins, ends)]
    assert longest[0] <= longest_q, "a kernel leaves the rest unwritten"
    assert longest[1] <= longest_k
    parts = []
    for (a, b), (c, d) in zip(
        itertools.pairwise(begins.tolist()), itertools.pairwise(ends.tolist()), strict=True
    ):
        scores = torch.einsum("qhd,khd->hqk", q[a:b], k[c:d]) / q.shape[-1] ** 0.5
        parts.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), v[c:d]))
    return torch.cat(parts)

"""A beam search as one CUDA graph: what the host has to say for each kernel is said once.

A narrow model, or one user alone, is served in less time than it takes to start its kernels one by
one. A graph replays them all at once, for batches of one shape and the weights where they are: they
may change in place. Nothing in a search waits for the GPU, so all of it can be captured.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import fields

import torch
from torch import Tensor

from onerec.common import autocast, evaluating
from onerec.model.batch import Batch
from onerec.model.generate import Generated
from onerec.model.onerec import OneRec

WARM_UP = 3  # searches before: kernels are chosen, pieces compiled, memory is found


class CapturedSearch:
    """A search of bfloat16 products for batches of the shape of one, on its GPU.

    Args:
        model: whose search it is.
        batch: of the shape that is served.
        search: what is done for a batch, `beam_search` with all else that it is given; it may not
            wait for the GPU.

    Raises:
        ValueError: the batch is not on a GPU, or as of `search`.
    """

    def __init__(self, model: OneRec, batch: Batch, search: Callable[[Batch], Generated]) -> None:
        device = batch.target.device
        if device.type != "cuda":
            raise ValueError(f"the batch is on {device}: a search is captured on a GPU")
        self.model, self.device = model, device
        self.batch = batch.mapped(torch.clone)  # the graph reads these very tensors
        self._search = search
        self._capture()

    def _capture(self) -> None:
        torch.clear_autocast_cache()  # what is cast outside would never be cast again
        self.graph = torch.cuda.CUDAGraph()
        with evaluating(self.model), _on_its_own_stream():
            for _ in range(WARM_UP):
                self._searched()
        with evaluating(self.model), torch.cuda.graph(self.graph):
            self.found = self._searched()
        self.kept = [mixture.kept for mixture in self.model.mixtures()]

    def _searched(self) -> Generated:
        with autocast(self.device):
            return self._search(self.batch)

    def __call__(self, batch: Batch) -> Generated:
        """The lists of another batch of the same shape; tensors of its own.

        Raises:
            ValueError: another shape.
        """
        kept, given = _tensors(self.batch), _tensors(batch)
        shapes = [[tuple(tensor.shape) for tensor in tensors] for tensors in (kept, given)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"captured for the shapes {shapes[0]}, not {shapes[1]}")
        for mine, theirs in zip(kept, given, strict=True):
            mine.copy_(theirs)
        for mixture in self.model.mixtures():
            mixture.keep(torch.bfloat16)
        if any(m.kept is not own for m, own in zip(self.model.mixtures(), self.kept, strict=True)):
            self._capture()  # a pass with gradients has let go of what the graph reads
        self.graph.replay()
        return Generated(
            *(
                getattr(self.found, field.name).clone()
                for field in fields(Generated)
                if field.name != "trace"
            )
        )


def _tensors(batch: Batch) -> list[Tensor]:
    """All of a batch, in one order."""
    found: list[Tensor] = []

    def seen(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    batch.mapped(seen)
    return found


@contextlib.contextmanager
def _on_its_own_stream() -> Iterator[None]:
    """Inside, work is another stream's, as what comes before a capture must be."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream().wait_stream(stream)

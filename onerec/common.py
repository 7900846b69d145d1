"""Device, threads and randomness: the few things every numerical module needs.

No global state is set on import. Randomness is always a `torch.Generator` that is handed down.
"""

import contextlib
import ctypes
import functools
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from onerec.errors import RecipeError

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

SEEDS = 2**63  # torch takes a seed below it
MMAP_THRESHOLD, TRIM_THRESHOLD, TOP_PAD = -3, -1, -2  # names of <malloc.h>


def pick_device(name: str = "auto") -> torch.device:
    """`auto` is the first CUDA device where there is one, else the CPU.

    Raises:
        RecipeError: no such kind of device, or a CUDA device is asked for that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    unknown = RecipeError(f"device {name!r}: unknown; use auto, cpu, cuda or cuda:0")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise unknown from None
    if device.type not in ("cpu", "cuda"):
        raise unknown
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RecipeError(f"device {name!r}: no CUDA device is visible here; use --set device=cpu")
    count = torch.cuda.device_count() if device.type == "cuda" else 0
    if device.index is not None and device.type == "cuda" and device.index >= count:
        raise RecipeError(f"device {name!r}: {count} visible here, numbered from cuda:0")
    return device


def device_memory(device: torch.device | str) -> int | None:
    """Bytes of a GPU in all; None for the CPU, whose memory is what everything is in already."""
    device = torch.device(device)
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None


def autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """bfloat16 matrix products on a GPU, plain float32 on the CPU."""
    if device.type == "cuda":
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return contextlib.nullcontext()


def cores() -> int:
    """Processor cores that this process may keep busy: OMP_NUM_THREADS where it is set."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (int(asked) if asked.isdecimal() else 0) or here or 1


def set_threads(count: int | None = None) -> int:
    """Use `count` CPU threads, by default all `cores`, and return the number."""
    threads = count or cores()
    torch.set_num_threads(threads)
    return threads


def spread(work: Callable[[ItemT], ResultT], items: Sequence[ItemT], workers: int) -> list[ResultT]:
    """`work(item)` for each item, in order, by `workers` threads that have one core each.

    Torch keeps its settings by thread: `work` itself says whether it wants gradients or autocast.
    """
    if workers < 2 or len(items) < 2:
        return [work(item) for item in items]
    return list(_pool(workers).map(work, items))


@functools.cache
def _pool(workers: int) -> ThreadPoolExecutor:
    return one_core_each(workers)


def one_core_each(workers: int) -> ThreadPoolExecutor:
    """Threads whose operations stay on one thread each; the caller's number is left as it is."""
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, "onerec", _one_core)
    all_here = threading.Barrier(workers)
    list(pool.map(lambda _: all_here.wait(), range(workers)))
    torch.set_num_threads(before)  # new threads take over the number that was set last
    return pool


def _one_core() -> None:
    torch.get_num_threads()  # a thread's first question takes over the process's number: ask now
    torch.set_num_threads(1)


def keep_memory() -> None:
    """Let the allocator keep what tensors give back, for the whole process; glibc only, else no-op.

    By default each block above 128 KiB that is freed goes back to the system and costs a page
    fault per 4 KiB when it returns; activations of a megabyte come and go at every layer. With it
    beam search on two cores serves about a tenth more users (onerec.bench.generate).
    """
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        for option in (MMAP_THRESHOLD, TRIM_THRESHOLD):
            mallopt(option, 1 << 30)
        mallopt(TOP_PAD, 1 << 26)


def generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator; the same seed gives the same stream on the same kind of device."""
    return torch.Generator(device=device).manual_seed(seed % SEEDS)


@contextlib.contextmanager
def tensor_cores() -> Iterator[None]:
    """Inside, a GPU's float32 products are TF32: 10 bits of mantissa, several times as fast."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


@contextlib.contextmanager
def in_float32(x: torch.Tensor) -> Iterator[None]:
    """Inside, products of float32 stay so; where autocast was on, a GPU may round them to TF32."""
    rounded = x.is_cuda and torch.is_autocast_enabled("cuda")
    with (
        torch.autocast(x.device.type, enabled=False),
        tensor_cores() if rounded else contextlib.nullcontext(),
    ):
        yield


@contextlib.contextmanager
def evaluating(*modules: torch.nn.Module) -> Iterator[None]:
    """Switch modules to evaluation without gradients, and back to what they were."""
    before = [module.training for module in modules]
    for module in modules:
        module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in zip(modules, before, strict=True):
            module.train(training)

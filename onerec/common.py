"""Device, threads and randomness: the few things every numerical module needs.

No global state is set on import. Randomness is always a `torch.Generator` that is handed down.
"""

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator

import torch

from onerec.errors import RecipeError

MMAP_THRESHOLD, TRIM_THRESHOLD, TOP_PAD = -3, -1, -2  # names of <malloc.h>


def pick_device(name: str = "auto") -> torch.device:
    """`auto` is the first CUDA device where there is one, else the CPU.

    Raises:
        RecipeError: no such kind of device, or a CUDA device is asked for and none is there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise RecipeError(f"device {name!r}: unknown; use auto, cpu, cuda or cuda:0") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RecipeError(f"device {name!r}: no CUDA device is visible here; use --set device=cpu")
    return device


def autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """bfloat16 matrix products on a GPU, plain float32 on the CPU."""
    if device.type == "cuda":
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return contextlib.nullcontext()


def set_threads(count: int | None = None) -> int:
    """Use `count` CPU threads and return the number.

    The default is OMP_NUM_THREADS where it is a number, else all that this process may run on.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "")
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = count or (int(asked) if asked.isdecimal() else 0) or available or 1
    torch.set_num_threads(threads)
    return threads


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
    return torch.Generator(device=device).manual_seed(seed)


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

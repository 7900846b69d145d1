"""What a run will cost, from its recipe and the size of its dataset, before anything is built.

`onerec.count` has the formulas. Without a dataset's cardinalities the tables of its features are
left out (at `tiny` an eighth of the parameters), and without what its contexts hold they are taken
as full; `onerec.explain.cost` finds both. Seconds are operations over a rate measured once: an
estimate to choose by, not a promise.
"""

import contextlib
import ctypes
import functools
import importlib.metadata
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil

from onerec.count import Cardinalities, Counter
from onerec.errors import RecipeError
from onerec.recipes import Recipe
from onerec.units import byte_text

# Useful training FLOP/s reached here: small matrices on two CPU cores; one H200 in bfloat16 by the
# model's width (that of the lower rate was not noted, it is taken for `beauty`'s), and how much
# faster when compiled.
CPU_RATE = 3.5e10
GPU_RATES = {256: 2.5e13, 1024: 2.9e14}
COMPILED = 1.5
HOPELESS = 8  # times the memory that there is
ROOM = 0.9  # of it for the training; the program and the data have the rest
# Dense bfloat16, without sparsity, as NVIDIA's data sheets say; the first name that fits counts.
PEAK_RATES = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H200 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
}
BYTES_TRAINED = 16  # float32 weight, gradient and two AdamW moments
BYTES_KEPT = 4  # of an activation; 2 of those that a GPU keeps in bfloat16
_CGROUPS = ("memory.max", "memory/memory.limit_in_bytes")  # version 2, version 1
TABLES = ("code_table", "item_table", "feature_tables")  # parts whose parameters are rows of one


@dataclass(frozen=True)
class Cost:
    """What pre-training takes; the other stages come on top.

    `embeddings` are the parameters that are rows of a table. `state_bytes` hold weights, gradients
    and the moments of AdamW, `sample_bytes` the activations of one full context: about the most
    that a batch keeps, for a CPU drops the padding (and keeps the weights of short attention), and
    a GPU keeps part of it in bfloat16.
    """

    parameters: int
    active_parameters: int
    embeddings: int
    flops_per_sample: float
    samples: int
    batch_size: int
    sample_bytes: float
    rate: float

    @property
    def flops(self) -> float:
        """Operations of the whole training."""
        return self.samples * self.flops_per_sample

    @property
    def seconds(self) -> float:
        """At the rate that was once measured on such a device."""
        return self.flops / self.rate

    @property
    def state_bytes(self) -> float:
        return self.parameters * BYTES_TRAINED

    @property
    def memory_bytes(self) -> float:
        return self.state_bytes + self.batch_size * self.sample_bytes


def estimate(
    recipe: Recipe,
    n_items: int,
    device: str = "cpu",
    known: Cardinalities | None = None,
    events: float | None = None,
    targets: float | None = None,
) -> Cost:
    """The cost of pre-training `recipe` on a dataset of `n_items`, or of those cardinalities.

    `events` and `targets` of a mean context decide its operations; None: a full one's.
    """
    counter = Counter(recipe, known or Cardinalities(code_sizes(recipe, n_items), n_items))
    return Cost(
        parameters=counter.total(),
        active_parameters=counter.active_total(),
        embeddings=sum(counter.parameters()[part] for part in TABLES),
        flops_per_sample=counter.training_flops(events, targets),
        samples=recipe.train.steps * recipe.train.batch_size,
        batch_size=recipe.train.batch_size,
        sample_bytes=BYTES_KEPT * sum(counter.activations().values()),
        rate=CPU_RATE if device == "cpu" else gpu_rate(recipe.model.width, recipe.train.compile),
    )


def gpu_rate(width: int, compiled: bool = False) -> float:
    """Training FLOP/s that a model of that width reaches on a GPU.

    Between the two widths as a power of the width (ours), beyond them as at the nearest.
    """
    widths, rates = np.log(list(GPU_RATES)), np.log(list(GPU_RATES.values()))
    rate = math.exp(float(np.interp(math.log(width), widths, rates)))
    return rate * COMPILED if compiled else rate


def code_sizes(recipe: Recipe, n_items: int) -> tuple[int, ...]:
    """Codes per level as the tokenizer will choose them (`rq_kmeans.codebook_size_for`)."""
    size = recipe.tokenizer.codebook_size
    if not recipe.tokenizer.exact_size:
        size = 1 << max(1, min(n_items // 4, size).bit_length() - 1)
    return (size,) * recipe.tokenizer.levels


def too_much(recipe: Recipe, cost: Cost, available: int, device: str = "cpu") -> str | None:
    """One line where a training takes more memory than there is: which setting lowers it."""
    if cost.memory_bytes <= available:
        return None
    has = "this machine has" if device == "cpu" else "its GPU has"
    says = f"This training takes up to {byte_text(cost.memory_bytes)}, and {has} "
    says += f"{byte_text(available)}: "
    fits = int((ROOM * available - cost.state_bytes) / cost.sample_bytes)
    if fits >= 1:
        now = recipe.train.batch_size
        return f"{says}lower train.batch_size from {now:,} to {fits:,} or less."
    says += f"its weights and their optimiser alone take {byte_text(cost.state_bytes)}; lower "
    experts = f"model.experts (now {recipe.model.experts:,}) or " if recipe.model.experts else ""
    return f"{says}{experts}model.width (now {recipe.model.width:,})."


def refuse_hopeless(recipe: Recipe, n_items: int, shares: int, available: int | None) -> None:
    """Refuse what would take many times the memory of a CPU, which no system says in time.

    The estimate is of full contexts, so what is above memory by less than `HOPELESS` may fit.

    Args:
        shares: parts of a batch of which a machine holds one at a time.
        available: bytes; None where that is not known.

    Raises:
        RecipeError: it names the setting to lower.
    """
    if available is None:
        return
    whole = estimate(recipe, n_items)
    expected = replace(whole, sample_bytes=whole.sample_bytes / shares)
    if expected.memory_bytes > HOPELESS * available:
        raise RecipeError(str(too_much(recipe, expected, available)))


def peak_rate(device: str) -> float | None:
    """Peak dense bfloat16 FLOP/s of a device by the name that its driver gives; None: not known."""
    return next((rate for name, rate in PEAK_RATES.items() if name in device), None)


def mfu(flops_per_sample: float, samples_per_second: float, peak: float | None) -> float | None:
    """Model FLOPs utilisation: the share of a device's peak rate that training makes use of.

    Args:
        flops_per_sample: `Counter.training_flops` at the mean number of events of a context.
        samples_per_second: contexts trained on per second and device.
        peak: FLOP/s, see `peak_rate`; None where it is not known, as on a CPU.

    Returns:
        A number from 0 to 1, or None without a peak.
    """
    return None if peak is None else flops_per_sample * samples_per_second / peak


def device_of(recipe: Recipe) -> str:
    """`cuda` or `cpu`: where `recipe` would train here, found without loading torch.

    Raises:
        RecipeError: the recipe asks for a CUDA device and there is none.
    """
    if recipe.device == "auto":
        return "cuda" if cuda_is_here() else "cpu"
    kind = recipe.device.partition(":")[0]
    if kind == "cuda" and not cuda_is_here():
        raise RecipeError(f"device={recipe.device}: no CUDA device is visible here; use device=cpu")
    return kind


@functools.cache
def cuda_is_here() -> bool:
    """Whether torch will find a CUDA device: it is built for one and the driver shows one."""
    if importlib.metadata.version("torch").endswith("+cpu"):
        return False
    driver = _driver()
    count = ctypes.c_int(0)
    return (
        driver is not None and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
    )


@functools.cache
def memory_of(device: str) -> int | None:
    """Bytes of memory that a `device_of` has in all, its first one's; None: not known.

    Of a CPU: the machine's, or what a container may use of it.
    """
    if device != "cpu":
        driver, size, first = _driver(), ctypes.c_size_t(0), ctypes.c_int(0)
        if driver is None or driver.cuDeviceGet(ctypes.byref(first), 0):
            return None
        return None if driver.cuDeviceTotalMem_v2(ctypes.byref(size), first) else size.value
    limits = [psutil.virtual_memory().total]
    for name in _CGROUPS:
        with contextlib.suppress(OSError, ValueError):  # not there, or "max": no limit
            limits.append(int((Path("/sys/fs/cgroup") / name).read_text()))
    return min(limits)


def _driver() -> ctypes.CDLL | None:
    """The CUDA driver, ready to be asked."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    return driver if driver.cuInit(0) == 0 else None

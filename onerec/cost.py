"""What a run will cost, from its recipe and the size of its dataset, before anything is built.

`onerec.count` has the formulas. Without a dataset's cardinalities the narrow tables of its features
are left out (at `tiny` a few per cent), and contexts are taken as full. Seconds are operations over
a rate measured once: an estimate to choose by, not a promise.
"""

import ctypes
import functools
import importlib.metadata
from dataclasses import dataclass

from onerec.count import Cardinalities, Counter
from onerec.errors import RecipeError
from onerec.recipes import Recipe

# Useful training FLOP/s reached here: small matrices on two CPU cores; one H200 in eager bfloat16.
CPU_RATE, GPU_RATE = 2.5e10, 2.5e13
# Dense bfloat16, without sparsity, as NVIDIA's data sheets say; the first name that fits counts.
PEAK_RATES = {"H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12}
_BYTES_TRAINED = 16  # float32 weight, gradient and two AdamW moments
_BYTES_KEPT = 4  # of an activation


@dataclass(frozen=True)
class Cost:
    """`seconds` is for pre-training alone; `memory_bytes` is weights, optimiser and activations."""

    parameters: int
    active_parameters: int
    flops_per_sample: float
    memory_bytes: float
    seconds: float


def estimate(
    recipe: Recipe, n_items: int, device: str = "cpu", known: Cardinalities | None = None
) -> Cost:
    """The cost of pre-training `recipe` on a dataset of `n_items`, or of those cardinalities."""
    if known is None:
        size = recipe.tokenizer.codebook_size
        if not recipe.tokenizer.exact_size:
            size = min(size, max(2, n_items // 4))
        known = Cardinalities((size,) * recipe.tokenizer.levels, n_items)
    counter = Counter(recipe, known)
    flops, parameters = counter.training_flops(), counter.total()
    kept = sum(counter.activations().values())
    samples = recipe.train.steps * recipe.train.batch_size
    return Cost(
        parameters=parameters,
        active_parameters=counter.active_total(),
        flops_per_sample=flops,
        memory_bytes=parameters * _BYTES_TRAINED + _BYTES_KEPT * recipe.train.batch_size * kept,
        seconds=samples * flops / (CPU_RATE if device == "cpu" else GPU_RATE),
    )


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
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    found = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    return found and count.value > 0

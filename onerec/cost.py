"""What a run will cost, from its recipe and the size of its dataset, before anything is built.

Parameters count tables, attention, feed-forward, experts and heads, but not the narrow tables of
event features, which depend on the data (at `tiny` they are a few per cent). One training sample
costs three forward passes (one forward, one backward of twice its size). Seconds are that over a
rate measured once: an estimate to choose by, not a promise.
"""

import ctypes
import functools
import importlib.metadata
from dataclasses import dataclass

from onerec.errors import RecipeError
from onerec.recipes import Recipe

# Useful training FLOP/s reached here: small matrices on two CPU cores; one H200 in eager bfloat16.
CPU_RATE, GPU_RATE = 2.5e10, 2.5e13
_BYTES_TRAINED = 16  # float32 weight, gradient and two AdamW moments


@dataclass(frozen=True)
class Cost:
    """`seconds` is for pre-training alone; `memory_bytes` is weights, optimiser and activations."""

    parameters: int
    active_parameters: int
    flops_per_sample: float
    memory_bytes: float
    seconds: float


def estimate(recipe: Recipe, n_items: int, device: str = "cpu") -> Cost:
    """The cost of pre-training `recipe` on a dataset of `n_items`."""
    model, width = recipe.model, recipe.model.width
    ffn = 3 * width * 2 * width
    expert = 3 * width * max(128, round(8 * width / 3 / 128) * 128)
    attention = 4 * width * width
    experts, active = (model.experts or 1), (model.active_experts if model.experts else 1)
    block = expert if model.experts else ffn
    encoder = model.encoder_layers * (attention + ffn)
    decoder = model.decoder_layers * 2 * attention
    levels = recipe.tokenizer.levels
    codes = levels * min(recipe.tokenizer.codebook_size, max(2, n_items // 4)) * width
    items = n_items * width if recipe.history.item_input != "codes" else 0
    tables = codes + items + (0 if model.tied_output else codes)
    parameters = tables + encoder + decoder + model.decoder_layers * experts * block
    history = recipe.history
    clusters, queries = history.lifelong_length, history.lifelong_queries
    lifelong = 0
    if clusters:
        parameters += 2 * (attention + ffn) + 2 * queries * width  # two QFormer blocks
        lifelong = clusters * 7 * width**2 + queries * 2 * (attention // 2 + ffn)
        lifelong += 4 * queries * clusters * width
    positions = 1 + history.short_length + history.positive_length + queries * bool(clusters)
    reads = encoder + model.decoder_layers * 2 * width * width  # keys and values of the context
    writes = decoder + model.decoder_layers * active * block + codes // levels
    tokens = recipe.train.targets * levels
    scores = model.encoder_layers * 2 * positions**2 * width
    flops = 6.0 * (positions * reads + tokens * writes + scores + lifelong)
    states = positions * 16 * model.encoder_layers + clusters * 8
    activations = 4.0 * recipe.train.batch_size * width * states
    rate = CPU_RATE if device == "cpu" else GPU_RATE
    return Cost(
        parameters=parameters,
        active_parameters=parameters - model.decoder_layers * (experts - active) * block,
        flops_per_sample=flops,
        memory_bytes=parameters * _BYTES_TRAINED + activations,
        seconds=recipe.train.steps * recipe.train.batch_size * flops / rate,
    )


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

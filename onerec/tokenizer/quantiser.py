"""What every quantiser can do, and how one is made.

A quantiser turns content vectors into L codes each. Its codebooks live where `encode` maps to: for
residual k-means in the space of the content itself, for RQ-VAE in a latent space. There codes are
the nearest entries level by level (but for the fitted items of balanced codebooks, and for refined
ones, which look several paths ahead).
"""

from __future__ import annotations

from typing import Protocol, Self

from torch import Tensor

from onerec.errors import RecipeError
from onerec.tokenizer.balanced_rq_kmeans import BalancedRQKmeans, BalancedRQKmeansConfig
from onerec.tokenizer.refined_rq_kmeans import RefinedRQKmeans, RefinedRQKmeansConfig
from onerec.tokenizer.rq_kmeans import RQKmeans, RQKmeansConfig
from onerec.tokenizer.rq_vae import RQVAE, RQVAEConfig

KINDS = ("rq_kmeans", "refined", "balanced", "rq_vae")

QuantiserConfig = RQKmeansConfig | RefinedRQKmeansConfig | BalancedRQKmeansConfig | RQVAEConfig
_Class = type[RQKmeans] | type[RefinedRQKmeans] | type[BalancedRQKmeans] | type[RQVAE]


class Quantiser(Protocol):
    """n items, d content dimensions, e dimensions of the codebooks, L levels of N codes."""

    @property
    def codebooks(self) -> Tensor:
        """(L, N, e) float32."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """N of each level."""

    def fit(self, x: Tensor) -> Self:
        """Learn from x (n, d)."""

    def transform(self, x: Tensor) -> Tensor:
        """The codes (n, L) int64 of x (n, d), fitted on or not."""

    def fit_transform(self, x: Tensor) -> Tensor:
        """Learn from x (n, d) and return its codes (n, L)."""

    def inverse_transform(self, codes: Tensor) -> Tensor:
        """The content (n, d) that codes (n, L) stand for."""

    def encode(self, x: Tensor) -> Tensor:
        """What the codebooks quantise: (n, d) -> (n, e)."""

    def decode(self, quantised: Tensor) -> Tensor:
        """Sums of code vectors as content: (n, e) -> (n, d)."""

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors by name, `codebooks` among them, for `load_quantiser`."""


def quantiser_config(
    kind: str,
    *,
    levels: int,
    codebook_size: int,
    seed: int,
    iterations: int = 25,
    init: str = "k-means++",
    cap: float = 1.0,
    steps: int = 1_000,
) -> QuantiserConfig:
    """The configuration of a kind; `iterations` and `init` are k-means', `steps` RQ-VAE's.

    `cap` is that of balanced codebooks.

    Raises:
        RecipeError: an unknown kind, or a number below 1.
    """
    _check(kind)
    if kind == "rq_vae":
        return RQVAEConfig(levels=levels, codebook_size=codebook_size, steps=steps, seed=seed)
    if kind == "balanced":
        return BalancedRQKmeansConfig(levels, codebook_size, iterations, init, seed, cap=cap)
    made = RefinedRQKmeansConfig if kind == "refined" else RQKmeansConfig
    return made(levels, codebook_size, iterations, init, seed)


def make_quantiser(kind: str, config: QuantiserConfig) -> Quantiser:
    """A quantiser that is not fitted yet.

    Raises:
        RecipeError: an unknown kind.
        ValueError: a configuration of another kind.
    """
    return _class(kind, config)(config)  # type: ignore[arg-type]


def load_quantiser(kind: str, config: QuantiserConfig, state: dict[str, Tensor]) -> Quantiser:
    """A fitted quantiser from its `state_dict`.

    Raises:
        RecipeError: an unknown kind.
        RunError: tensors that are not there or of another shape.
        ValueError: a configuration of another kind.
    """
    return _class(kind, config).from_state(config, state)  # type: ignore[arg-type]


def _check(kind: str) -> None:
    if kind not in KINDS:
        raise RecipeError(f"tokenizer kind {kind!r} is unknown; choose one of {', '.join(KINDS)}")


def _class(kind: str, config: QuantiserConfig) -> _Class:
    _check(kind)
    classes: dict[str, tuple[_Class, type]] = {
        "rq_kmeans": (RQKmeans, RQKmeansConfig),
        "refined": (RefinedRQKmeans, RefinedRQKmeansConfig),
        "balanced": (BalancedRQKmeans, BalancedRQKmeansConfig),
        "rq_vae": (RQVAE, RQVAEConfig),
    }
    made, wanted = classes[kind]
    if type(config) is not wanted:
        raise ValueError(f"{kind} takes a {wanted.__name__}, not a {type(config).__name__}")
    return made

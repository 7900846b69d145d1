"""RQ-VAE: residual codes in a latent space that an autoencoder learns for them.

TIGER, arXiv 2305.05065, §3.1: an MLP 768-512-256-128-32 with ReLU, 3 levels of 256 codes, beta .25,
codebooks that begin as k-means of the first batch. Its optimiser is not known; AdamW with decay on
the MLPs' matrices alone is ours, as are the restart of dead codes and the decoder, which is the
encoder turned round.

Shapes: B rows, d content dimensions, E latent dimensions, L levels, N codes per level.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from onerec.errors import RecipeError, RunError
from onerec.loop import EpochRows, StepResult, Trainee, loop
from onerec.tokenizer.distances import nearest
from onerec.tokenizer.kmeans import assign, check_vectors
from onerec.tokenizer.rq_kmeans import (
    ROWS,
    RQKmeans,
    RQKmeansConfig,
    fitted,
    reconstruct,
    residual_codes,
)

START_ROWS = 2**16
"""The k-means start looks at so many rows at most; TIGER takes the first batch."""
WEIGHT_DECAY, CLIP = 1e-4, 1.0


@dataclass(frozen=True)
class RQVAEConfig:
    """Shape and training. `batch_size` 0 takes all rows in each step.

    `restart_every`: after so many steps a code that no row took in them moves to what is left of a
    row at its level; not in the last quarter of the training. `warm_up` steps of plain autoencoding
    come before the codebooks, which then start from what the encoder has learned; ours.
    """

    levels: int = 3
    codebook_size: int = 256
    hidden: tuple[int, ...] = (512, 256, 128)
    latent_dim: int = 32
    beta: float = 0.25
    steps: int = 1_000
    batch_size: int = 256
    learning_rate: float = 1e-3
    restart_every: int = 50
    warm_up: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.warm_up < 0:
            raise RecipeError(f"tokenizer warm_up is {self.warm_up}; it must be at least 0")
        for name in ("levels", "codebook_size", "latent_dim", "steps", "restart_every"):
            if getattr(self, name) < 1:
                raise RecipeError(
                    f"tokenizer {name} is {getattr(self, name)}; it must be at least 1"
                )


class RQVAENetwork(nn.Module):
    """Encoder, codebooks and decoder; which codes were taken since `used` was last cleared."""

    used: Tensor  # (L, N) bool

    def __init__(self, config: RQVAEConfig, dim: int) -> None:
        super().__init__()
        self.config, self.plain = config, False
        widths = (dim, *config.hidden, config.latent_dim)
        shape = (config.levels, config.codebook_size)
        self.encoder, self.decoder = _mlp(widths), _mlp(widths[::-1])
        self.codebooks = nn.Parameter(torch.zeros(*shape, config.latent_dim))
        self.register_buffer("used", torch.zeros(*shape, dtype=torch.bool), persistent=False)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """He's start for the matrices, zero for biases; the codebooks wait for `start`."""
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif name != "codebooks":
                drawn = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(drawn * (2 / parameter.shape[1]) ** 0.5)

    def loss(self, x: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """`rq_vae_loss` of x (B, d) with its three parts; notes which codes were taken.

        Where `plain`, the codebooks stay out: the autoencoder's loss alone.
        """
        latent = self.encoder(x)  # (B, E)
        if self.plain:
            plain = (x - self.decoder(latent)).square().sum(1).mean()
            zero = plain.new_zeros(())
            return plain, {"reconstruction": plain, "codebook": zero, "commitment": zero}
        quantised, codes, codebook, commitment = quantise(latent, self.codebooks)
        self.used[torch.arange(len(self.used), device=x.device), codes] = True
        said = self.decoder(straight_through(latent, quantised))
        reconstruction = (x - said).square().sum(1).mean()
        loss = reconstruction + codebook + self.config.beta * commitment
        return loss, {
            "reconstruction": reconstruction,
            "codebook": codebook,
            "commitment": commitment,
        }


def quantise(latent: Tensor, codebooks: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the codebooks (L, N, E) make of latent (B, E), level by level.

    Returns the sum of the chosen entries (B, E), the codes (B, L) and two losses, sums over levels
    and dimensions, means over rows (TIGER §3.1): codebook ||sg[r_d] - e||^2 reaches the entry of
    its level alone, commitment ||r_d - sg[e]||^2 the encoder alone. r_d subtracts the entries of
    the levels before as constants: read to the letter the commitment would move them too.
    """
    residual, quantised = latent, torch.zeros_like(latent)
    codebook = commitment = latent.new_zeros(())
    codes = []
    for book in codebooks:
        own = nearest(residual.detach().float(), book.detach().float())[0]  # (B,)
        entry = book[own]  # (B, E)
        codebook = codebook + (residual.detach() - entry).square().sum(1).mean()
        commitment = commitment + (residual - entry.detach()).square().sum(1).mean()
        residual = residual - entry.detach()
        quantised = quantised + entry
        codes.append(own)
    return quantised, torch.stack(codes, dim=1), codebook, commitment


def straight_through(latent: Tensor, quantised: Tensor) -> Tensor:
    """The value of `quantised` with the gradient of `latent`."""
    return latent + (quantised - latent).detach()


class RQVAE:
    """An autoencoder with L codebooks of N codes in its latent space; see `quantiser.Quantiser`."""

    def __init__(self, config: RQVAEConfig) -> None:
        self.config = config
        self._network: RQVAENetwork | None = None
        self.repaired: tuple[int, ...] = ()
        """After fit: how many dead codes were restarted, by level."""

    @property
    def network(self) -> RQVAENetwork:
        """Encoder, codebooks and decoder.

        Raises:
            RunError: the tokenizer is not fitted yet.
        """
        return fitted(self._network)

    @property
    def codebooks(self) -> Tensor:
        """(L, N, E) float32, in the latent space."""
        return self.network.codebooks.detach()

    @property
    def sizes(self) -> tuple[int, ...]:
        """N of each level."""
        return (self.config.codebook_size,) * self.config.levels

    def fit(self, x: Tensor) -> Self:
        """Learn encoder, codebooks and decoder from x (n, d).

        Raises:
            RecipeError: fewer vectors than codes.
            DataError: a value that is not finite.
        """
        for _ in self.training(x):
            pass
        return self

    def training(self, x: Tensor) -> Iterator[StepResult]:
        """`fit` step by step, for a caller that tells how far it is; same result."""
        config, x = self.config, x.detach().float()
        check_vectors(x, config.codebook_size, 1, "random")  # before a warm-up, not after
        generator = torch.Generator().manual_seed(config.seed)
        network = RQVAENetwork(config, x.shape[1])
        network.init_weights(generator)
        self._network = network.to(x.device)
        network.plain = config.warm_up > 0
        if not network.plain:
            self._start(x, generator)
        restarts = torch.zeros(config.levels, dtype=torch.int64)
        rows = EpochRows(len(x), config.batch_size or len(x), config.seed)
        optimizer = _adamw(network, config.learning_rate)

        def batch(step: int) -> Tensor:
            return x if rows.size == len(x) else x[rows(step).to(x.device)]

        def restart(step: int) -> None:
            step -= config.warm_up
            if network.plain and step == 0:
                network.plain = False
                self._start(x, generator)
            if step > 0 and step % config.restart_every == 0:
                if step <= 0.75 * config.steps:
                    restarts.add_(
                        restart_dead_codes(
                            network, optimizer, batch(config.warm_up + step), generator
                        )
                    )
                network.used.zero_()

        trainee = Trainee(
            model=network,
            optimizer=optimizer,
            loss=network.loss,
            batch=batch,
            learning_rate=lambda step: config.learning_rate,
            before_step=restart,
        )
        steps = config.warm_up + config.steps
        yield from loop(trainee, steps=steps, clip=CLIP, seed=config.seed)
        network.eval()
        self.repaired = tuple(restarts.tolist())

    @torch.no_grad()
    def _start(self, x: Tensor, generator: torch.Generator) -> None:
        """Codebooks from residual k-means of what the encoder, as it is, says of the rows."""
        config = self.config
        order = torch.randperm(len(x), generator=generator)[:START_ROWS].sort().values
        start = RQKmeans(
            RQKmeansConfig(config.levels, config.codebook_size, iterations=10, seed=config.seed)
        ).fit(self.encode(x[order.to(x.device)]))
        self.network.codebooks.copy_(start.codebooks)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Where the codebooks live: x (n, d) -> (n, E) float32."""
        first = next(self.network.encoder.parameters())
        if x.ndim != 2 or x.shape[1] != first.shape[1]:
            raise ValueError(f"x is {tuple(x.shape)}; the encoder takes (n, {first.shape[1]})")
        encoder = self.network.encoder.to(x.device)
        return torch.cat([encoder(rows.float()) for rows in torch.split(x, ROWS)])

    @torch.no_grad()
    def decode(self, quantised: Tensor) -> Tensor:
        """Sums of code vectors (n, E) as content (n, d)."""
        decoder = self.network.decoder.to(quantised.device)
        return torch.cat([decoder(rows) for rows in torch.split(quantised, ROWS)])

    def transform(self, x: Tensor) -> Tensor:
        """The codes of x (n, d), fitted on or not: (n, L) int64 on the device of x."""
        return residual_codes(self.encode(x), self.codebooks.to(x.device))

    def fit_transform(self, x: Tensor) -> Tensor:
        """Learn from x (n, d) and return its codes (n, L)."""
        return self.fit(x).transform(x)

    def inverse_transform(self, codes: Tensor) -> Tensor:
        """What the decoder makes of the chosen entries: codes (n, L) -> (n, d) float32."""
        return self.decode(reconstruct(codes, self.codebooks.to(codes.device)))

    def state_dict(self) -> dict[str, Tensor]:
        """{"codebooks": (L, N, E), "encoder...", "decoder..."}: what from_state needs."""
        return {name: tensor.detach() for name, tensor in self.network.state_dict().items()}

    @classmethod
    def from_state(cls, config: RQVAEConfig, state: dict[str, Tensor]) -> Self:
        """The fitted tokenizer again.

        Raises:
            RunError: a tensor is missing or not of the config's shape.
        """
        first = state.get("encoder.0.weight")
        network = RQVAENetwork(config, 1 if first is None else first.shape[1])
        for name, own in network.state_dict().items():
            found = state.get(name)
            if found is None or found.shape != own.shape:
                there = "not there" if found is None else f"{tuple(found.shape)}"
                raise RunError(
                    f"tokenizer tensor {name!r} is {there}, the recipe says {tuple(own.shape)}; "
                    "run `onerec tokenize` again"
                )
        network.load_state_dict({name: state[name].float() for name in network.state_dict()})
        tokenizer = cls(config)
        tokenizer._network = network.eval()
        return tokenizer


@torch.no_grad()
def restart_dead_codes(
    network: RQVAENetwork,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Move each code that `network.used` lacks to what is left of a row of x (B, d) at its level.

    Rows are drawn without replacement, so at most B codes of a level move; their moments in the
    optimiser begin anew. Returns how many moved, by level (L,).
    """
    residual, moments = network.encoder(x), optimizer.state.get(network.codebooks, {})
    moved = torch.zeros(len(network.codebooks), dtype=torch.int64)
    for level, book in enumerate(network.codebooks):
        rows = torch.randperm(len(x), generator=generator).to(x.device)
        dead = torch.nonzero(~network.used[level])[: len(x), 0]
        own = assign(residual, book)  # before the restart: the levels below see what they saw
        left = residual - book[own]
        book[dead] = residual[rows[: len(dead)]]
        for name in ("exp_avg", "exp_avg_sq"):
            if name in moments:
                moments[name][level, dead] = 0.0
        residual, moved[level] = left, len(dead)
    return moved


def _mlp(widths: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _adamw(network: RQVAENetwork, learning_rate: float) -> torch.optim.AdamW:
    matrices = [p for n, p in network.named_parameters() if p.ndim == 2]
    others = [p for n, p in network.named_parameters() if p.ndim != 2]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": WEIGHT_DECAY},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=learning_rate,
    )

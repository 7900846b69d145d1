"""The papers' model sizes as recipes: V1's encoder-decoders and V2's lazy decoders.

Sizes are the papers'; rates of V1, steps and batches are ours, for the papers print none. A context
of V1 has its 405 positions: 1 + 20 + 256 + 128 queries over 2,000 clusters; V2 prints no pathways,
and its contexts have 277. Items are read as their semantic IDs. `python -m onerec.bench.sizes`
prints what each really counts beside its name.
"""

from dataclasses import replace

from onerec.model.sizes import ContextConfig
from onerec.sections import (
    AlignConfig,
    BaselineConfig,
    ContentConfig,
    EvaluateConfig,
    HistoryConfig,
    ModelConfig,
    Recipe,
    RewardConfig,
    TokenizerConfig,
    TrainConfig,
)

PATHWAYS = HistoryConfig(
    short_length=20,
    positive_length=256,
    lifelong_length=2_000,
    lifelong_queries=128,
    item_input="codes",
)
FIELDS_OF_A_CODE = 3  # a context token is three embeddings wide; see `_lazy`


def onerec_0_015b() -> Recipe:
    """V1's 0.015B: 2 + 2 dense blocks of width 128. For a GPU."""
    return _onerec("onerec_0_015b", 1e-3, ModelConfig(width=128, heads=4, experts=0, dropout=0.0))


def onerec_0_121b() -> Recipe:
    """V1's 0.121B: 4 + 4 dense blocks of width 1024. For a GPU."""
    return _onerec("onerec_0_121b", 4.5e-4, _wide(4, experts=0))


def onerec_0_935b() -> Recipe:
    """V1's 0.935B: as 0.121B with 24 experts in each decoder block, 2 active. For GPUs."""
    return _onerec("onerec_0_935b", 1.6e-4, _wide(4, experts=24, active_experts=2))


def onerec_2_633b() -> Recipe:
    """V1's 2.633B: 12 + 12 blocks, every second one with 24 experts, 4 active. For GPUs."""
    model = _wide(12, experts=24, active_experts=4, expert_blocks="alternate")
    return _onerec("onerec_2_633b", 1e-4, model)


def lazy_0_1b() -> Recipe:
    """V2's lazy decoder of 0.1B: 12 blocks of width 640. For a GPU."""
    return _lazy("lazy_0_1b", 5e-4, width=640, layers=12, heads=10, embedding=32)


def lazy_0_2b() -> Recipe:
    """V2's lazy decoder of 0.2B: 12 blocks of width 896. For a GPU."""
    return _lazy("lazy_0_2b", 3.54e-4, width=896, layers=12, heads=14, embedding=45)


def lazy_0_5b() -> Recipe:
    """V2's lazy decoder of 0.5B: 14 blocks of width 1408. For a GPU."""
    return _lazy("lazy_0_5b", 2.24e-4, width=1408, layers=14, heads=11, embedding=70)


def lazy_1b() -> Recipe:
    """V2's lazy decoder of 1B: 18 blocks of width 1792. For GPUs."""
    return _lazy("lazy_1b", 1.58e-4, width=1792, layers=18, heads=14, embedding=90)


PAPER_RECIPES = (
    *(onerec_0_015b, onerec_0_121b, onerec_0_935b, onerec_2_633b),
    *(lazy_0_1b, lazy_0_2b, lazy_0_5b, lazy_1b),
)


def _wide(layers: int, experts: int, **settings: object) -> ModelConfig:
    """V1 Table 1 from 0.121B on: equal depth on both sides, 1024 wide, 8 heads."""
    shape = {"width": 1024, "encoder_layers": layers, "decoder_layers": layers, "heads": 8}
    return ModelConfig(**shape, experts=experts, dropout=0.0, **settings)  # type: ignore[arg-type]


def _lazy(
    name: str, learning_rate: float, width: int, layers: int, heads: int, embedding: int
) -> Recipe:
    """V2 Table 5 with its defaults: one set, values that are the keys, a group for each head.

    `embedding` is V2's column. A context token is three of them wide: V2's Table of shared keys and
    values at 1B adds .2976 GFLOPs for each further set, which is 6 x 512 / 5 tokens x 1792 x 270,
    and 270 = 3 x 90. Inferred.
    """
    model = ModelConfig(
        kind="lazy", width=width, decoder_layers=layers, heads=heads, experts=0, dropout=0.0
    )
    return _onerec(name, learning_rate, model, ContextConfig(width=FIELDS_OF_A_CODE * embedding))


def _onerec(
    name: str, learning_rate: float, model: ModelConfig, context: ContextConfig | None = None
) -> Recipe:
    """V1's rates are unknown; V2's rule 5e-4 sqrt(0.1B / parameters), at most 1e-3, stands in."""
    return Recipe(
        name=name,
        content=ContentConfig(behaviour_dim=128, behaviour_weight=0.7),
        tokenizer=TokenizerConfig(levels=3, codebook_size=8192),
        history=replace(PATHWAYS, lifelong_length=0) if context else PATHWAYS,
        model=model,
        context=context or ContextConfig(),
        train=TrainConfig(
            steps=20_000,
            batch_size=512,
            targets=5,
            learning_rate=learning_rate,
            warmup_steps=1_000,
            evaluate_every=2_000,
            checkpoint_every=2_000,
            keep="best",
        ),
        reward=RewardConfig(),
        align=AlignConfig(group=128),
        evaluate=EvaluateConfig(),
        baselines=BaselineConfig(),
    )

"""What is quantised: an item's content tokens made one vector, beside its training co-consumption.

Tokens are the dataset's own, else an encoder's of the items' texts; images come beside them. With
`qformer.steps=0` each source is averaged, as the quickest thing that works; else the paper's
queries read all tokens, trained on pairs of items and on captions (`item_alignment`).
Everything is fitted on `split.fit_items` and on training rows alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from onerec.assembly import Setting
from onerec.common import generator
from onerec.data.content_cache import Encoded, encode_items
from onerec.data.item_content import ItemReader
from onerec.data.item_text import empty_columns, item_texts
from onerec.errors import DataError, RecipeError
from onerec.loop import StepResult
from onerec.model.item_qformer import ItemQFormer
from onerec.pipeline.item_alignment import align_content
from onerec.tokenizer.co_consumption import co_consumption_vectors
from onerec.tokenizer.content import (
    CO_CONSUMPTION,
    HASHED,
    OWN_TOKENS,
    QFORMER,
    ContentEncoder,
    Joining,
    Precomputed,
    join_tokens,
    mean_pool,
    not_finite,
    one_token_each,
)
from onerec.tokenizer.image_encoders import EfficientNetLite
from onerec.tokenizer.mini_cpm import MINI_CPM_V, MiniCPMV
from onerec.tokenizer.text_encoders import (
    MINILM,
    HashedNgrams,
    SentenceEmbeddings,
    TextTokens,
    WholeTexts,
)

CACHE = "cache/content"  # of the home that runs and datasets stand in
NAMED = 10  # items with an image that cannot be read, in the report

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Watch:
    """Where to work, where encoded items are kept (None: nowhere), and who hears of it."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    cache: Path | None = None
    tell: Callable[[str], None] = lambda message: None
    step: Callable[[StepResult, int], None] = lambda result, of: None


@dataclass(frozen=True)
class ContentVectors:
    """Vectors (n, d), the parts that they were joined from, and the QFormer where one read them.

    `state` is what else was learned, by name: how the parts are joined, and what an encoder fitted
    on this log knows. With it other items get vectors, see `onerec.pipeline.new_items`.
    """

    vectors: Vectors
    parts: list[dict[str, Any]]
    qformer: ItemQFormer | None = None
    state: dict[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class TokenSource:
    """Content tokens of one source: its name in the report, its weight, and what else to say.

    `state` is what its encoder learned of this log.
    """

    name: str
    content: Precomputed
    weight: float
    more: dict[str, Any] = field(default_factory=dict)
    state: dict[str, torch.Tensor] = field(default_factory=dict)


def content_vectors(setting: Setting, watch: Watch | None = None) -> ContentVectors:
    """Read or encode what items are, and make it one vector each.

    Raises:
        RecipeError: nothing is left to quantise, or a package or model that is not there.
        DataError: content that cannot be used; the item is named.
    """
    watch, content = watch or Watch(), setting.recipe.content
    parts: list[tuple[Vectors, float]] = []
    names: list[dict[str, Any]] = []
    qformer, sources = None, token_sources(setting, watch)

    def add(name: str, vectors: Vectors, weight: float, more: dict[str, Any]) -> None:
        parts.append((vectors, weight))
        if (vectors == vectors[:1]).all():
            more = {**more, "alike": True}
        names.append({"part": name, "dim": vectors.shape[1], "weight": weight, **more})

    if setting.recipe.qformer.steps:
        if sources:
            joined = join_tokens([source.content for source in sources])
            aligned = align_content(setting, joined, watch.device, watch.tell, watch.step)
            qformer = aligned.qformer
            said = [
                {"part": one.name, "dim": one.content.dim, **_count(one.content.mask), **one.more}
                for one in sources
            ]
            add(QFORMER, aligned.vectors, sources[0].weight, {"reads": said, **aligned.report})
    else:
        for one in sources:
            add(
                one.name,
                _pooled(setting, one),
                one.weight,
                {**_count(one.content.mask), **one.more},
            )
    if content.behaviour_weight > 0:
        add(CO_CONSUMPTION, _co_consumption(setting), content.behaviour_weight, {})
    if not parts:
        raise RecipeError(
            "items have no content: every weight under `content` is 0 or the items hold no text; "
            "set content.behaviour_weight=1 or give the items a title, tags or content tokens"
        )
    joining = Joining.fitted(parts, fit=setting.split.fit_items)
    state = {key: value for one in sources for key, value in one.state.items()}
    for place, (mean, scale) in enumerate(zip(joining.means, joining.scales, strict=True)):
        state |= {f"mean_{place}": torch.from_numpy(mean), f"scale_{place}": torch.tensor([scale])}
    return ContentVectors(joining.join([part for part, _ in parts]), names, qformer, state)


def _co_consumption(setting: Setting) -> Vectors:
    log = setting.split.train_log()
    return co_consumption_vectors(
        log.user[log.positive],
        log.item[log.positive],
        setting.dataset.n_items,
        setting.recipe.content.behaviour_dim,
        generator(setting.recipe.seed),
    )


def token_sources(setting: Setting, watch: Watch) -> list[TokenSource]:
    """Tokens of all sources that the recipe names and the dataset has."""
    content, found = setting.recipe.content, []
    own = _own_tokens(setting) if content.tokens_weight > 0 else None
    reads_images = content.text == "minicpm"
    if own is not None:
        found.append(own)
        reads_images = False
    elif content.text != "none" and content.text_weight > 0:
        text = _text_tokens(setting, watch)
        if text is not None:
            empty = empty_columns(setting.dataset.items)
            found.append(
                replace(text, more=text.more | ({"empty_columns": empty} if empty else {}))
            )
    if content.images and not reads_images:
        weight = content.tokens_weight or content.text_weight
        encoder = EfficientNetLite(device=str(watch.device))
        found.append(_encoded("images", setting, encoder, weight, watch, texts=False))
    return found


def _own_tokens(setting: Setting) -> TokenSource | None:
    """The tokens that came with the dataset; what each modality has is told where there are two."""
    own = setting.dataset.content()
    if own is None:
        return None
    bad = not_finite(own.tokens, own.mask)
    if bad is not None:
        item = setting.dataset.items["item_id"].iloc[bad]
        raise DataError(
            f"{setting.dataset.path / 'content.safetensors'}: a content token of item {item} is "
            "not finite; mend it or mask it out, or set content.tokens_weight=0"
        )
    tokens = Precomputed(own.tokens, own.mask, "the dataset's own")
    masks = {name: own.mask[:, own.modality == place] for place, name in enumerate(own.names)}
    told = {"modalities": {name: _count(mask) for name, mask in masks.items()}}
    weight = setting.recipe.content.tokens_weight
    return TokenSource(OWN_TOKENS, tokens, weight, told if len(masks) > 1 else {})


def _text_tokens(setting: Setting, watch: Watch) -> TokenSource | None:
    """What items say. Averaged, a text is its encoder's one vector; None where none has a word."""
    content, fit = setting.recipe.content, setting.split.fit_items
    texts, columns = item_texts(setting.dataset.items)
    if not any(texts) and not (content.text == "minicpm" and content.images):
        return None
    name, weight = f"{content.text} text", content.text_weight
    if content.text == "minicpm":
        mini = MiniCPMV(content.model or MINI_CPM_V, device=str(watch.device))
        return _encoded("MiniCPM-V", setting, mini, weight, watch, content.model or MINI_CPM_V)
    if content.text == "sentence":
        model = content.model or MINILM
        sentences = SentenceEmbeddings(model, device=str(watch.device))
        apart = setting.recipe.qformer.steps
        reading = TextTokens(sentences) if apart else WholeTexts(sentences)
        return _encoded(name, setting, reading, weight, watch, model)
    hashed = HashedNgrams(dim=content.text_dim, seed=setting.recipe.seed)
    hashed.fit([text for text, allowed in zip(texts, fit, strict=True) if allowed])
    state = {f"{HASHED}{key}": value for key, value in hashed.state_dict().items()}
    if setting.recipe.qformer.steps:
        reader = ItemReader(setting.dataset)
        read = encode_items(TextTokens(hashed), reader)  # fitted on this log: no cache
        return TokenSource(name, read.content, weight, {"columns": reader.columns}, state)
    whole = one_token_each(hashed.encode(texts))
    return TokenSource(name, whole, weight, {"columns": columns}, state)


def _encoded(
    name: str,
    setting: Setting,
    encoder: ContentEncoder,
    weight: float,
    watch: Watch,
    model: str = "",
    texts: bool = True,
) -> TokenSource:
    """Tokens by an encoder that is worth a cache; `model` is what it loads, by name or folder."""
    images = setting.recipe.content.images
    reader = ItemReader(setting.dataset, pixels=encoder.pixels if images else 0, texts=texts)

    def tell(done: int, of: int) -> None:
        watch.tell(f"{name}: {done:,} of {of:,} items encoded")

    cache = None
    if watch.cache:
        _ = encoder.dim  # loads it: only then it is known which commit a name stands for
        cache = _cache(watch.cache, model)
    encoded = encode_items(encoder, reader, cache, tell)
    more: dict[str, Any] = {"encoder": encoder.name}
    more |= {"encoded": encoded.encoded, "from_cache": encoded.found}
    if reader.columns:
        more["columns"] = reader.columns
    if reader.pixels:
        more["images"] = _images_read(reader, encoded)
    return TokenSource(name, encoded.content, weight, more)


def _cache(folder: Path, model: str) -> Path:
    """Where tokens are kept: apart for what a model's files are now, or the commit of its name."""
    own = Path(model)
    if not model or not own.is_dir():
        return folder / _commit(model)
    files = [(file, file.stat()) for file in sorted(own.rglob("*")) if file.is_file()]
    told = [f"{file.relative_to(own)} {stat.st_size} {stat.st_mtime_ns}" for file, stat in files]
    return folder / hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]


def _commit(model: str) -> str:
    """The commit that a name of the Hugging Face hub stands for on this machine; "" if unknown."""
    try:
        hub = importlib.import_module("huggingface_hub")
    except ImportError:
        return ""
    for name in (model, f"sentence-transformers/{model}") if model else ():
        with contextlib.suppress(ValueError):  # no name of a hub
            found = hub.try_to_load_from_cache(name, "config.json")
            if isinstance(found, str):
                return Path(found).parent.name[:16]
    return ""


def _images_read(reader: ItemReader, encoded: Encoded) -> dict[str, Any]:
    """How many images there are and were left out; refuses where none can be read."""
    asked = np.array([len(paths) for paths in reader.paths])
    lost = np.flatnonzero(encoded.images < asked)
    told: dict[str, Any] = {
        "read": int(encoded.images.sum()),
        "left_out": int((asked - encoded.images).sum()),
        "items_without": int((encoded.images == 0).sum()),
    }
    if len(lost):
        ids = reader.dataset.items["item_id"]
        path = next(iter(reader.unreadable(lost[0])), reader.paths[lost[0]][0])
        told["first_left_out"] = f"item {ids.iloc[lost[0]]}: {path}"
        told["left_out_of"] = [str(ids.iloc[row]) for row in lost[:NAMED]]
    if not told["read"]:
        raise DataError(
            f"none of {told['left_out']} images can be read (the first is of "
            f"{told['first_left_out']}); set content.images=false"
        )
    return told


def _count(mask: NDArray[np.bool_]) -> dict[str, int]:
    """Tokens of all items (n, N_M), and how many items have none."""
    return {"tokens": int(mask.sum()), "items_without": int((~mask.any(axis=1)).sum())}


def _pooled(setting: Setting, source: TokenSource) -> Vectors:
    """The mean of an item's tokens (n, d); without a token, that of the items which have some.

    A zero would be a point of its own among centred vectors, at which all such items meet.
    """
    content = source.content
    vectors = mean_pool(content.tokens, content.mask)
    there = content.mask.any(axis=1)
    known = there & setting.split.fit_items
    if known.any():
        vectors[~there] = vectors[known].mean(axis=0)
    return vectors

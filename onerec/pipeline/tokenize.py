"""Stage 1: items become semantic IDs.

Content vectors (text, the dataset's own content tokens, training co-consumption) are joined, and
residual k-means quantises them. The tokenizer is fitted on items that the split allows and only
applied to the others. The QFormer of the paper is a later stage: here the mean of an item's content
tokens stands in for it.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from onerec.assembly import Setting, training_popularity
from onerec.checkpoint import save_tensors
from onerec.common import generator
from onerec.data.item_text import item_texts
from onerec.data.tables import write_parquet
from onerec.errors import RecipeError
from onerec.pipeline.session import Session
from onerec.tokenizer.co_consumption import CO_CONSUMPTION
from onerec.tokenizer.content import (
    HashedNgrams,
    SentenceEmbeddings,
    co_consumption_vectors,
    join_vectors,
    mean_pool,
)
from onerec.tokenizer.rq_kmeans import (
    RQKmeans,
    RQKmeansConfig,
    codebook_size_for,
    quantisation_report,
)
from onerec.tokenizer.semantic_ids import SemanticIds, make_semantic_ids

STAGE = "tokenize"
_STEPS = 3


def tokenize(session: Session) -> None:
    """Write tokenizer/: codebooks, vectors, semantic_ids.parquet, report.json, done.json."""
    setting = session.setting
    size = codebook_size(setting)
    session.begin(STAGE, _STEPS, "reading what items say")
    vectors, parts = content_vectors(setting)
    session.advance(STAGE, 1, _STEPS, message="residual k-means")
    quantiser, ids, report = _quantise(setting, vectors, size, session.device)
    report["content"] = parts
    session.advance(STAGE, 2, _STEPS, message="writing")
    folder = session.run.path / "tokenizer"
    save_tensors(folder / "codebooks.safetensors", quantiser.state_dict())
    save_tensors(
        folder / "vectors.safetensors", {"vectors": torch.from_numpy(vectors).to(torch.float16)}
    )
    _write_ids(session, ids)
    session.writer.write_json("tokenizer/report.json", report)
    session.writer.mark_done(STAGE)
    session.advance(STAGE, _STEPS, _STEPS, message="done")


def content_vectors(setting: Setting) -> tuple[NDArray[np.float32], list[dict[str, Any]]]:
    """What is quantised: (n_items, d), and which parts it was joined from.

    Everything is fitted on `split.fit_items` and on training rows alone.
    """
    content, dataset, split = setting.recipe.content, setting.dataset, setting.split
    parts: list[tuple[NDArray[np.float32], float]] = []
    names: list[dict[str, Any]] = []

    def add(name: str, vectors: NDArray[np.float32], weight: float, **more: Any) -> None:
        parts.append((vectors, weight))
        names.append({"part": name, "dim": vectors.shape[1], "weight": weight, **more})

    tokens = dataset.content() if content.tokens_weight > 0 else None
    if tokens is not None:
        add("content tokens", mean_pool(tokens.tokens, tokens.mask), content.tokens_weight)
    elif content.text != "none" and content.text_weight > 0:
        texts, columns = item_texts(dataset.items)
        if any(texts):
            vectors = _text_vectors(setting, texts)
            add(f"{content.text} text", vectors, content.text_weight, columns=columns)
    if content.behaviour_weight > 0:
        log = split.train_log()
        vectors = co_consumption_vectors(
            log.user[log.positive],
            log.item[log.positive],
            dataset.n_items,
            content.behaviour_dim,
            generator(setting.recipe.seed),
        )
        add(CO_CONSUMPTION, vectors, content.behaviour_weight)
    if not parts:
        raise RecipeError(
            "items have no content: every weight under `content` is 0 or the items hold no text; "
            "set content.behaviour_weight=1 or give the items a title, tags or content tokens"
        )
    return join_vectors(parts, fit=split.fit_items), names


def _text_vectors(setting: Setting, texts: list[str]) -> NDArray[np.float32]:
    content, fit = setting.recipe.content, setting.split.fit_items
    if content.text == "sentence":
        return np.asarray(SentenceEmbeddings().encode(texts)[:, 0], dtype=np.float32)
    encoder = HashedNgrams(dim=content.text_dim, seed=setting.recipe.seed)
    encoder.fit([text for text, allowed in zip(texts, fit, strict=True) if allowed])
    return np.asarray(encoder.encode(texts)[:, 0], dtype=np.float32)


def codebook_size(setting: Setting) -> int:
    """The recipe's ceiling brought down to what the items allow; an explicit excess is refused.

    Raises:
        RecipeError: an exact size above the number of items.
    """
    tokenizer, n = setting.recipe.tokenizer, setting.dataset.n_items
    asked = tokenizer.codebook_size
    if not tokenizer.exact_size:
        return codebook_size_for(n, asked)
    if asked > n:
        raise RecipeError(
            f"tokenizer.codebook_size={asked} is above the {n} items of "
            f"{setting.dataset.name!r}; set at most {codebook_size_for(n, asked)}"
        )
    return asked


def _quantise(
    setting: Setting, vectors: NDArray[np.float32], size: int, device: torch.device
) -> tuple[RQKmeans, SemanticIds, dict[str, Any]]:
    recipe, fit = setting.recipe.tokenizer, setting.split.fit_items
    config = RQKmeansConfig(
        levels=recipe.levels,
        codebook_size=min(size, int(fit.sum())),
        iterations=recipe.iterations,
        init=recipe.init,
        seed=setting.recipe.seed,
    )
    x = torch.from_numpy(vectors).to(device)
    quantiser = RQKmeans(config).fit(x[torch.from_numpy(fit).to(device)])
    codes = quantiser.transform(x)
    report = quantisation_report(x, codes, quantiser.codebooks)
    ids = make_semantic_ids(
        codes.cpu().numpy(), (config.codebook_size,) * recipe.levels, recipe.policy
    )
    report |= {
        "quantiser": "rq_kmeans",
        "codebook_size": config.codebook_size,
        "codebook_ceiling": recipe.codebook_size,
        "sizes": list(ids.sizes),
        "collisions": ids.report,
        "fit_items": int(fit.sum()),
    }
    return quantiser, ids, report


def _write_ids(session: Session, ids: SemanticIds) -> None:
    setting = session.setting
    _, inverse, counts = np.unique(ids.codes, axis=0, return_inverse=True, return_counts=True)
    columns: dict[str, Any] = {
        "item": np.arange(setting.dataset.n_items, dtype=np.int32),
        "item_id": setting.dataset.items["item_id"].to_numpy(),
    }
    for level in range(ids.codes.shape[1]):
        columns[f"code_{level + 1}"] = ids.codes[:, level].astype(np.int32)
    columns["leaf_size"] = counts[inverse.reshape(-1)].astype(np.int32)
    columns["popularity"] = training_popularity(setting.split)
    write_parquet(session.run.path / "tokenizer" / "semantic_ids.parquet", columns)

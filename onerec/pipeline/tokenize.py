"""Stage 1: items become semantic IDs.

Content vectors (`pipeline.content`) are given codes by a quantiser: residual k-means, refined or
balanced, or RQ-VAE. It is fitted on items that the split allows and only applied to the others.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from onerec.assembly import Setting, tokenizer_config, training_popularity
from onerec.checkpoint import save_tensors
from onerec.data.tables import write_parquet
from onerec.errors import DataError, RecipeError
from onerec.loop import StepResult
from onerec.pipeline.content import CACHE, Watch, content_vectors
from onerec.pipeline.session import Session
from onerec.tokenizer.nearest_free import LastLevel
from onerec.tokenizer.quantiser import Quantiser, make_quantiser
from onerec.tokenizer.rq_kmeans import codebook_size_for, quantisation_report
from onerec.tokenizer.rq_vae import RQVAE
from onerec.tokenizer.semantic_ids import SemanticIds, make_semantic_ids

STAGE = "tokenize"
_STEPS = 3
_LOGGED = 100  # lines of a QFormer's training
_TOLD = 20  # steps of an RQ-VAE between two signs of life
_NAMES = {
    "rq_kmeans": "residual k-means",
    "refined": "residual k-means, then all levels together",
    "balanced": "balanced residual k-means",
    "rq_vae": "RQ-VAE",
}


def tokenize(session: Session) -> None:
    """Write tokenizer/: codebooks, vectors, semantic_ids.parquet, report.json, done.json.

    codebooks.safetensors is the quantiser's whole state, qformer.safetensors that of the QFormer
    where there is one, content.safetensors what else gives new items vectors (`new_items`). Vectors
    are the content; where codebooks live in a space of their own (RQ-VAE), latents.safetensors
    holds the items there. A stage that was stopped begins anew; items that were encoded are kept
    (`data.content_cache`).
    """
    setting = session.setting
    size = codebook_size(setting)
    session.begin(STAGE, _STEPS, "reading what items say")
    session.writer.rewind_metrics(STAGE, -1)
    content = content_vectors(setting, _watch(session))
    vectors = content.vectors
    _refuse_useless(setting, vectors)
    session.advance(STAGE, 1, _STEPS, message=_NAMES[setting.recipe.tokenizer.kind])
    quantiser, ids, report = _quantise(session, vectors, size)
    report["content"] = content.parts
    session.advance(STAGE, 2, _STEPS, message="writing")
    folder = session.run.path / "tokenizer"
    save_tensors(folder / "codebooks.safetensors", quantiser.state_dict())
    if content.qformer is not None:
        save_tensors(folder / "qformer.safetensors", content.qformer.state_dict())
    save_tensors(folder / "content.safetensors", content.state)
    if isinstance(quantiser, RQVAE):
        latents = quantiser.encode(torch.from_numpy(vectors).to(session.device))
        save_tensors(folder / "latents.safetensors", {"latents": latents})
    save_tensors(
        folder / "vectors.safetensors", {"vectors": torch.from_numpy(vectors).to(torch.float16)}
    )
    _write_ids(session, ids)
    session.writer.write_json("tokenizer/report.json", report)
    session.writer.mark_done(STAGE)
    session.advance(STAGE, _STEPS, _STEPS, message="done")


def _watch(session: Session) -> Watch:
    """Tokens are kept for all runs of this home; the QFormer's losses go into metrics.jsonl."""

    def tell(message: str) -> None:
        session.advance(STAGE, 0, _STEPS, message=message)

    def step(result: StepResult, of: int) -> None:
        if result.step % max(1, of // _LOGGED) == 0 or result.step == of:
            values = {"loss": result.loss, **result.values, "lr": result.lr}
            session.writer.log_metrics(STAGE, result.step, of, **values)

    return Watch(session.device, session.run.home / CACHE, tell, step)


def _refuse_useless(setting: Setting, vectors: NDArray[np.float32]) -> None:
    """Vectors that are no numbers, or all the same, can be given no codes."""
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        item = setting.dataset.items["item_id"].iloc[bad[0]]
        raise DataError(
            f"the content vector of item {item} is not finite ({len(bad)} of {len(vectors)} "
            "items); mend its content tokens, or set content.tokens_weight=0"
        )
    if (vectors == vectors[:1]).all():
        raise DataError(
            f"the content vectors of all {len(vectors)} items are equal, so no code can tell them "
            "apart; give the items different texts, images or tokens, or set "
            "content.behaviour_weight=1"
        )


def codebook_size(setting: Setting) -> int:
    """The recipe's ceiling brought down to what the items allow; an explicit excess is refused.

    Items that come after the training rows may not be fitted on, so they do not count.

    Raises:
        RecipeError: an exact size above the number of items to fit on.
    """
    tokenizer, n = setting.recipe.tokenizer, int(setting.split.fit_items.sum())
    asked = tokenizer.codebook_size
    if not tokenizer.exact_size:
        return codebook_size_for(n, asked)
    if asked > n:
        raise RecipeError(
            f"tokenizer.codebook_size={asked} is above the {n} items of {setting.dataset.name!r} "
            f"that may be fitted on; set at most {n}"
        )
    return asked


def _quantise(
    session: Session, vectors: NDArray[np.float32], size: int
) -> tuple[Quantiser, SemanticIds, dict[str, Any]]:
    setting = session.setting
    recipe, allowed = setting.recipe.tokenizer, setting.split.fit_items
    config = tokenizer_config(setting.recipe, size)
    quantiser = make_quantiser(recipe.kind, config)
    x = torch.from_numpy(vectors).to(session.device)
    fit = torch.from_numpy(allowed).to(session.device)
    fitted = _fit(session, quantiser, x[fit])
    codes = quantiser.transform(x)
    codes[fit] = fitted
    books = quantiser.codebooks.to(session.device)
    last = None
    if recipe.policy == "nearest_free":
        last = LastLevel.of(quantiser.encode(x), codes, books)
    ids = make_semantic_ids(codes, quantiser.sizes, recipe.policy, last)
    # What items really have: a policy may have moved the last code, and may have added a level.
    codes = torch.from_numpy(ids.codes[:, : recipe.levels]).to(session.device)
    decode = quantiser.decode if recipe.kind == "rq_vae" else None
    report = quantisation_report(x, codes, books, decode) | {
        "quantiser": recipe.kind,
        "codebook_size": config.codebook_size,
        "codebook_ceiling": recipe.codebook_size,
        "sizes": list(ids.sizes),
        "collisions": ids.report,
        "fit_items": int(allowed.sum()),
    }
    return quantiser, ids, report


def _fit(session: Session, quantiser: Quantiser, x: torch.Tensor) -> torch.Tensor:
    """Fit on x (n, d) and return its codes (n, L); a long training says how far it is."""
    if not isinstance(quantiser, RQVAE):
        return quantiser.fit_transform(x)
    for result in quantiser.training(x):
        if result.step % _TOLD == 0:
            message = f"RQ-VAE: step {result.step:,} of {quantiser.config.steps:,}"
            session.advance(STAGE, 1, _STEPS, message=message)
    return quantiser.transform(x)


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

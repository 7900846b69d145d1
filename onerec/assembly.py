"""A run's parts put together: dataset, split, features, semantic IDs, trie and model.

Training, evaluation, serving and the app all get them here, so that they cannot disagree.
"""

import dataclasses
import typing
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from onerec.checkpoint import load_model, load_tensors
from onerec.common import device_memory, generator
from onerec.data.batches import Contexts, Features, table_bytes
from onerec.data.dataset import Dataset, open_dataset
from onerec.data.snapshots import Snapshots
from onerec.data.split import Split, make_split
from onerec.errors import DataError, RunError
from onerec.model.item_qformer import ItemQFormer, ItemQFormerConfig
from onerec.model.lazy import LazyConfig, LazyDecoder
from onerec.model.onerec import ItemTable, OneRec, OneRecConfig, Vocabulary
from onerec.model.qformer import QFormerConfig
from onerec.model.routers import RouterConfig
from onerec.model.sizes import ExpertBlocks
from onerec.recipes import Recipe, from_dict
from onerec.run_files import cursor, dataset_folder
from onerec.runs import Run
from onerec.tokenizer.quantiser import (
    Quantiser,
    QuantiserConfig,
    load_quantiser,
    quantiser_config,
)
from onerec.tokenizer.semantic_ids import SemanticIds, with_codes
from onerec.tokenizer.trie import Trie

TABLES_SHARE = 0.25  # of a GPU's memory that a log's tables may take; ours: training needs the rest

ItemInput = typing.Literal["both", "codes", "item"]


@dataclass(frozen=True)
class Setting:
    """What a run learns from: a dataset, its split and the features a model may read.

    `snapshots` are put there by `onerec.lifelong`, for models that read the whole history.
    """

    recipe: Recipe
    dataset: Dataset
    split: Split
    features: Features
    snapshots: Snapshots | None = None

    @classmethod
    def of(cls, recipe: Recipe, dataset: Dataset) -> "Setting":
        split = make_split(dataset, recipe.evaluate.split)
        return cls(recipe, dataset, split, Features.of(dataset, split.log))

    def fits(self, device: torch.device | str) -> bool:
        """Whether the log's tables take at most `TABLES_SHARE` of the device's memory."""
        memory = device_memory(device)
        if memory is None:
            return True
        return table_bytes(self.split.log, self.features, self.snapshots) <= TABLES_SHARE * memory

    def contexts(self, device: torch.device | str, tables: str | None = None) -> Contexts:
        """The builder of batches on `device`; its tables there too if they fit, else on the CPU.

        `tables` is another device for them, whether they fit or not.
        """
        history = self.recipe.history
        tables = tables or (None if self.fits(device) else "cpu")
        return Contexts(
            self.split.log,
            self.features,
            short_length=history.short_length,
            positive_length=history.positive_length,
            snapshots=self.snapshots,
            device=device,
            tables=tables,
        )

    def new_model(
        self,
        ids: SemanticIds,
        codebooks: NDArray[np.float32] | None = None,
        vectors: NDArray[np.float32] | None = None,
    ) -> OneRec:
        """A model with fresh weights, the same for the same seed.

        With the tokenizer's codebooks (L, N, d) its code embeddings start there; its vectors (n, d)
        are read where `history.content` says so.

        Raises:
            RunError: the recipe reads content vectors and there are none.
        """
        history, config = self.recipe.history, model_config(self.recipe)
        if not history.content:
            vectors = None
        elif vectors is None:
            raise RunError(
                "history.content=true needs tokenizer/vectors.safetensors, which is not there; "
                "run `onerec tokenize` again"
            )
        vocabulary = replace(
            self.features.vocabulary(ids.sizes, self.dataset.n_items),
            content_dim=0 if vectors is None else vectors.shape[1],
            item_input=typing.cast(ItemInput, history.item_input),
            tied_output=self.recipe.model.tied_output,
        )
        items = self.features.item_table(ids.codes, vectors)
        result = new_model(config, vocabulary, items)
        stream = generator(self.recipe.seed)
        result.init_weights(stream)
        if codebooks is not None:
            result.start_from_codebooks(torch.from_numpy(codebooks), stream)
        return result


def model_config(recipe: Recipe) -> OneRecConfig:
    """What the recipe says of the model: a `LazyConfig` where `model.kind` is lazy."""
    model, history = recipe.model, recipe.history
    config = OneRecConfig(
        width=model.width,
        layers=model.encoder_layers,
        decoder_layers=model.decoder_layers,
        heads=model.heads,
        short_length=history.short_length,
        positive_length=history.positive_length,
        experts=model.experts,
        active_experts=model.active_experts,
        shared_experts=recipe.routing.shared_experts,
        router=_router(recipe),
        dropout=model.dropout,
        label_smoothing=model.label_smoothing,
        residual=recipe.train.residual,
        expert_blocks=typing.cast(ExpertBlocks, model.expert_blocks),
        lifelong=QFormerConfig(history.lifelong_queries) if history.lifelong_length else None,
    )
    if model.kind == "encoder_decoder":
        return config
    shape = {item.name: getattr(config, item.name) for item in dataclasses.fields(config)}
    return LazyConfig(**shape | {"layers": 0, "context": recipe.context})


def _router(recipe: Recipe) -> RouterConfig:
    routing = recipe.routing
    return RouterConfig(
        kind=routing.router,
        balance_weight=routing.balance_weight,
        z_weight=routing.z_weight,
        distillation_weight=routing.distillation_weight,
        diversity_weight=routing.diversity_weight,
        competition_rate=routing.competition_rate,
        competition_layers=routing.competition_layers,
        competition_warmup=routing.competition_warmup,
    )


def new_model(config: OneRecConfig, vocabulary: Vocabulary, items: ItemTable) -> OneRec:
    """The model that a configuration is of."""
    if isinstance(config, LazyConfig):
        return LazyDecoder(config, vocabulary, items)
    return OneRec(config, vocabulary, items)


def setting_of(run: Run, home: Path | None = None) -> Setting:
    """The setting that a run was made with.

    Raises:
        RunError: the dataset has changed since, so its numbers would mean something else.
    """
    description = run.recipe()
    if not description:
        raise RunError(f"run {run.name!r} has no recipe.json; start it with `onerec run`")
    named = description["dataset"]
    folder = dataset_folder(home or run.home, description)
    dataset = open_dataset(folder or named["name"], home or run.home)
    if dataset.fingerprint != named["fingerprint"]:
        raise RunError(
            f"run {run.name!r} was made on another {named['name']!r} (fingerprint "
            f"{named['fingerprint'][:12]}, now {dataset.fingerprint[:12]}); start a new run"
        )
    return Setting.of(from_dict(description["recipe"]), dataset)


def training_popularity(split: Split) -> NDArray[np.int64]:
    """How often each item is a positive of the training rows: (n_items,)."""
    rows = split.train & split.log.positive
    return np.bincount(split.log.item[rows], minlength=split.log.n_items).astype(np.int64)


def load_semantic_ids(run: Run) -> tuple[SemanticIds, NDArray[np.int64]]:
    """A run's semantic IDs and the training popularity of its items (n,).

    Raises:
        RunError: the tokenizer stage has not finished, or its file is damaged.
    """
    report = run.report()
    if not run.is_done("tokenize") or report is None:
        raise RunError(
            f"run {run.name!r} has no tokenizer yet; `onerec tokenize --run {run.name}` makes it"
        )
    path = str(run.path / "tokenizer" / "semantic_ids.parquet")
    levels = len(report["sizes"])
    names = [f"code_{level}" for level in range(1, levels + 1)]
    sql = f"SELECT {', '.join(names)}, popularity FROM read_parquet(?) ORDER BY item"
    try:
        columns = cursor().execute(sql, [path]).fetchnumpy()
    except duckdb.Error as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"{path}: cannot be read ({reason}); start a new run") from error
    codes = np.stack([np.asarray(columns[name], dtype=np.int64) for name in names], axis=1)
    ids = SemanticIds(codes, tuple(report["sizes"]), report["collisions"]["policy"], report)
    return ids, np.asarray(columns["popularity"], dtype=np.int64)


def tokenizer_config(recipe: Recipe, size: int) -> QuantiserConfig:
    """What the recipe says of the quantiser, with `size` codes per level."""
    said = recipe.tokenizer
    return quantiser_config(
        said.kind,
        levels=said.levels,
        codebook_size=size,
        seed=recipe.seed,
        iterations=said.iterations,
        init=said.init,
        cap=said.cap,
        steps=said.steps,
    )


def trained_quantiser(run: Run) -> Quantiser:
    """The fitted quantiser of a run: it gives codes to new content vectors.

    Raises:
        RunError: the tokenizer stage has not finished, or its file is damaged.
    """
    report = run.report()
    if not run.is_done("tokenize") or report is None:
        raise RunError(
            f"run {run.name!r} has no tokenizer yet; `onerec tokenize --run {run.name}` makes it"
        )
    recipe = from_dict(run.recipe()["recipe"])
    config = tokenizer_config(recipe, report["codebook_size"])
    state = load_tensors(run.path / "tokenizer" / "codebooks.safetensors")
    return load_quantiser(recipe.tokenizer.kind, config, state)


def trained_item_qformer(run: Run) -> ItemQFormer:
    """The QFormer of a run: it makes vectors of the content tokens of new items.

    Raises:
        RunError: the run's tokenizer has none, or its file is damaged.
    """
    parts = (run.report() or {}).get("content", []) if run.is_done("tokenize") else []
    said = next((dict(part["qformer"]) for part in parts if "qformer" in part), None)
    if said is None:
        raise RunError(
            f"run {run.name!r} has no trained QFormer; start a run with `--set qformer.steps=1000`"
        )
    model = ItemQFormer(
        ItemQFormerConfig(**{k: v for k, v in said.items() if k != "dim"}), said["dim"]
    )
    model.load_state_dict(load_tensors(run.path / "tokenizer" / "qformer.safetensors"))
    return model.eval()


def refuse_ids(known: pd.Series, items: pd.DataFrame) -> None:
    """Refuse new items without ids of their own, beside the ids so far (n,).

    Raises:
        DataError: there is no item, or an id is missing, taken or given twice.
    """
    if "item_id" not in items.columns or items["item_id"].isna().any():
        raise DataError("new items need ids of their own: a column item_id without gaps")
    if items.empty:
        raise DataError("no new item is given: there is no row")
    there, new = set(known.astype(str)), items["item_id"].astype(str)
    if taken := [item for item in new if item in there]:
        raise DataError(f"item {taken[0]!r} is there already; new items need ids of their own")
    if twice := new[new.duplicated()].tolist():
        raise DataError(f"item {twice[0]!r} is given twice; new items need ids of their own")


def with_new_items(
    ids: SemanticIds,
    known: pd.Series,
    items: pd.DataFrame,
    vectors: NDArray[np.float32],
    quantiser: Quantiser,
) -> SemanticIds:
    """The ids with those of new items behind them, as the fitted quantiser codes their content.

    Args:
        known: (n,) the items' own ids so far.
        items: a row for each new item, with its `item_id`.
        vectors: (m, d) their content, made as those of the tokenizer were.

    Raises:
        DataError: ids that `refuse_ids` refuses, vectors that are not finite or of another width
            or number, or codes that the collision policy does not allow.
    """
    refuse_ids(known, items)
    width = quantiser.decode(quantiser.codebooks[0, :1]).shape[1]
    if vectors.shape != (len(items), width):
        raise DataError(
            f"vectors {vectors.shape} must be ({len(items)}, {width}): one for each new item, made "
            "as those of the tokenizer were"
        )
    if len(bad := np.flatnonzero(~np.isfinite(vectors).all(axis=1))):
        item = str(items["item_id"].iloc[bad[0]])
        raise DataError(f"the vector of item {item!r} is not finite; mend its content")
    return with_codes(ids, quantiser.transform(torch.from_numpy(vectors)))


def make_trie(ids: SemanticIds, popularity: NDArray[np.int64]) -> Trie:
    """The tree of legal codes, its leaves in the order of training popularity."""
    return Trie(torch.from_numpy(ids.codes), ids.sizes, torch.from_numpy(popularity))


def trained_model(run: Run, setting: Setting, ids: SemanticIds, stage: str | None = None) -> OneRec:
    """The model with the weights that a stage chose: align where it was done, else pretrain.

    Raises:
        RunError: pre-training has not finished, or its checkpoint is damaged or of another shape.
    """
    aligned = run.done("align") or {}
    if stage is None:
        stage = "align" if aligned.get("checkpoint") else "pretrain"
    done = run.done(stage)
    if done is None:
        raise RunError(
            f"run {run.name!r} is not trained yet; `onerec {stage} --run {run.name}` goes on"
        )
    model = setting.new_model(ids, vectors=run.vectors())
    load_model(run.path / stage / done["checkpoint"], model)
    return model

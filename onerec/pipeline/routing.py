"""What pre-training writes to routing/: how busy each expert is, who goes where, who is missed.

    load.parquet           step, layer, expert, load: the tokens of a logged step's batch
    tokens-NNNNNN.parquet  at each evaluation: the experts of every token of some valid targets
    without.json           at the end: recall@10 and next-token loss with each expert switched off

The sample is fixed: at most `CONTEXTS` valid contexts, evenly spread, of each the first `TARGETS`
targets, and all targets for recall@10. Layers are numbered as `OneRec.mixtures()` has them; tokens
are the decoder's alone, since an encoder's tokens are events and no targets. A dense model leaves
nothing.
Shapes: B contexts, M targets per context, k experts per token.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from onerec.common import autocast, evaluating
from onerec.data.batches import Contexts
from onerec.data.split import Cases
from onerec.data.tables import read_parquet, write_parquet
from onerec.metrics import paired_difference_interval, recall_at_k
from onerec.model.attention import Memory
from onerec.model.moe import MixtureOfExperts
from onerec.model.onerec import Batch, OneRec
from onerec.model.recording import decoder_mixtures, target_routing
from onerec.recommend import Recommender

CONTEXTS, TARGETS = 192, 4  # at most; ours: a second of `tiny` in all, on one core
RANKS = 10
BEAM = 10  # narrower than evaluation's: lists are compared with one another here
_SMALL = {"layer": "int16", "context": "int32", "target": "int16", "level": "int16"}
_SMALL |= {"rank": "int16", "item": "int32", "expert": "int16", "weight": "float32"}

Values = NDArray[np.float64]


class RoutingRecord:
    """Keeps routing/ of a run while its model trains.

    `valid` is the sample; see `sample_cases` of `onerec.pipeline.pretrain`.
    """

    def __init__(self, folder: Path, model: OneRec, contexts: Contexts, valid: Cases) -> None:
        self.folder, self.model = folder, model
        self.contexts, self.valid = contexts, valid
        self.load: list[pd.DataFrame] = []

    def rewind(self, step: int) -> None:
        """Keep what an interrupted training recorded up to `step`."""
        path = self.folder / "load.parquet"
        if path.is_file():
            before = read_parquet(path)
            self.load = [before[before["step"] <= step]]
        for tokens in self.folder.glob("tokens-*.parquet"):
            if int(tokens.stem.rpartition("-")[2]) > step:
                tokens.unlink()

    def record_load(self, step: int) -> None:
        """Read the loads of the last batch off the model."""
        for layer, mixture in enumerate(self.model.mixtures()):
            load = mixture.last_load.tolist()
            columns = {"step": step, "layer": layer, "expert": range(len(load)), "load": load}
            self.load.append(pd.DataFrame(columns))

    def write_load(self) -> None:
        """Write load.parquet; nothing where the model has no experts."""
        if self.load:
            write_parquet(self.folder / "load.parquet", pd.concat(self.load, ignore_index=True))

    def write_tokens(self, step: int) -> None:
        """Write the experts and weights of each token of the sample, as the model is now."""
        places = list(decoder_mixtures(self.model))
        if not places or not len(self.valid):
            return
        batch = sample_batch(self.contexts, self.valid)
        with autocast(self.contexts.device):
            columns = target_routing(self.model, batch).columns()
        frame = pd.DataFrame(columns).astype(_SMALL)
        frame["layer"] = np.asarray(places, dtype=np.int16)[columns["layer"]]
        frame.insert(2, "user", self.valid.user[columns["context"]].astype(np.int32))
        write_parquet(self.folder / f"tokens-{step:06d}.parquet", frame)


def sample_batch(contexts: Contexts, cases: Cases) -> Batch:
    """The contexts of cases with the first `TARGETS` targets of each: (B, M)."""
    first, last = cases.target_offsets[:-1], cases.target_offsets[1:]
    rows = first[:, None] + np.arange(TARGETS)  # (B, M)
    inside = rows < last[:, None]
    items = cases.target_items[np.minimum(rows, max(0, len(cases.target_items) - 1))]
    target = np.where(inside, items.astype(np.int64) + 1, 0)
    user, end = torch.from_numpy(cases.user), torch.from_numpy(cases.end)
    return contexts.batch(user, end, torch.from_numpy(target))


def each_without(
    recommender: Recommender,
    cases: Cases,
    *,
    seed: int = 0,
    workers: int = 1,
    advance: Callable[[int, int], None] = lambda done, of: None,
) -> dict[str, Any]:
    """recall@10 and next-token loss of the sample, whole and with one expert at a time off.

    `experts` has an entry per layer and expert that can be spared (a layer whose experts all are
    active has none): both numbers without it, and `change` against the whole model as [mean, low,
    high], a paired bootstrap over contexts at 95%. The loss is in nats, summed over levels, mean
    over the targets of a context, then over contexts; losses of routers are not in it. `advance`
    is called before each expert with how many are done.
    """
    model = recommender.model
    batch = sample_batch(recommender.contexts, cases)
    inside = decoder_mixtures(model)
    with evaluating(model), autocast(recommender.device):
        memory = model.encode(batch)

    def measured(encoded: Memory | None) -> dict[str, Values]:
        ranked = recommender.lists(cases, RANKS, beam=BEAM, workers=workers).items
        recall = recall_at_k(ranked, cases.target_offsets, cases.target_items, RANKS)
        return {f"recall@{RANKS}": recall, "loss": next_token_losses(model, batch, encoded)}

    whole = measured(memory)
    spared = [
        (layer, mixture, expert)
        for layer, mixture in enumerate(model.mixtures())
        for expert in range(mixture.experts)
        if mixture.experts > mixture.active
    ]
    experts = []
    for done, (layer, mixture, expert) in enumerate(spared):
        advance(done, len(spared))
        with mixture.without([expert]):
            values = measured(memory if layer in inside else None)
        entry: dict[str, Any] = {"layer": layer, "expert": expert}
        experts.append(entry | _changes(whole, values, seed))
    means = {name: float(each.mean()) for name, each in whole.items()}
    size = {"contexts": len(cases), "targets": len(cases.target_items), "beam": BEAM}
    return {**size, **means, "experts": experts}


def next_token_losses(model: OneRec, batch: Batch, memory: Memory | None = None) -> Values:
    """The next-token loss of each context (B,) in nats; `memory` where it is encoded already."""
    device = batch.target.device
    with evaluating(model), autocast(device):
        memory = model.encode(batch) if memory is None else memory
        codes = model.items.codes[batch.target]  # (B, M, L)
        parts = [
            F.cross_entropy(logits.flatten(0, 1), codes[..., level].flatten(), reduction="none")
            for level, logits in enumerate(model.target_logits(memory, batch.target))
        ]
        loss = torch.stack(parts).sum(0).view(batch.target.shape)  # (B, M)
        exists = batch.target > 0
        mean = (loss * exists).sum(1) / exists.sum(1).clamp(min=1)
    result: Values = mean.double().cpu().numpy()
    return result


def _changes(
    whole: Mapping[str, Values], without: Mapping[str, Values], seed: int
) -> dict[str, Any]:
    """Each number without an expert, and by how much it differs, with its interval."""
    found: dict[str, Any] = {}
    for name, values in without.items():
        stream = np.random.default_rng(seed)
        low, high = paired_difference_interval(values, whole[name], stream)
        found[name] = float(values.mean())
        found[f"{name}_change"] = [float((values - whole[name]).mean()), low, high]
    return found


def can_be_spared(mixtures: list[MixtureOfExperts]) -> bool:
    """Whether any expert can be switched off: a layer needs more of them than a token takes."""
    return any(mixture.experts > mixture.active for mixture in mixtures)

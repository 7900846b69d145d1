"""Parameters, operations and activations of a model, counted from its recipe; no torch.

Every number is a sum over the parts that `onerec.model` builds, and tests hold each against the
real module: parameters on the meta device, operations against torch's counter, activations against
what autograd really keeps.

Operations are those of matrix products, two per multiply-add, attention scores included; lookups,
norms, gates and softmax are none. Only tokens that exist count. Training is three forward passes:
the backward pass is two products for each of the forward's. A sample is a context with its targets;
the decoder's first position, which the targets share, is worked out once.

Shapes: C width of a context token, D width, F hidden width, E experts, k of them active, H heads,
L levels, N codes per level, S = 1 + events context tokens, M targets, P = 1 + M (L - 1) decoder
positions.
"""

from dataclasses import dataclass, fields
from typing import cast

from onerec.model.sizes import (
    QFORMER_BLOCKS,
    ExpertBlocks,
    expert_blocks,
    expert_hidden,
    feature_widths,
    ffn_hidden,
    lazy_expert_hidden,
    lazy_ffn_hidden,
    qformer_heads,
)
from onerec.sections import Recipe

Counts = dict[str, float]


@dataclass(frozen=True)
class Cardinalities:
    """How many of everything a dataset has, named as in `onerec.model.pathways.Vocabulary`.

    A feature of cardinality 0 is left out, as it is there.
    """

    sizes: tuple[int, ...]
    n_items: int
    user_features: tuple[int, ...] = ()
    n_authors: int = 0
    n_tags: int = 0
    n_time: int = 0
    n_play: int = 0
    n_duration: int = 0
    behaviours: int = 0
    content_dim: int = 0

    @classmethod
    def of(cls, vocabulary: object) -> "Cardinalities":
        """Those of a model's vocabulary."""
        return cls(**{item.name: getattr(vocabulary, item.name) for item in fields(cls)})


class Counter:
    """The counts of one recipe on a dataset of those cardinalities."""

    def __init__(self, recipe: Recipe, known: Cardinalities) -> None:
        model, context, history = recipe.model, recipe.context, recipe.history
        self.known, self.tied = known, model.tied_output
        self.lengths = [n for n in (history.short_length, history.positive_length) if n]
        self.clusters = history.lifelong_length
        self.queries = history.lifelong_queries if self.clusters else 0
        self.targets = recipe.train.targets
        self.levels, self.codes = len(known.sizes), sum(known.sizes)
        self.lazy = model.kind == "lazy"
        self.width, self.heads = model.width, model.heads
        self.read = (context.width or self.width) if self.lazy else self.width  # C
        self.groups = (context.groups or self.heads) if self.lazy else self.heads
        self.chunks = context.sets * (1 + context.separate_values)
        self.chunk = self.groups * (self.width // self.heads)
        self.experts, self.active = model.experts, model.active_experts
        layers = 0 if self.lazy else model.encoder_layers
        places = expert_blocks(
            cast(ExpertBlocks, model.expert_blocks), layers, model.decoder_layers
        )
        self.encoder, self.decoder = ([bool(p and model.experts) for p in side] for side in places)
        hidden = lazy_ffn_hidden if self.lazy else ffn_hidden
        expert = lazy_expert_hidden if self.lazy else expert_hidden
        self.hidden, self.expert = hidden(self.width), expert(self.width)  # F
        self.shared = recipe.routing.shared_experts if model.experts else 0
        author, other, self.static = feature_widths(self.read)
        self.tables = {
            "item": (known.n_items if history.item_input != "codes" else 0, self.read),
            "author": (known.n_authors, author),
            "tag": (known.n_tags, other),
            "time": (known.n_time, other),
            "play": (known.n_play, other),
            "duration": (known.n_duration, other),
        }
        self.label = other
        self.dim = sum(dim for count, dim in self.tables.values() if count)
        self.dim += self.read * ((history.item_input != "item") + bool(known.content_dim))
        self.dim += other * bool(known.behaviours)

    def default_events(self) -> int:
        """Events of a full context, all pathways together."""
        return sum(self.lengths)

    # ------------------------------------------------------------------ parameters

    def parameters(self) -> dict[str, int]:
        """Part -> number of parameters; their sum is the model's."""
        width, read, known = self.width, self.read, self.known
        sizes = {n: (count + 1) * dim for n, (count, dim) in self.tables.items() if count}
        pair = read * (self.dim + read) + 2 * read  # both layers of a pathway's end, with biases
        lengths = [*self.lengths, *[self.queries] * bool(self.queries)]
        pathways = len(lengths) * pair + (sum(lengths) + 1) * read
        pathways += known.content_dim * read + bool(known.behaviours) * self._label()
        static = self.static * len(known.user_features)
        pathways += read * (static + read) + 2 * read if static else read
        blocks = len(self.encoder) + len(self.decoder)
        mixtures = sum(self.encoder) + sum(self.decoder)
        parts = {
            "code_table": self.codes * read,
            "item_table": sizes.pop("item", 0),
            "feature_tables": sum(sizes.values())
            + sum((count + 1) * self.static for count in known.user_features),
            "pathways": pathways,
            "encoder_attention": len(self.encoder) * 4 * width**2,
            "decoder_attention": len(self.decoder) * (6 if self.lazy else 8) * width**2,
            "dense": (blocks - mixtures) * 3 * width * self.hidden,
            "experts": mixtures * (self.experts + self.shared) * 3 * width * self.expert,
            "routers": mixtures * self.experts * width,
            "heads": 0 if self.tied else self.codes * width,
            "norms_and_begin": self._norms() + width,
        }
        if self.queries:
            block = 4 * read**2 + 3 * read * ffn_hidden(read) + read
            parts["qformer"] = self.queries * read + QFORMER_BLOCKS * block
        if self.lazy:
            parts["context_processor"] = self.chunks * self.chunk * read
            parts["lift"] = read * width if read != width else 0
        return parts

    def _label(self) -> int:
        return (self.known.behaviours + 1) * self.label

    def _norms(self) -> int:
        blocks = 2 * len(self.encoder) + 3 * len(self.decoder)
        if self.lazy:
            return (blocks + self.levels) * self.width + self.chunks * self.chunk
        return (blocks + 2) * self.width

    def total(self) -> int:
        """All parameters."""
        return sum(self.parameters().values())

    def active_total(self) -> int:
        """Without the experts that a token does not go through."""
        idle = (sum(self.encoder) + sum(self.decoder)) * (self.experts - self.active)
        return self.total() - idle * 3 * self.width * self.expert

    # ------------------------------------------------------------------ operations

    def forward_flops(
        self,
        events: float | None = None,
        targets: float | None = None,
        shared: bool = True,
        clusters: float | None = None,
        long_share: float = 1.0,
    ) -> Counts:
        """Part -> operations of one forward pass of a context and its targets.

        Args:
            events: events of a context, short and positive pathway together, without padding;
                None: all places.
            targets: M; None: the recipe's.
            shared: the targets share the decoder's first position, as they do here; V2 counts one
                for each.
            clusters: of the lifelong history; None: all places.
            long_share: of the contexts that have one; the others have no queries either.
        """
        events = self.default_events() if events is None else events
        m = self.targets if targets is None else targets
        long = self.clusters if clusters is None else clusters
        queries = self.queries * long_share if long else 0.0
        width, read, s = self.width, self.read, 1 + events + queries
        rest = m * (self.levels - 1)
        positions = rest + (1 if shared else m)
        static = self.static * len(self.known.user_features)
        pathways = (events + long) * (read * (self.dim + read + self.known.content_dim))
        pathways += (events + long) * self.known.behaviours * self.label
        pathways += read * (static + read) if static else 0
        encoder = len(self.encoder) * s * (4 * width**2 + 2 * s * width)
        own = positions * 4 * width**2 + 2 * rest * self.levels * width
        cross = positions * (2 * width**2 + 2 * s * width)
        macs: Counts = {
            "pathways": pathways,
            "encoder": encoder + s * self._ffn_macs(self.encoder),
            "decoder": len(self.decoder) * (own + cross) + positions * self._ffn_macs(self.decoder),
            "heads": m * self.codes * width,
        }
        if long:
            reads = queries * (2 * read**2 + 3 * read * ffn_hidden(read))
            reads += (
                self.queries * 2 * long * read
            )  # of those that have them: share * (long / share)
            macs["qformer"] = QFORMER_BLOCKS * (long * 2 * read**2 + reads)
        if self.lazy:
            macs["context"] = s * read * self.chunks * self.chunk
            macs["decoder"] += rest * read * width if read != width else 0
        else:
            macs["context"] = len(self.decoder) * s * 2 * width**2  # keys and values
        return {name: 2.0 * value for name, value in macs.items()}

    def _ffn_macs(self, places: list[bool]) -> int:
        """Multiply-adds of one token in the feed-forward parts of a side."""
        mixture = 3 * self.width * self.expert * (self.active + self.shared)
        mixture += self.experts * self.width  # router
        dense = 3 * self.width * self.hidden
        return sum(mixture if place else dense for place in places)

    def training_flops(
        self,
        events: float | None = None,
        targets: float | None = None,
        shared: bool = True,
        clusters: float | None = None,
        long_share: float = 1.0,
    ) -> float:
        """Operations of one training sample: three forward passes."""
        return 3 * sum(self.forward_flops(events, targets, shared, clusters, long_share).values())

    def search_flops(
        self, beam: int, events: float | None = None, clusters: float | None = None
    ) -> Counts:
        """Part -> operations of one user's beam search: each level but the first reads all beams.

        What a search works out once for several beams counts for each of them.
        """
        parts = self.forward_flops(events, beam, clusters=clusters)
        alone = beam - 1  # beams that the first level does not have
        parts["heads"] -= 2.0 * alone * self.known.sizes[0] * self.width
        return parts

    # ------------------------------------------------------------------ activations

    def activations(
        self,
        events: float | None = None,
        targets: float | None = None,
        shared: bool = True,
        clusters: float | None = None,
    ) -> Counts:
        """Part -> floating-point values that autograd keeps for the backward pass of one sample.

        For the modules as they are in float32 on a CPU without packing and without dropout. Kept
        are: of a norm its normed input, the scale and, by the product that reads it, its output; of
        attention by torch's kernel (a CPU keeps the weights of short attention, which it writes
        out, instead) queries, keys, values, result, a log-sum per head and the context's mask; of a
        SwiGLU of hidden width F, 4 F; of a mixture that for each active expert, its rows before and
        after (twice), and the gates; of a loss the log-probabilities. Weights and indices are not
        counted, nor what a whole batch keeps once.
        """
        events = self.default_events() if events is None else events
        m = self.targets if targets is None else targets
        long = self.clusters if clusters is None else clusters
        width, read, s = self.width, self.read, 1 + events + (self.queries if long else 0)
        rest = m * (self.levels - 1)
        positions, written = rest + (1 if shared else m), m * self.levels
        norm = 2 * width + 1
        static = self.static * len(self.known.user_features)
        each = self.dim + 2 * read + self.known.content_dim + self.known.behaviours
        pathways = (events + long) * each
        pathways += static + 2 * read if static else 0
        encoder = len(self.encoder) * s * (2 * norm + 4 * width + self.heads + 1)
        encoder += s * self._ffn_kept(self.encoder)
        regrouped = 0 if self.groups == self.heads else width
        own = 3 * written * width + rest * (width + self.heads)
        block = positions * (3 * norm + 3 * width + self.heads + regrouped) + s + own
        decoder = len(self.decoder) * block + positions * self._ffn_kept(self.decoder)
        parts: Counts = {"pathways": pathways, "encoder": encoder, "decoder": decoder}
        if long:
            parts["qformer"] = self._qformer_kept(long)
        if self.lazy:
            parts["context"] = s * (read + self.chunks * (2 * self.chunk + 1))
            parts["decoder"] += rest * read if read != width else 0
            parts["heads"] = written * norm + m * self.codes
        else:
            parts["context"] = s * (norm + 2 * width * len(self.decoder))
            parts["heads"] = positions * (width + 1) + written * width + m * self.codes
        return parts

    def _ffn_kept(self, places: list[bool]) -> int:
        """Values kept of one token in the feed-forward parts of a side."""
        mixture = self.active * (3 * self.width + 4 * self.expert + 2) + self.experts + 1
        mixture += self.shared * 4 * self.expert
        return sum(mixture if place else 4 * self.hidden for place in places)

    def _qformer_kept(self, clusters: float) -> float:
        """Values kept of one context in the lifelong pathway's QFormer."""
        read, heads = self.read, qformer_heads(self.read, self.heads)
        block = (2 * read + 1) * clusters + self.queries * (
            3 * read + 2 * read + 1 + heads + 4 * ffn_hidden(read)
        )
        return QFORMER_BLOCKS * block + clusters * read

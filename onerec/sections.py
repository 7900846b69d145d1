"""The sections of a recipe: everything that a run can be told, as frozen dataclasses.

`recipes` gives them values that go together; `settings` sets one by its path.
"""

from dataclasses import dataclass, field

from onerec.model.sizes import ContextConfig


@dataclass(frozen=True)
class ContentConfig:
    """What an item is to the tokenizer: text vectors, content tokens and co-consumption, joined.

    `text` is hashed, sentence, minicpm, or none, and `model` the name or folder of the model of the
    second or third, empty for its default; `tokens` uses the dataset's own content tokens where it
    has them, `images` reads covers and frames. A weight of 0 leaves the part out.
    """

    text: str = "hashed"
    model: str = ""
    text_dim: int = 64
    text_weight: float = 1.0
    tokens_weight: float = 1.0
    images: bool = False
    behaviour_dim: int = 64
    behaviour_weight: float = 1.0


@dataclass(frozen=True)
class PoolingConfig:
    """How an item's content tokens become one vector: by a QFormer; with `steps` 0 by their mean.

    The QFormer (V1 section 2.1) learns for `steps` to bring items of a pair together and to tell
    captions, each by its weight; a weight of 0 turns that off. `captioner` is the causal language
    model of transformers that tells them, empty for a small one of ours. `width` of its queries is
    the size of it all (a vector has four times as many numbers); 0 is that of the tokens, as in the
    paper, but at most 512: 64 suits a CPU. `residual` adds the connection that the paper does not
    print, without which it learns little from texts of people (DECISIONS.md).
    """

    steps: int = 0
    width: int = 0
    contrastive_weight: float = 1.0
    caption_weight: float = 1.0
    captioner: str = ""
    residual: bool = False


@dataclass(frozen=True)
class TokenizerConfig:
    """`codebook_size` is a ceiling, and a quarter of the items is another one.

    With `exact_size`, which `--set tokenizer.codebook_size=N` turns on, it is meant as it stands.
    `kind` is rq_kmeans, refined (its levels fitted to each other), balanced (clusters of one size,
    or of at most `cap` times the mean) or rq_vae, which trains for `steps`; `iterations` and `init`
    are k-means'. `policy` for items on one id is share, extra_level, nearest_free (at the last
    level) or none.
    """

    kind: str = "rq_kmeans"
    levels: int = 3
    codebook_size: int = 256
    exact_size: bool = False
    iterations: int = 25
    init: str = "k-means++"
    cap: float = 1.0
    steps: int = 1_000
    policy: str = "share"


@dataclass(frozen=True)
class HistoryConfig:
    """What the encoder reads: newest events, newest positives, and what stands for an item in them.

    `item_input` is codes (the item's semantic ID), item (an embedding of its own) or both;
    `content` adds what the tokenizer knows of the item before it is quantised. In training an event
    is hidden with probability `event_dropout`.

    With a `lifelong_length` the whole history is read too, in at most so many clusters of at most
    `lifelong_limit` events (the paper's L_l = 2,000 and M), by `lifelong_queries` queries; 0 leaves
    it out. `lifelong_by` is clusters, or recent or random: single events of the same number, which
    is what clusters are compared with.
    """

    short_length: int = 20
    positive_length: int = 64
    item_input: str = "both"
    content: bool = False
    event_dropout: float = 0.0
    lifelong_length: int = 0
    lifelong_limit: int = 192
    lifelong_queries: int = 128
    lifelong_by: str = "clusters"


@dataclass(frozen=True)
class ModelConfig:
    """Size and shape of the model; the rest follows from the data.

    `kind` is encoder_decoder (V1) or lazy (V2: no encoder, so `encoder_layers` is not read, and the
    section `context` is). `expert_blocks` says which blocks hold the `experts`: decoder (all of
    it), alternate (every second block of encoder and decoder) or late (the decoder's but the first
    two). With one active expert a competition router learns in its competitions alone, since the
    one always has weight 1 (loss_free and softmax weigh it by what they give it, as Switch).
    """

    kind: str = "encoder_decoder"
    width: int = 128
    encoder_layers: int = 2
    decoder_layers: int = 2
    heads: int = 4
    experts: int = 4
    active_experts: int = 2
    expert_blocks: str = "decoder"
    dropout: float = 0.1
    label_smoothing: float = 0.0
    tied_output: bool = False
    balance_rate: float = 0.001


@dataclass(frozen=True)
class RoutingConfig:
    """How tokens find their experts, where `model.experts` is above 0.

    `router` is loss_free (no auxiliary loss; `model.balance_rate` moves its bias), softmax or
    competition (CompeteSMoE), whose experts compete in pre-training: after a `competition_warmup`
    share of the steps each layer does so in a `competition_rate` of them, never more than
    `competition_layers` at once. `shared_experts` see every token beside the routed ones. A weight
    of 0 leaves a loss out: balance and z of the last two routers, the others of competition.
    """

    router: str = "loss_free"
    shared_experts: int = 0
    balance_weight: float = 0.01
    z_weight: float = 0.001
    distillation_weight: float = 0.01
    diversity_weight: float = 0.01
    competition_rate: float = 0.07
    competition_layers: int = 2
    competition_warmup: float = 0.05


@dataclass(frozen=True)
class TrainConfig:
    """`targets` positives share a context. `keep` is last, or best by valid recall@10.

    `order` is shuffled, length (shuffled, but a batch holds contexts of about one length, which
    saves padding) or time (old examples first, as on a stream); auto takes time where the split is
    temporal, else shuffled. `compile` has torch.compile make the model faster for pre-training and,
    on a GPU, alignment, after a wait at the first steps; it needs a compiler. `residual` is the
    dtype of the encoder's residual stream where products are bfloat16, on a GPU: float32, or
    bfloat16, which is faster at a loss of digits; a lazy decoder has none.
    """

    steps: int = 1_000
    batch_size: int = 256
    targets: int = 4
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    weight_decay: float = 0.01
    order: str = "auto"
    evaluate_every: int = 250
    checkpoint_every: int = 250
    keep: str = "last"
    compile: bool = False
    residual: str = "float32"


@dataclass(frozen=True)
class RewardConfig:
    """P-Score, the ranker that scores what the policy generates; `steps` 0 leaves it out.

    In each of at most `rounds` rounds the fusion is trained again with the weight of the behaviour
    raised that lost most; AUCs are measured on up to `valid_rows` rows. `stop_gradient` (Pantheon,
    arXiv 2505.13894): the fusion reads the towers and does not train them.
    """

    steps: int = 400
    batch_size: int = 512
    width: int = 48
    learning_rate: float = 2e-3
    dropout: float = 0.1
    rounds: int = 4
    valid_rows: int = 20_000
    stop_gradient: bool = True


@dataclass(frozen=True)
class AlignConfig:
    """Reinforcement learning beside next-token training; `steps` 0 leaves it out.

    In each step `users` contexts get a group of `group` items from the policy of up to `lag`
    updates ago (0: the current one). `search` is sample (all codes), constrained (legal codes),
    beam, or log: what people were shown next, whose `reward` is feedback, by what they did (V2
    section 3.3). Else `reward` is pscore, a behaviour, or several with weights, such as
    pscore=0.7,like=0.3; `format_items` of each sampled group get the format reward (0: none).
    `weight` is that of the policy's loss beside the next-token loss; 0 turns it off.
    With a `tilt` above 0 the policy is drawn to the pre-trained one times reward^tilt, and no
    farther (`train.policy.tilted_advantage`); 0 takes the papers' (r - mean) / std.
    """

    steps: int = 100
    users: int = 16
    group: int = 64
    search: str = "sample"
    reward: str = "pscore"
    objective: str = "ecpo"
    weight: float = 0.1
    tilt: float = 0.0
    format_items: int = 3
    lag: int = 0
    learning_rate: float = 5e-4


@dataclass(frozen=True)
class SamplingConfig:
    """How alignment's groups are sampled: `temperature`, and of the codes of a level the most
    probable that together reach `top_p`. With `icepop` above 0 an item takes no part that training
    finds more than so many times as probable as the sampler did, or less than half as probable."""

    temperature: float = 1.0
    top_p: float = 1.0
    icepop: float = 0.0


@dataclass(frozen=True)
class IndustrialConfig:
    """Less of a kind (V1 section 4.3.3): items whose `column` holds `value` have their reward times
    `alpha` while their share of a step's items passes `limit`. An empty column turns it off."""

    column: str = ""
    value: str = ""
    alpha: float = 0.5
    limit: float = 0.1


@dataclass(frozen=True)
class EvaluateConfig:
    """Whom to measure, on which part, with how wide a beam; how many users get lists on disk."""

    split: str = "auto"
    part: str = "test"
    filter_seen: bool = False
    beam: int = 50
    valid_users: int = 1_000
    recommend_users: int = 2_000


@dataclass(frozen=True)
class BaselineConfig:
    """Each of `names` is tuned on valid with up to `trials` settings.

    SASRec, which costs as much as OneRec, tries `sasrec_trials` of `sasrec_steps` steps each: equal
    effort is equal time.
    """

    names: tuple[str, ...] = ("popularity", "item_knn", "sasrec")
    trials: int = 8
    sasrec_trials: int = 4
    sasrec_steps: int = 600
    sasrec_width: int = 64
    sasrec_batch_size: int = 128


@dataclass(frozen=True)
class Recipe:
    """A whole run but for the dataset."""

    name: str
    seed: int = 0
    device: str = "auto"
    content: ContentConfig = field(default_factory=ContentConfig)
    qformer: PoolingConfig = field(default_factory=PoolingConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    history: HistoryConfig = field(default_factory=HistoryConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    routing: RoutingConfig = field(default_factory=RoutingConfig)
    context: ContextConfig = field(default_factory=ContextConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    align: AlignConfig = field(default_factory=AlignConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    industrial: IndustrialConfig = field(default_factory=IndustrialConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    baselines: BaselineConfig = field(default_factory=BaselineConfig)

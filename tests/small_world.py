"""Settings with which a small world's run takes seconds; `bench.worth.prepare` makes it."""

SETTINGS = {
    "model.width": "16",
    "tokenizer.codebook_size": "32",
    "train.batch_size": "32",
    "train.evaluate_every": "5",
    "train.checkpoint_every": "5",
    "reward.batch_size": "64",
    "reward.width": "8",
    "reward.rounds": "1",
    "align.users": "4",
    "align.group": "8",
    "evaluate.valid_users": "40",
    "baselines.names": "popularity",
}

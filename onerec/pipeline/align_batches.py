"""What each step of alignment works on: next-token examples, and whose groups to judge.

Shapes: n items, L levels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from onerec.alignment import AlignBatch, LoggedItems
from onerec.alignment_settings import LOG
from onerec.assembly import Setting
from onerec.data.batches import Contexts, Examples, TrainingBatches
from onerec.pipeline.feedback import LoggedFeedback

Ints = NDArray[np.int64]

_STEP_SEED = 7_919


@dataclass
class AlignBatches:
    """step -> AlignBatch: next-token examples, and the contexts of some of them for the policy.

    Examples are shuffled also where pre-training read them in order of time: on the built-in world
    that gave a valid recall@10 of .1364 against .1336 without a reward (one seed).

    `codes` (n, L) are the items'; `send` is told of each step before it is drawn for. Where groups
    come from the log, they are what a context's user was shown from there on, of training rows.

    Raises:
        DataError: groups come from a log without play times or durations.
    """

    setting: Setting
    contexts: Contexts
    examples: Examples
    codes: Ints
    send: Callable[[int], None]

    def __post_init__(self) -> None:
        recipe = self.setting.recipe
        self.next_token = TrainingBatches(
            self.contexts,
            self.examples,
            recipe.train.batch_size,
            recipe.seed,
            event_dropout=recipe.history.event_dropout,
        )
        self.feedback: LoggedFeedback | None = None
        if recipe.align.search == LOG:
            self.feedback = LoggedFeedback.of(self.setting.dataset, self.setting.split)

    def __call__(self, step: int) -> AlignBatch:
        self.send(step)
        recipe = self.setting.recipe
        rows = self.next_token.sampler(step)[: recipe.align.users]
        user, end = self.examples.user[rows], self.examples.end[rows]
        return AlignBatch(
            next_token=self.next_token(step),
            user=user,
            end=end,
            context=self.contexts.batch(torch.from_numpy(user), torch.from_numpy(end)),
            seed=recipe.seed * _STEP_SEED + 2 * step,
            logged=logged_items(
                self.feedback, self.codes, user, end, recipe.align.group, self.contexts.device
            ),
        )


def logged_items(
    feedback: LoggedFeedback | None,
    codes: Ints,
    user: Ints,
    end: Ints,
    group: int,
    device: torch.device,
) -> LoggedItems | None:
    """What users (B,) were shown from rows `end` (B,) on, with the codes (n, L) of the items; None
    without a log to ask."""
    if feedback is None:
        return None
    found, advantage = feedback.groups(user, end, group)
    own = np.where(found[..., None] < 0, 0, codes[found])
    return LoggedItems(*(torch.from_numpy(part).to(device) for part in (found, own, advantage)))

"""What each step of alignment works on: reproducible by step, and what the log has where asked."""

import numpy as np
import torch
import toy_home

from onerec.assembly import load_semantic_ids, setting_of
from onerec.pipeline.align import Aligning
from onerec.pipeline.align_batches import AlignBatches
from onerec.runs import open_run


def batches(home, sent):
    run = open_run("first", home)
    training = Aligning(run, setting_of(run), torch.device("cpu"))
    ids, _ = load_semantic_ids(run)
    return AlignBatches(
        training.setting, training.contexts, training.examples(), ids.codes, sent.append
    )


def test_a_step_has_the_same_work_whenever_it_is_asked_for(aligned):
    sent = []
    first, again = batches(aligned, sent), batches(aligned, sent)
    first(1)
    one, two = first(5), again(5)
    assert sent == [1, 5, 5]
    assert one.user.tolist() == two.user.tolist()
    assert one.seed == two.seed
    assert one.next_token.target.equal(two.next_token.target)
    assert len(one.user) == int(toy_home.ALIGNED["align.users"])
    assert one.logged is None


def test_the_policys_contexts_are_those_of_the_next_token_batch(aligned):
    """V1: RL on a share of the users of the batch that is trained on."""
    made = batches(aligned, [])(3)
    users = len(made.user)
    assert made.context.short.item.equal(made.next_token.short.item[:users])
    assert np.issubdtype(made.end.dtype, np.integer)

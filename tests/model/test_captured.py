"""A search as a CUDA graph: the lists of the plain one, also after weights or users change."""

import pytest
import torch
import toy_model as toy

from onerec.common import autocast
from onerec.model.captured import CapturedSearch
from onerec.model.generate import beam_search
from onerec.tokenizer.trie import Trie

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


def searching(model, trie):
    """A search for what a batch asks."""
    return lambda batch: beam_search(model, batch, trie, k=4, beam=6)


def test_a_batch_on_a_cpu_is_refused():
    model, trie = toy.make_model(), Trie(toy.item_codes(), toy.SIZES)
    with pytest.raises(ValueError, match="the batch is on cpu: a search is captured on a GPU"):
        CapturedSearch(model, toy.make_batch(), searching(model, trie))


@on_a_gpu
@pytest.mark.parametrize("experts", [0, 3])
def test_it_follows_users_and_weights(experts):
    model = toy.make_model(experts=experts).cuda()
    trie = Trie(toy.item_codes(), toy.SIZES).cuda()
    captured = CapturedSearch(model, toy.make_batch().to("cuda"), searching(model, trie))
    for seed in (0, 1):
        batch = toy.make_batch(seed=seed).to("cuda")
        for _ in range(2):
            with autocast(torch.device("cuda")):
                plain = beam_search(model, batch, trie, k=4, beam=6)
            found = captured(batch)
            assert found.items.equal(plain.items)
            assert found.scores.equal(plain.scores)
            with torch.no_grad():  # in place, as an optimiser does
                for parameter in model.parameters():
                    parameter.mul_(0.9)
    with autocast(torch.device("cuda")):
        model.train().loss(batch)[0].backward()  # lets go of the mixtures' copies
        plain = beam_search(model, batch, trie, k=4, beam=6)
    assert captured(batch).items.equal(plain.items)


@on_a_gpu
def test_another_shape_is_refused():
    model, trie = toy.make_model().cuda(), Trie(toy.item_codes(), toy.SIZES).cuda()
    batch = toy.make_batch().to("cuda")
    captured = CapturedSearch(model, batch, searching(model, trie))
    with pytest.raises(ValueError, match="captured for the shapes"):
        captured(batch.rows(slice(0, 1)))

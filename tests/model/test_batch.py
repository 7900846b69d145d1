"""Batches cut, picked and sent, with and without a lifelong history."""

import torch
import toy_model as toy

from onerec.model.batch import Batch, ClusteredEvents


def test_rows_and_places_keep_the_kind_of_events():
    clusters = toy.make_clusters((3, 0, 2), 4)
    assert clusters.own == ("time", "play", "tag", "duration")
    assert toy.make_events((1,), 2).own == ("time", "play")
    some = clusters.rows(slice(1, 3))
    assert isinstance(some, ClusteredEvents)
    assert some.tag.equal(clusters.tag[1:])
    picked = clusters.picked(torch.tensor([0, 9]))
    assert picked.duration.tolist() == [int(clusters.duration[0, 0]), int(clusters.duration[2, 1])]
    assert clusters.to("cpu").label.equal(clusters.label)


def test_a_batch_is_cut_and_sent_with_its_lifelong_history_or_without():
    batch = toy.make_batch()
    assert batch.size == 3
    assert batch.rows(slice(0, 2)).lifelong is None
    assert batch.to("cpu").lifelong is None
    batch.lifelong = toy.make_clusters((3, 0, 2), 4)
    cut: Batch = batch.rows(slice(1, 3))
    assert cut.size == 2
    assert cut.lifelong.item.equal(batch.lifelong.item[1:])
    assert cut.short.item.equal(batch.short.item[1:])
    sent = batch.to("meta")
    assert sent.lifelong.tag.device.type == sent.target.device.type == "meta"


def test_parts_are_neighbours_as_even_as_can_be():
    batch = toy.make_batch((4, 0, 2, 3, 1))
    parts = batch.split(3)
    assert [part.size for part in parts] == [1, 2, 2]
    assert torch.cat([part.target for part in parts]).equal(batch.target)
    assert batch.split(1)[0].short.item.equal(batch.short.item)

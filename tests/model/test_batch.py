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


def test_parts_join_to_the_whole_padded_behind_to_the_longest():
    batch = toy.make_batch((4, 0, 2, 3))
    batch.lifelong = toy.make_clusters((3, 0, 2, 1), 3)
    first, last = batch.rows(slice(0, 1)), batch.rows(slice(1, 4))
    for events in (last.short, last.lifelong):  # the later part has shorter histories
        for name in events.__dataclass_fields__:
            setattr(events, name, getattr(events, name)[:, :2])
    joined = Batch.joined([first, last])
    assert joined.size == 4
    assert joined.target.equal(batch.target)
    assert joined.static.equal(batch.static)
    for ours, whole in ((joined.short, batch.short), (joined.lifelong, batch.lifelong)):
        assert type(ours) is type(whole)
        for name in ours.__dataclass_fields__:
            column, expected = getattr(ours, name), getattr(whole, name)
            assert column.shape == expected.shape
            assert column.dtype == expected.dtype
            assert column[0].equal(expected[0])
            assert column[1:, :2].equal(expected[1:, :2])
            assert not column[1:, 2:].any()
    assert joined.positive.label.equal(batch.positive.label)
    assert Batch.joined([first]) is first
    assert Batch.joined([toy.make_batch(), toy.make_batch()]).lifelong is None


def test_a_share_of_the_events_is_hidden_whole():
    batch = toy.make_batch((4, 4, 4, 4) * 50)
    assert batch.thinned(0.0) is batch
    torch.manual_seed(0)
    some = batch.thinned(0.25)
    kept = some.short.item > 0
    assert 0.7 < kept.float().mean() / (batch.short.item > 0).float().mean() < 0.8
    assert some.short.label[kept].equal(batch.short.label[kept])
    assert not some.short.play[~kept].any()
    assert some.target.equal(batch.target)


def test_parts_are_neighbours_as_even_as_can_be():
    batch = toy.make_batch((4, 0, 2, 3, 1))
    parts = batch.split(3)
    assert [part.size for part in parts] == [1, 2, 2]
    assert torch.cat([part.target for part in parts]).equal(batch.target)
    assert batch.split(1)[0].short.item.equal(batch.short.item)


def test_grids_of_few_sizes_hold_the_same_events():
    batch = toy.make_batch()
    batch.lifelong = toy.make_clusters((3, 0, 2), 3)
    padded = batch.of_few_shapes(short=4, positive=9)
    assert padded.short.item.equal(batch.short.item)
    assert padded.positive.label.shape == (3, 9, 2)
    assert padded.positive.label[:, :6].equal(batch.positive.label)
    assert not padded.positive.item[:, 6:].any()
    assert padded.lifelong.tag[:, :3].equal(batch.lifelong.tag)
    for count, room in ((0, 16), (16, 16), (17, 20), (20, 20), (21, 32), (33, 64)):
        assert toy.make_events((0, 0, 0), count).roomy(20).item.shape == (3, room)
    assert toy.make_events((0, 0, 0), 0).roomy(0).item.shape == (3, 0)  # no such pathway
    assert toy.make_clusters((3, 0, 2), 1_025).roomy(2_000).tag.shape == (3, 2_000)

"""k-means of many sets: its parts by hand, and each set as if it were alone."""

import slow_hash
import torch

from onerec.model.ragged_kmeans import Sets, cluster_count, segment_sum, uniform, weighted_means


def test_the_number_of_clusters_is_the_exact_cube_root():
    size = torch.tensor([1, 7, 8, 26, 27, 63, 64, 999, 1_000, 97_335, 97_336, 100_000])
    assert cluster_count(size).tolist() == [1, 1, 2, 2, 3, 3, 4, 9, 10, 45, 46, 46]


def test_random_numbers_are_those_of_a_slow_hash_and_evenly_spread():
    item = torch.arange(20_000)
    got = uniform(item, 3, 1, 2)
    wanted = [slow_hash.uniform(i, 3, 1, 2) for i in range(50)]
    torch.testing.assert_close(got[:50], torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=0)
    assert float(got.min()) > 0
    assert float(got.max()) < 1
    assert (torch.histc(got, 20, 0, 1) - 1_000).abs().max() < 150
    for other in ((4, 1, 2), (3, 2, 2), (3, 1, 3)):
        again = uniform(item, *other)
        assert abs(float(torch.corrcoef(torch.stack([got, again]))[0, 1])) < 0.03


def test_sums_and_means_by_hand():
    values = torch.tensor([1.0, 2.0, 4.0, 8.0])
    assert segment_sum(values, torch.tensor([2, 0, 2])).tolist() == [3.0, 0.0, 12.0]
    assert segment_sum(values[:0], torch.tensor([], dtype=torch.int64)).tolist() == []
    assert segment_sum(values[:0], torch.tensor([0])).tolist() == [0.0]
    x = torch.tensor([[0.0, 1.0], [4.0, 1.0], [9.0, 9.0]])
    means = weighted_means(
        x, torch.tensor([3.0, 1.0, 2.0]), torch.tensor([1, 1, 0]), torch.full((3, 2), -1.0)
    )
    assert means.tolist() == [[9.0, 9.0], [1.0, 1.0], [-1.0, -1.0]]


def test_heaps_far_apart_are_found_and_a_set_does_not_see_the_others():
    g = torch.Generator().manual_seed(0)
    heaps = torch.cat(
        [torch.full((30, 2), 100.0 * h) + torch.rand(30, 2, generator=g) for h in range(3)]
    )  # 90 points: floor(90^(1/3)) = 4 clusters
    pair = torch.tensor([[0.0, 0.0], [50.0, 50.0]])
    x = torch.cat([heaps, pair])
    group = torch.tensor([0] * 90 + [1] * 2)
    weight = torch.tensor([1] * 90 + [5, 4])
    sets = Sets(x, torch.arange(92), weight, group, torch.tensor([90, 9]))
    label = sets.cluster(seed=0, depth=0)
    for first in (0, 30, 60):
        inside = set(label[first : first + 30].tolist())
        outside = set(label[:90].tolist()) - inside
        assert not inside & set(torch.cat([label[:first], label[first + 30 : 90]]).tolist())
        assert len(inside) + len(outside) == 4
    assert label[90] != label[91]
    alone = Sets(heaps, torch.arange(90), weight[:90], group[:90], torch.tensor([90]))
    assert label[:90].equal(alone.cluster(seed=0, depth=0))


def test_fewer_different_points_than_clusters_are_as_many_clusters():
    x = torch.tensor([[0.1, 0.2]] * 40 + [[3.0, 3.0]] * 40)
    sets = Sets(
        x, torch.arange(80), torch.ones(80).long(), torch.zeros(80).long(), torch.tensor([80])
    )
    label = sets.cluster(seed=1, depth=0)
    assert sets.clusters.tolist() == [2]
    assert label[:40].unique().tolist() != label[40:].unique().tolist()
    assert len(label.unique()) == 2

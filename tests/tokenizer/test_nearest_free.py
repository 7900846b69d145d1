"""`nearest_free` by hand, against the obvious loop, and whatever the items' numbers."""

import numpy as np
import pytest
import torch

from onerec.tokenizer import nearest_free as module
from onerec.tokenizer.nearest_free import LastLevel, nearest_free
from onerec.tokenizer.rq_kmeans import RQKmeans, RQKmeansConfig

ENTRIES = np.array([[0.0], [10.0], [20.0]], dtype=np.float32)


def last(*residual: float) -> LastLevel:
    return LastLevel(np.array(residual, dtype=np.float32)[:, None], ENTRIES)


def test_the_nearest_keeps_its_code_and_the_next_goes_to_the_nearest_free() -> None:
    codes, prefix = np.array([1, 1, 1]), np.zeros(3, dtype=np.int64)
    # 9 keeps 1; 13 comes before 14 and takes 2 (7 away; 0 is 13 away); 14 is left with 0.
    assert nearest_free(codes, prefix, last(14, 9, 13)).tolist() == [0, 1, 2]
    assert codes.tolist() == [1, 1, 1]  # its input is left alone


def test_a_code_that_someone_has_is_not_free() -> None:
    """Item 2 alone on its code is not moved, however near another is."""
    codes, prefix = np.array([1, 1, 2]), np.zeros(3, dtype=np.int64)
    assert nearest_free(codes, prefix, last(10, 14, 29)).tolist() == [1, 0, 2]


def test_prefixes_do_not_see_one_another() -> None:
    codes, prefix = np.array([1, 1, 1, 1]), np.array([5, 7, 5, 7])
    assert nearest_free(codes, prefix, last(10, 11, 12, 8)).tolist() == [1, 1, 2, 0]


def test_where_all_codes_are_taken_the_last_keep_theirs_and_share() -> None:
    codes, prefix = np.array([0, 0, 1, 0, 0]), np.zeros(5, dtype=np.int64)
    # 1 keeps 0, 2 takes the free 2; 3 and 4 find nothing.
    assert nearest_free(codes, prefix, last(4, 1, 10, 2, 3)).tolist() == [0, 0, 1, 2, 0]


def real(n: int = 300) -> tuple[np.ndarray, np.ndarray, LastLevel]:
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(0))
    quantiser = RQKmeans(RQKmeansConfig(levels=2, codebook_size=16)).fit(x)
    codes = quantiser.transform(x)
    return codes[:, 1].numpy(), codes[:, 0].numpy(), LastLevel.of(x, codes, quantiser.codebooks)


def test_equals_the_obvious_loop() -> None:
    codes, prefix, level = real()
    expected = codes.copy()
    for group in set(prefix.tolist()):
        members = [i for i in range(len(codes)) if prefix[i] == group]
        distance = {
            (i, code): float(
                ((level.residual[i].astype(float) - level.entries[code].astype(float)) ** 2).sum()
            )
            for i in members
            for code in range(16)
        }
        free = set(range(16)) - {int(codes[i]) for i in members}
        kept = set()
        for i in sorted(members, key=lambda i: distance[i, codes[i]]):
            if int(codes[i]) not in kept:
                kept.add(int(codes[i]))
            elif free:
                expected[i] = min(free, key=lambda code: distance[i, code])
                free.remove(int(expected[i]))
    assert nearest_free(codes, prefix, level).tolist() == expected.tolist()
    assert (expected != codes).sum() > 20


@pytest.mark.parametrize("seed", range(3))
def test_the_result_does_not_depend_on_how_items_are_numbered(seed: int) -> None:
    """Ties by distance too: items at the same distance on either side of an entry."""
    codes, prefix, level = real()
    order = np.random.default_rng(seed).permutation(len(codes))
    shuffled = LastLevel(level.residual[order], level.entries)
    moved = nearest_free(codes[order], prefix[order], shuffled)
    assert moved.tolist() == nearest_free(codes, prefix, level)[order].tolist()
    tied, two = np.array([1, 1]), np.zeros(2, dtype=np.int64)
    one, other = nearest_free(tied, two, last(9, 11)), nearest_free(tied, two, last(11, 9))
    assert one.tolist() == other[::-1].tolist()


def test_what_is_left_for_the_last_level_by_hand() -> None:
    books = torch.tensor([[[0.0], [100.0]], [[-1.0], [1.0]]])
    level = LastLevel.of(torch.tensor([[3.0], [98.0]]), torch.tensor([[0, 1], [1, 0]]), books)
    assert level.residual.tolist() == [[3.0], [-2.0]]
    assert level.entries.tolist() == [[-1.0], [1.0]]
    assert level.distances(np.array([1])).tolist() == [[1.0, 9.0]]


def test_one_crowded_prefix_holds_a_bounded_number_of_distances(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With one level all items share the empty prefix: items x codes distances stood together."""
    x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    quantiser = RQKmeans(RQKmeansConfig(levels=1, codebook_size=64)).fit(x)
    codes = quantiser.transform(x)
    level, prefix = LastLevel.of(x, codes, quantiser.codebooks), np.zeros(200, dtype=np.int64)
    whole = nearest_free(codes[:, 0].numpy(), prefix, level)
    own, asked = LastLevel.distances, []

    def watched(self: LastLevel, items: np.ndarray) -> np.ndarray:
        asked.append(len(items))
        return own(self, items)

    monkeypatch.setattr(module, "AT_A_TIME", 64 * 30)
    monkeypatch.setattr(LastLevel, "distances", watched)
    assert np.array_equal(nearest_free(codes[:, 0].numpy(), prefix, level), whole)
    assert max(asked) == 30

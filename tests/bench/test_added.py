"""Added items: measures by hand, codebooks that move, and the whole command."""

import json
from pathlib import Path

import pytest
import torch
import toy_home

from onerec.bench import added
from onerec.data.sources.world import make_world_dataset
from onerec.errors import RecipeError
from onerec.pipeline import run as run_stages
from onerec.tokenizer.kmeans import lloyd
from onerec.tokenizer.rq_kmeans import RQKmeans, RQKmeansConfig
from onerec.world import WorldConfig


def test_measures_by_hand() -> None:
    x = torch.tensor([[0.0], [1.0], [4.0], [5.0], [10.0]])
    new = torch.tensor([False, False, False, False, True])
    before = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1], [1, 1]])
    after = torch.tensor([[1, 0], [1, 1], [0, 0], [0, 0], [2, 0]])  # names change, one group joins
    found = {"kept": (before, x - 1.0), "refit": (after, x + torch.tensor([[0.0]] * 4 + [[2.0]]))}
    told = added.measured(x, new, found)
    assert told["kept"]["agreement"] == [1.0, 1.0]
    assert told["kept"]["same_codes"] == 1.0
    assert told["kept"]["new_sharing"] == 1.0  # it lies where item 3 does
    assert told["kept"]["new_error"] == pytest.approx(1 / 36)  # the mean is 4
    assert told["kept"]["old_error"] == pytest.approx(4 / (16 + 9 + 0 + 1))
    assert told["refit"]["agreement"][0] == 1.0
    assert told["refit"]["agreement"][1] < 1.0
    assert told["refit"]["same_codes"] == 0.0
    assert told["refit"]["new_sharing"] == 0.0
    assert told["refit"]["new_error"] == pytest.approx(4 / 36)


def test_codebooks_go_on_from_where_they_stood() -> None:
    x = torch.randn(400, 4, generator=torch.Generator().manual_seed(0))
    config = RQKmeansConfig(levels=2, codebook_size=8, iterations=200)
    quantiser = RQKmeans(config).fit(x)
    stay = added.moved(x, quantiser.codebooks, 0)
    torch.testing.assert_close(stay, quantiser.codebooks, atol=1e-4, rtol=0)
    more = torch.cat((x, x[:40] + 3.0))
    before = quantiser.inverse_transform(quantiser.transform(more))
    books = added.moved(more, quantiser.codebooks, 0)
    _, after = (codes := added.residual_codes(more, books)), added.reconstruct(codes, books)
    assert (more - after).square().sum() < (more - before).square().sum()


def test_a_level_moves_on_what_the_moved_ones_before_it_left() -> None:
    x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    books = RQKmeans(RQKmeansConfig(levels=2, codebook_size=8)).fit(x[:100] - 1).codebooks
    moved, left = added.moved(x, books, 0), x.clone()
    for begun, found in zip(books, moved, strict=True):
        expected = lloyd(left, begun, iterations=25, generator=torch.Generator().manual_seed(0))
        assert found.equal(expected.centroids)
        left = left - found[torch.cdist(left, found).argmin(1)]


def test_fitted_items_have_the_balanced_codes_and_another_seed_gives_others() -> None:
    x = torch.randn(120, 3, generator=torch.Generator().manual_seed(1)) ** 3
    new = torch.arange(120) >= 100
    balanced = added.ways("balanced", x, new, 6, 2, 0)
    assert sorted(balanced["kept"][0][~new, 0].bincount().tolist()) == [16, 16, 17, 17, 17, 17]
    assert sorted(balanced["refit"][0][:, 0].bincount().tolist()) == [20] * 6
    for kind in added.KINDS:
        found = added.ways(kind, x, new, 6, 2, 0)
        again = added.ways(kind, x, new, 6, 2, added.OTHER)
        assert found["reseeded"][0].equal(again["kept"][0])
        assert not found["reseeded"][0].equal(found["kept"][0])


def test_ways_leave_new_items_out_of_what_they_had_no_part_in() -> None:
    x = torch.randn(120, 3, generator=torch.Generator().manual_seed(1))
    new = torch.arange(120) >= 100
    for kind in added.KINDS:
        found = added.ways(kind, x, new, 6, 2, 0)
        assert list(found) == list(added.KINDS[kind])
        shifted = torch.where(new[:, None], x + 50.0, x)
        other = added.ways(kind, shifted, new, 6, 2, 0)
        assert other["kept"][0][~new].equal(found["kept"][0][~new])
        assert not other["refit"][0][~new].equal(found["refit"][0][~new])


def test_a_share_that_leaves_nothing_is_refused() -> None:
    for share, count in ((0.001, 0), (0.9, 90)):
        with pytest.raises(RecipeError, match=f"{count} of 100 items would be new"):
            added.compare(torch.randn(100, 2), 16, 2, share, 1)


def test_as_many_old_items_as_codes_are_enough() -> None:
    told = added.compare(torch.randn(100, 2), 16, 1, 0.84, 1)
    assert (told["new"], told["results"]["rq_kmeans"]["kept"]["old_error"]["mean"]) == (84, 0)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_world_dataset("w", WorldConfig(n_items=500, n_users=60, mean_history=10), tmp_path)
    run_stages("r", toy_home.make_recipe({}), "w", home=tmp_path, stages=("tokenize",))
    out = tmp_path / "added.json"
    words = ["--run", "r", "--home", str(tmp_path), "--seeds", "2", "--out", str(out)]
    assert added.main(words) == 0
    assert "rq_kmeans moved" in " ".join(capsys.readouterr().out.split())
    found = json.loads(out.read_text())
    assert found["new"] == 50
    kept, refit = (found["results"]["rq_kmeans"][way] for way in ("kept", "refit"))
    assert kept["same_codes"]["mean"] == 1
    assert 0 < refit["agreement"][0]["mean"] < 1

"""The benchmark of decoding: first distinct draws, and one small round."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from onerec.bench import decoding
from onerec.bench.decoding import by_beams, by_methods, first_distinct, main, methods, precision
from onerec.data.split import Cases


def test_draws_become_lists_of_different_items_that_nobody_has_seen():
    drawn = torch.tensor([[4, 4, -1, 2, 9, 2, 7], [1, 1, 1, 1, 1, 1, 1]])
    seen = torch.tensor([[10, 0], [0, 0]])  # item 9; 0 is nobody
    assert first_distinct(drawn, seen, k=3).tolist() == [[4, 2, 7], [1, -1, -1]]
    assert first_distinct(drawn, None, k=3).tolist() == [[4, 2, 9], [1, -1, -1]]


CASES = Cases(np.array([0, 1]), np.array([5, 9]), np.array([0, 1, 3]), np.array([4, 2, 7]))


def served(**items):
    """A recommender that is asked for its names alone."""
    dataset = SimpleNamespace(items=pd.DataFrame(items))
    evaluate = SimpleNamespace(beam=3, filter_seen=True)
    setting = SimpleNamespace(dataset=dataset, recipe=SimpleNamespace(evaluate=evaluate))
    return SimpleNamespace(setting=setting, device=torch.device("cpu"), model=None, trie=None)


def test_a_row_of_a_beam_by_hand(monkeypatch):
    """12 items: the first user's target is the 11th, the second one's are the first and the last.

    Of a truth of .1 for the first item and 0 for all others, the best is .1, the mean .1 / 12.
    """
    wide = np.array([[0, 1, 3, 5, 6, 8, 9, 10, 11, 12, 4, 2], [2, *range(20, 30), 7]])
    found = iter([wide[:, :2], wide[:, :2], wide])
    clock = iter([0.0, 2.0, 2.0, 8.0])
    truth = SimpleNamespace(
        truth=lambda user, end, items: {"long_view": np.where(np.arange(items.shape[1]), 0.0, 0.1)
                                        + np.zeros(items.shape)}
    )  # fmt: skip
    monkeypatch.setattr(decoding, "lists", lambda *_: next(found))
    monkeypatch.setattr(decoding, "world_of", lambda _: truth)
    monkeypatch.setattr(decoding, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    rows = by_beams(served(), CASES, [2, 12])
    means = {k: {n: v["mean"] for n, v in row.items() if n != "time"} for k, row in rows.items()}
    assert means["2"] == {
        "recall@10": 0.25, "recall@K": 0.25, "hit@K": 0.5, "best@K": 0.1, "mean@K": 0.05
    }  # fmt: skip
    assert means["12"] == {
        "recall@10": 0.25, "recall@K": 1.0, "hit@K": 1.0, "best@K": 0.1, "mean@K": 0.00833
    }  # fmt: skip
    assert [row["time"] for row in rows.values()] == [1.0, 3.0]  # 6 seconds after 2


def test_a_row_of_a_method_by_hand(monkeypatch):
    """Four items of two coarse tags; a place without an item has none."""
    paths = [("music", "pop"), ("music", "jazz"), ("food",), ("food", "soup")]
    found = np.array([[0, 1, -1], [0, 2, 1]])
    monkeypatch.setattr(decoding, "methods", lambda _: {"one": None})
    monkeypatch.setattr(decoding, "lists", lambda *_: found)
    row = by_methods(served(category=paths), CASES)["one"]
    assert row["tags"]["mean"] == 1.5  # 1 of the first, 2 of the second
    assert row["items"] == 2.5
    assert row["coverage@10"] == 0.75
    assert row["recall@10"]["mean"] == 0.25


def test_bfloat16_is_compared_with_float32_by_hand(monkeypatch):
    """It loses the first user's target: -1 of one user is -.5; one list of two is the same."""
    single = np.array([[4, 1, 3], [8, 9, 5]])
    half = np.array([[0, 1, 3], [8, 9, 5]])
    monkeypatch.setattr(decoding, "methods", lambda _: {"beam": None})
    monkeypatch.setattr(decoding, "lists", lambda a, b, c, bits: half if bits else single)
    found = precision(served(), CASES)
    assert found["equal_lists"] == 0.5
    assert found["recall@10_change"]["mean"] == -0.5
    assert found["rank_biased_overlap"]["high"] == 1.0


def test_methods_are_asked_for_with_what_their_names_say(monkeypatch):
    asked, seen = {}, torch.tensor([[6, 0]])  # item 5
    drawn = SimpleNamespace(items=torch.tensor([[5, 8, 8, 1]]))

    def noted(name, result):
        def search(model, batch, trie, **how):
            asked[name] = how
            return result

        return search

    chances = SimpleNamespace(sample=lambda group, stream: drawn)
    monkeypatch.setattr(decoding, "sample", noted("sample", drawn))
    monkeypatch.setattr(decoding, "power_distribution", noted("power", chances))
    monkeypatch.setattr(decoding, "beam_search", noted("beam", drawn))
    monkeypatch.setattr(decoding, "diverse_beam_search", noted("diverse", drawn))
    rows, cuts = {}, {}
    for name, search in methods(served()).items():
        rows[name] = search(None, seen)[0].tolist()
        cuts[name] = asked.get("sample", {}).get("top_p")
    assert (cuts["sample"], cuts["top_p"]) == (1.0, 0.9)
    assert asked["power"] == {"alpha": 2.0, "beam": decoding.SUPPORT}
    for name in ("sample", "top_p", "power"):
        assert rows[name] == [8, 1, *[-1] * 8]  # item 5 was seen
    for name in ("beam", "diverse"):
        assert (asked[name]["k"], asked[name]["beam"]) == (10, 10)
        assert asked[name]["exclude"] is seen
    assert (asked["diverse"]["groups"], asked["diverse"]["penalty"]) == (4, 1.0)


def test_draws_of_all_batches_come_from_one_stream(monkeypatch):
    """Users of another batch would otherwise be drawn for with the same numbers."""

    def noise(stream):
        return SimpleNamespace(items=torch.randint(1_000_000, (1, 4), generator=stream))

    chances = SimpleNamespace(sample=lambda group, stream: noise(stream))
    monkeypatch.setattr(decoding, "sample", lambda *asked, generator, **how: noise(generator))
    monkeypatch.setattr(decoding, "power_distribution", lambda *asked, **how: chances)
    ways, again = methods(served(), seed=3), methods(served(), seed=3)
    for name in ("sample", "top_p", "power"):
        first, second = (ways[name](None, None).tolist() for _ in range(2))
        assert first != second
        assert again[name](None, None).tolist() == first


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("hidden", [False, True])
def test_lists_leave_out_what_was_seen_and_are_of_the_bits_asked_for(monkeypatch, half, hidden):
    one, told = served(), []
    one.model, one.contexts = torch.nn.Linear(1, 1), SimpleNamespace(batch=lambda user, end: user)
    one.seen = lambda user, end: end
    one.setting.recipe.evaluate.filter_seen = hidden
    parts = [(None, torch.tensor([user]), torch.tensor([user + 5])) for user in range(2)]
    monkeypatch.setattr(decoding, "case_batches", lambda *_: parts)

    def search(user, seen):
        told.append((None if seen is None else int(seen), torch.is_autocast_enabled("cpu")))
        return user[:, None] + 10

    assert decoding.lists(one, CASES, search, half).tolist() == [[10], [11]]
    assert told == ([(5, half), (6, half)] if hidden else [(None, half)] * 2)


@pytest.mark.parametrize(("k", "wide"), [(2, 10), (10, 10), (32, 32)])
def test_a_beam_is_as_wide_as_it_has_items_and_at_least_ten(monkeypatch, k, wide):
    found = SimpleNamespace(items=torch.zeros(1, k))
    asked = []
    monkeypatch.setattr(decoding, "beam_search", lambda *_, **how: asked.append(how) or found)
    assert decoding.beam(served(), k)(None, None) is found.items
    assert asked == [{"k": k, "beam": wide, "exclude": None}]


def test_one_round_on_a_trained_run(trained: Path, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr(decoding, "DRAWS", 16)
    threads, out = torch.get_num_threads(), tmp_path / "decoding.json"
    words = ["--run", "first", "--home", str(trained), "--users", "4", "--beams", "2", "12"]
    assert main([*words, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "beam 12: recall@10" in said
    assert "bfloat16: overlap" in said
    told = json.loads(out.read_text())
    assert told["beams"]["12"]["hit@K"]["mean"] >= told["beams"]["2"]["hit@K"]["mean"]
    assert list(told["methods"]) == ["beam", "diverse", "sample", "top_p", "power"]
    assert told["methods"]["beam"]["items"] == pytest.approx(10)
    assert 0.5 < told["precision"]["rank_biased_overlap"]["mean"] <= 1
    assert told["paper"]["512"]["lvtr"] == 0.5351
    assert torch.get_num_threads() == threads

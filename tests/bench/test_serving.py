"""The benchmark of serving: what it counts, and its line."""

import contextlib
import json
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from onerec.bench import serving
from onerec.bench.serving import Served, contexts, main, model_and_trie
from onerec.count import Cardinalities, Counter
from onerec.model import onerec as model_file
from onerec.model.generate import beam_search
from onerec.recipes import recipe

SMALL = {
    "tokenizer.codebook_size": "16",
    "model.width": "32",
    "model.heads": "2",
    "history.short_length": "3",
    "history.positive_length": "4",
}


@pytest.mark.parametrize("kind", ["dense", "experts", "lazy", "lifelong"])
def test_operations_are_those_that_torch_counts(kind, monkeypatch):
    monkeypatch.setattr(model_file, "PER_CODE", 10**9)  # nothing is worked out once for all beams
    changes = {
        "dense": {"model.experts": "0"},
        "experts": {"model.experts": "3"},
        "lazy": {"model.kind": "lazy", "model.experts": "0"},
        "lifelong": {
            "model.experts": "0",
            "history.lifelong_length": "6",
            "history.lifelong_queries": "2",
        },
    }[kind]
    made = recipe("tiny", SMALL | changes)
    model, trie = model_and_trie(made, items=300)
    model.requires_grad_(False)
    batch = contexts(made, 300, 2, torch.device("cpu"))
    with FlopCounterMode(display=False) as whole:
        beam_search(model, batch, trie, k=5, beam=5)
    with FlopCounterMode(display=False) as before, torch.no_grad():
        model.embed(batch)  # whose products are another matter: see `EventFeatures.products`
    parts = Counter(made, Cardinalities.of(model.vocabulary)).search_flops(5)
    ours = 2 * sum(value for name, value in parts.items() if name not in ("pathways", "qformer"))
    assert ours == pytest.approx(whole.get_total_flops() - before.get_total_flops(), rel=0.01)


def test_its_line_says_how_fast_with_and_without_the_trie(capsys):
    settings = [f"{key}={value}" for key, value in SMALL.items()]
    words = ["--recipe", "tiny", "--items", "300", "--beam", "5", "--users", "2", "3"]
    words += ["--rounds", "5", "--asks", "2", "--unconstrained", "--json", "--set", *settings]
    assert main(words) == 0
    result = json.loads(capsys.readouterr().out)
    assert [row["users"] for row in result["results"]] == [2, 3]
    for row in result["results"]:
        assert min(row["ready_users_per_second"], row["users_per_second"]) > 0
        assert row["constraint_cost"] > -1
        assert row["mfu"] is None
    assert set(result["latency_milliseconds"]) == {"p50", "p99"}
    assert result["items"] == 300


def test_ready_begins_with_what_the_encoder_reads(monkeypatch):
    served = Served(recipe("tiny", SMALL), 300, 5, torch.device("cpu"))
    batch, asked = contexts(served.chosen, 300, 2, torch.device("cpu")), []
    plain = beam_search(served.model, batch, served.trie, k=5, beam=5)
    embed = served.model.pathways.forward
    monkeypatch.setattr(served.model.pathways, "forward", lambda *a: asked.append(1) or embed(*a))
    with served.embedded(batch):
        assert len(asked) == 1
        found = served.search(batch)()
    assert len(asked) == 1
    assert found.items.equal(plain.items)
    served.search(batch)()
    assert len(asked) == 2
    whole, ready = served._operations()
    parts = served.counter.search_flops(5)
    assert whole == sum(parts.values())
    assert whole - ready == parts["pathways"]


def test_a_row_by_hand(monkeypatch):
    """8 users in .5 s with the trie, .4 s without, .25 s from the encoder on; 3 s at first."""
    served = Served.__new__(Served)
    served.chosen, served.items, served.device = None, 300, torch.device("cpu")
    clock = iter([1.0, 4.0])
    monkeypatch.setattr(serving, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    monkeypatch.setattr(serving, "contexts", lambda *_: "batch")
    monkeypatch.setattr(serving, "peak_memory", lambda _: 77)
    inside, asked = [], []

    @contextlib.contextmanager
    def embedded(batch):
        inside.append(batch)
        yield
        inside.clear()

    def taken(batch, rounds, constrained=True):
        asked.append((bool(inside), constrained))
        return {(True, True): 0.25, (False, False): 0.4}[asked[-1]]

    monkeypatch.setattr(served, "embedded", embedded)
    monkeypatch.setattr(served, "_taken", taken)
    monkeypatch.setattr(served, "search", lambda batch: lambda: None)
    monkeypatch.setattr(served, "seconds", lambda work, rounds: [9.0, 0.5, 0.1])
    monkeypatch.setattr(served, "_operations", lambda: (1000.0, 600.0))
    monkeypatch.setattr(served, "_share", lambda rate: rate / 1e6)
    assert served.measured(8, 3, unconstrained=True) == {
        "users": 8,
        "users_per_second": 16.0,
        "ready_users_per_second": 32.0,
        "milliseconds": 500.0,
        "first_seconds": 3.0,
        "flops_per_user": 1000,
        "mfu": 0.016,  # 1000 x 8 / .5 s of 1e6
        "ready_mfu": 0.0192,  # 600 x 8 / .25 s
        "peak_memory_bytes": 77,
        "unconstrained_users_per_second": 20.0,
        "constraint_cost": 0.25,  # .1 s more than .4 s
    }


def test_utilisation_is_the_share_of_the_devices_peak(monkeypatch):
    served = Served.__new__(Served)
    served.device = torch.device("cpu")
    assert served._share(25.0) is None
    served.device = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H200")
    monkeypatch.setattr(serving, "peak_rate", {"NVIDIA H200": 100.0}.get)
    assert served._share(25.0) == 0.25


def test_latency_is_in_milliseconds_and_the_first_asks_do_not_count(monkeypatch):
    """Of .001, .002 .. .101 s the median is the 51st, and a hundredth is slower than the 100th."""
    served = Served.__new__(Served)
    served.chosen, served.items, served.device = None, 300, torch.device("cpu")
    rounds, users = [], []
    monkeypatch.setattr(serving, "contexts", lambda chosen, items, one, device: users.append(one))
    monkeypatch.setattr(served, "search", lambda batch: "work")

    def seconds(work, times):
        rounds.append(times)
        return [(n + 1) / 1e3 for n in range(times)]

    monkeypatch.setattr(served, "seconds", seconds)
    assert served.latency(101) == {"p50": 51.0, "p99": 100.0}
    assert len(rounds) == 2
    assert users == [1]


@pytest.mark.parametrize("constrained", [True, False])
def test_a_request_asks_for_as_many_items_as_the_beam_with_the_trie_or_not(
    monkeypatch, constrained
):
    served, asked = Served(recipe("tiny", SMALL), 300, 5, torch.device("cpu")), []
    batch = contexts(served.chosen, 300, 2, torch.device("cpu"))
    monkeypatch.setattr(serving, "beam_search", lambda *_, **how: asked.append(how))
    served.search(batch, constrained)()
    served._taken(batch, 2, constrained)
    expected = {"k": 5, "beam": 5, "compiled": False, "constrained": constrained}
    assert asked == [expected] * 4  # the one, and two rounds after one that is not counted


def test_without_json_it_prints_a_line_for_each_batch(capsys, tmp_path):
    settings = [f"{key}={value}" for key, value in SMALL.items()]
    out = tmp_path / "serving.json"
    words = ["--recipe", "tiny", "--items", "300", "--beam", "5", "--users", "2", "--rounds", "1"]
    assert main([*words, "--asks", "0", "--out", str(out), "--set", *settings]) == 0
    assert "users a second at 2" in capsys.readouterr().out
    assert json.loads(out.read_text())["latency_milliseconds"] is None
    assert serving.BEHAVIOURS

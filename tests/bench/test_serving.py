"""The benchmark of serving: what it counts, and its line."""

import json

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
    assert whole - ready == parts["pathways"]


def test_without_json_it_prints_a_line_for_each_batch(capsys, tmp_path):
    settings = [f"{key}={value}" for key, value in SMALL.items()]
    out = tmp_path / "serving.json"
    words = ["--recipe", "tiny", "--items", "300", "--beam", "5", "--users", "2", "--rounds", "1"]
    assert main([*words, "--asks", "0", "--out", str(out), "--set", *settings]) == 0
    assert "users a second at 2" in capsys.readouterr().out
    assert json.loads(out.read_text())["latency_milliseconds"] is None
    assert serving.BEHAVIOURS

"""Which cases are compared, and what the verdict is, by hand."""

import json
from pathlib import Path

import pytest

from onerec.bench import stability


def case(objective, seed, norms, loss, beyond=0.1, lag=20):
    flat = [0.0] * len(norms)
    return {
        "objective": objective,
        "lag": lag,
        "rate": 1e-3,
        "seed": seed,
        "stopped": "",
        "device": "cpu",
        "valid_recall@10": 0.1,
        "valid_reward": 0.2,
        "trace": {
            "grad_norm": [7 * norm for norm in norms],  # of both losses
            "policy_norm": norms,
            "next_token": [loss] * len(norms),
            "reward": flat,
            "beyond": [beyond] * len(norms),
            "outside": flat,
            "ratio_max": flat,
        },
    }


def test_grpo_is_not_repeated_where_it_is_ecpo():
    found = stability.cases((0, 1))
    assert len(found) == len(set(found))
    assert not any(c.lag == 0 and c.objective == "grpo" for c in found)
    assert sum(c.lag == 1_000 for c in found) == len(stability.ARMS) * len(stability.RATES) * 2
    assert found[0].lag == 1_000  # the long ones first


def lines(runs):
    return {line["objective"]: line for line in stability.summary(runs)}


def test_an_arm_explodes_by_norm_and_by_loss():
    steady, spike = [1.0] * 30, [1.0] * 29 + [80.0]
    runs = [case("ecpo", s, steady, 2.0 + s / 100) for s in range(3)]
    runs += [case("grpo", s, spike, 2.5 + s / 100) for s in range(3)]
    runs += [case("grpo_kl", s, spike, 2.0 + s / 100) for s in range(3)]
    found = lines(runs)
    assert found["grpo"]["explodes"]
    assert found["grpo"]["policy_norm_growth"] == [80.0] * 3
    assert (found["grpo"]["policy_norm_max"], found["grpo"]["grad_norm_max"]) == (80.0, 560.0)
    assert (found["grpo"]["policy_norm_median"], found["grpo"]["grad_norm_median"]) == (1.0, 7.0)
    assert found["grpo"]["next_token_minus_ecpo"] == pytest.approx([0.5, 0.5])
    assert not found["grpo_kl"]["explodes"]  # a spike that cost nothing
    assert not found["ecpo"]["explodes"]
    assert not found["grpo"]["void"]


def test_a_comparison_in_which_the_clip_never_acts_is_void():
    runs = [case("ecpo", s, [1.0] * 20, 2.0, beyond=0.001) for s in range(2)]
    assert lines(runs)["ecpo"]["void"]
    at_zero = [case("ecpo", s, [1.0] * 20, 2.0, beyond=0.0, lag=0) for s in range(2)]
    assert not lines(at_zero)["ecpo"]["void"]  # there nothing is expected to act


def test_parts_are_joined(tmp_path):
    for number in range(2):
        part = tmp_path / f"part-{number}.json"
        part.write_text(json.dumps({"runs": [case("ecpo", number, [1.0] * 20, 2.0)]}))
    out = tmp_path / "all.json"
    stability.main(["--join", *map(str, sorted(tmp_path.glob("part-*.json"))), "--out", str(out)])
    made = json.loads(out.read_text())
    assert made["lines"][0]["seeds"] == 2
    committed = Path(stability.__file__).parent / "results" / "stability.json"
    assert json.loads(committed.read_text())["words"] == made["words"]
    assert "at lag 0, where none can" in made["words"]["void"]


def test_a_case_is_trained_and_traced(aligned):
    found = stability.train("first", stability.Case("grpo_kl", 20, 1e-3, 1), aligned, 2, 1.0)
    assert found["steps"] == 2
    assert set(found["trace"]) == set(stability.KEPT)
    assert all(len(trace) == 2 for trace in found["trace"].values())

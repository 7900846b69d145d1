"""The papers' sizes: how near their names the counts are, and the arithmetic behind the widths."""

from dataclasses import replace

import pytest

from onerec.count import Cardinalities, Counter
from onerec.paper_recipes import FIELDS_OF_A_CODE, lazy_0_5b, lazy_1b
from onerec.recipes import recipe

KNOWN = Cardinalities((8192,) * 3, 1_000_000)


@pytest.mark.parametrize(
    ("name", "billions", "low", "high"),
    [
        ("onerec_0_935b", 0.935, -0.03, 0.03),
        ("onerec_2_633b", 2.633, -0.03, 0.03),
        ("lazy_0_1b", 0.1, 0.0, 0.1),
        ("lazy_0_2b", 0.2, -0.03, 0.03),
        ("lazy_0_5b", 0.5, 0.0, 0.1),
        ("lazy_1b", 1.0, 0.0, 0.1),
        ("onerec_0_015b", 0.015, -0.55, -0.45),  # no reading of V1 comes close to these two
        ("onerec_0_121b", 0.121, 0.45, 0.5),
    ],
)
def test_parameters_are_as_far_from_the_name_as_they_are(
    name: str, billions: float, low: float, high: float
) -> None:
    assert low < Counter(recipe(name), KNOWN).total() / (billions * 1e9) - 1 < high


def test_the_mixture_of_v2_has_4b_of_which_half_a_billion_are_active() -> None:
    """53 + 1 experts, 3 + 1 active, hidden 1408, two dense blocks."""
    base = lazy_0_5b()
    model = replace(base.model, experts=53, active_experts=3, expert_blocks="late")
    routing = replace(base.routing, shared_experts=1)
    counter = Counter(replace(base, model=model, routing=routing), KNOWN)
    parts = counter.parameters()
    assert parts["experts"] == 12 * 54 * 3 * 1408**2
    assert counter.total() == pytest.approx(4.1e9, rel=0.01)
    blocks = counter.active_total() - parts["heads"] - parts["code_table"]
    assert blocks == pytest.approx(0.5e9, rel=0.01)


def test_a_context_of_v1_has_405_positions() -> None:
    history = recipe("onerec_0_935b").history
    lengths = (history.short_length, history.positive_length, history.lifelong_queries)
    assert 1 + sum(lengths) == 405
    assert history.lifelong_length == 2_000


def test_a_further_set_of_keys_costs_what_v2_prints() -> None:
    """V2, 1B at 512 positions, per target: 18.89 GFLOPs with one set, 23.95 with eighteen."""
    base = lazy_1b()

    def context(sets: int) -> float:
        made = replace(base, context=replace(base.context, sets=sets))
        return 3 * Counter(made, KNOWN).forward_flops(511, 5)["context"] / 5 / 1e9

    assert base.context.width == FIELDS_OF_A_CODE * 90
    for sets, printed in ((3, 19.49), (9, 21.27), (18, 23.95)):
        assert context(sets) - context(1) == pytest.approx(printed - 18.89, abs=0.01)


@pytest.mark.parametrize(
    ("name", "printed", "away"),
    [("lazy_0_1b", 1.98, -0.13), ("lazy_0_5b", 9.55, -0.02), ("lazy_1b", 18.89, 0.02)],
)
def test_operations_of_lazy_decoders_are_this_far_from_what_v2_prints(
    name: str, printed: float, away: float
) -> None:
    """Counted as V2 does: 6 x weights x tokens, three positions a target, no attention scores."""
    parts = Counter(recipe(name), KNOWN).parameters()
    met = parts["decoder_attention"] + parts["dense"] + parts["heads"] / 3
    ours = 6 * 3 * met + 6 * 512 / 5 * parts["context_processor"]
    assert ours / 1e9 / printed - 1 == pytest.approx(away, abs=0.01)

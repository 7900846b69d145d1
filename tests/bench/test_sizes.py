"""The tables of sizes: what stands in them, against counts by hand and V2's printed numbers."""

import json

import pytest

from onerec.bench import sizes
from onerec.paper_recipes import PAPER_RECIPES, lazy_0_5b, lazy_1b, onerec_0_935b


@pytest.fixture(scope="module")
def result():
    return sizes.run()


def test_every_recipe_has_its_gap(result):
    assert list(result["sizes"]) == [make.__name__ for make in PAPER_RECIPES]
    for row in result["sizes"].values():
        assert sum(row["parts"].values()) == row["total"]
        assert row["gap_percent"] == pytest.approx(
            100 * (row["total"] / row["named"] - 1), abs=0.01
        )
    within = {name for name, row in result["sizes"].items() if abs(row["gap_percent"]) <= 3}
    assert within == {"onerec_0_935b", "onerec_2_633b", "lazy_0_2b"}


def test_the_experts_of_0_935b_by_hand():
    parts = sizes.size(onerec_0_935b())["parts"]
    assert parts["experts"] == 4 * 24 * 3 * 1024 * 2688
    assert parts["dense"] == 4 * 3 * 1024 * 2048  # the encoder's
    assert parts["code_table"] == parts["heads"] == 3 * 8192 * 1024


def test_the_encoder_decoder_is_equal_in_parameters_and_its_halves_nearly(result):
    for row in result["lazy"].values():
        ours, equal = row["parameters"]["lazy"], row["parameters"]["encoder_decoder"]
        assert equal == pytest.approx(ours, rel=0.025)
        encoder, decoder = map(int, row["encoder_decoder"].split("+"))
        assert 10 * encoder == pytest.approx(14 * decoder, rel=0.1)  # 10 D^2 and 14 D^2 a block


def test_ratios_come_near_those_of_v2_where_they_are_counted_as_there(result):
    first, second, single = result["lazy"]["lazy_1b"]["contexts"]
    assert (first["positions"], first["targets"]) == (512, 5)
    assert first["as_v2"]["flops_ratio"] == pytest.approx(296.36 / 18.89, rel=0.02)  # 15.7
    assert first["own_first_position"]["activation_ratio"] == pytest.approx(14.2, rel=0.1)
    assert 12 < second["as_v2"]["flops_ratio"] < 15
    assert second["here"]["flops_ratio"] > second["own_first_position"]["flops_ratio"]
    for kind in ("flops_ratio", "activation_ratio"):  # one target has its own first position
        assert single["here"][kind] == single["own_first_position"][kind]


def test_operations_as_v2_counts_them_by_hand():
    lazy = sizes.counter(lazy_1b())
    blocks, context = 18 * 18 * 1792**2, 270 * 1792
    expected = 6 * (3 * blocks + 3 * 8192 * 1792 + context * 512 / 5)
    assert sizes.as_v2(lazy, 512, 5) == pytest.approx(expected)
    equal = sizes.counter(sizes.equal_encoder_decoder(lazy_0_5b()))
    encoder, decoder = 12 * 10 * 1408**2, 8 * 14 * 1408**2
    expected = 6 * (encoder * 405 + 3 * decoder + 3 * 8192 * 1408)
    assert sizes.as_v2(equal, 405, 1) == pytest.approx(expected)


def test_the_command_prints_both_tables_and_writes_json(tmp_path, capsys):
    out = tmp_path / "sizes.json"
    assert sizes.main(["--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "onerec_0_121b  named 0.121B, counted 0.1788B (+47.8%)" in text
    assert "405 positions, 1 targets" in text
    assert json.loads(out.read_text())["benchmark"] == "sizes"
    assert sizes.main(["--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sizes"]["lazy_1b"]["named"] == 1e9

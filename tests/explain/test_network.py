"""Expert load: shares and measures of balance by hand."""

from pathlib import Path

import duckdb
import numpy as np
import pytest

from onerec.explain import network
from onerec.runs import Run


def write(run: Run, rows: list[tuple[int, int, int, float]]) -> None:
    (run.path / "routing").mkdir(parents=True)
    values = ", ".join(map(str, rows))
    path = run.path / "routing" / "load.parquet"
    names = "t(step, layer, expert, load)"
    duckdb.connect().execute(f"COPY (SELECT * FROM (VALUES {values}) {names}) TO '{path}'")


def test_measures_by_hand(tmp_path: Path) -> None:
    run = Run(tmp_path)
    write(run, [(1, 1, 0, 6.0), (1, 1, 1, 2.0), (2, 1, 0, 4.0), (2, 1, 1, 4.0)])
    assert network.expert_load(run)["share"].tolist() == [0.75, 0.25, 0.5, 0.5]
    frame = network.balance(run)
    assert frame["max_violation"].tolist() == [0.5, 0]  # 6 / 4 - 1
    assert frame["cv"].tolist() == [0.5, 0]  # deviation 2 of mean 4
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert frame["entropy_nats"].tolist() == pytest.approx([entropy, np.log(2)])
    assert frame["max_entropy_nats"].tolist() == pytest.approx([np.log(2)] * 2)


def test_a_layer_without_tokens_is_no_division_by_zero(tmp_path: Path) -> None:
    run = Run(tmp_path)
    write(run, [(1, 1, 0, 0.0), (1, 1, 1, 0.0)])
    assert network.expert_load(run)["share"].tolist() == [0, 0]
    assert network.balance(run).empty


def test_one_expert_has_an_entropy_of_0_and_not_of_less(tmp_path: Path) -> None:
    write(Run(tmp_path), [(1, 1, 0, 6.0)])
    assert str(network.balance(Run(tmp_path))["entropy_nats"][0]) == "0.0"


def test_a_dense_model_has_no_load(run: Run, tmp_path: Path) -> None:
    assert network.has_routing(run)
    assert len(network.expert_load(run)) == 6 * 2 * 4
    dense = Run(tmp_path)
    assert not network.has_routing(dense)
    assert network.expert_load(dense).empty
    assert network.balance(dense).empty


def test_through_a_step(run: Run) -> None:
    assert network.expert_load(run, through=30)["step"].max() == 30
    assert network.balance(run, through=30)["step"].tolist() == [10, 10, 20, 20, 30, 30]

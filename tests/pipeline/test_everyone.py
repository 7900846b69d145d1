"""All users in one file: what any other call says, whole after a kill, never of something else."""

import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import pytest
import torch
import toy_home

from onerec.data.tables import read_parquet
from onerec.errors import DataError, RecipeError, RunError
from onerec.model import packing, pieces
from onerec.pipeline import everyone
from onerec.pipeline.everyone import recommend_all
from onerec.recommend import Recommender
from onerec.runs import open_run


def test_the_file_has_what_recommend_says(trained: Path, tmp_path: Path) -> None:
    out, told = tmp_path / "lists.parquet", []
    written = recommend_all(
        "first", out, k=4, home=trained, part=7, tell=lambda *numbers: told.append(numbers)
    )
    assert (written.users, written.rows, written.before) == (toy_home.USERS, 4 * toy_home.USERS, 0)
    assert told == [(done, 40) for done in (0, 7, 14, 21, 28, 35, 40)]
    frame = read_parquet(out)
    recommender = Recommender.load("first", trained, device="cpu")
    users = recommender.setting.dataset.users["user_id"].tolist()
    expected = recommender.recommend(users, k=4)
    assert list(frame.columns) == list(expected.columns)
    assert frame["user_id"].tolist() == expected["user_id"].tolist()
    assert frame["item_id"].tolist() == expected["item_id"].tolist()
    assert frame["score"].to_numpy() == pytest.approx(expected["score"].to_numpy(), abs=1e-5)
    assert list(tmp_path.iterdir()) == [out]


def test_where_seen_items_are_left_out_lists_are_as_long_as_those_of_recommend(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A narrow beam is widened until a list is full, in this file as everywhere else."""
    recommender = Recommender.load("first", trained, device="cpu")
    setting, out = recommender.setting, tmp_path / "lists.parquet"
    narrow = replace(setting.recipe.evaluate, filter_seen=True, beam=1)
    recommender.setting = replace(setting, recipe=replace(setting.recipe, evaluate=narrow))
    monkeypatch.setattr(Recommender, "load", lambda *_: recommender)
    recommend_all("first", out, k=1, home=trained, part=7)
    users = setting.dataset.users["user_id"].tolist()
    expected = recommender.recommend(users, k=1)
    assert expected["user_id"].tolist() == users
    assert read_parquet(out)["item_id"].tolist() == expected["item_id"].tolist()


def dies_at_the_third(
    monkeypatch: pytest.MonkeyPatch, trained: Path, out: Path, made: list[int]
) -> None:
    """A call for three items a user in parts of nine users, cut off after two; `made` starts."""
    own = everyone._lists

    def lists(recommender, start, stop, k):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(start)
        return own(recommender, start, stop, k)

    with monkeypatch.context() as patch:
        patch.setattr(everyone, "_lists", lists)
        with pytest.raises(KeyboardInterrupt):
            recommend_all("first", out, k=3, home=trained, part=9)


def test_a_killed_call_goes_on_with_the_next_part(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, plain, made = tmp_path / "lists.parquet", tmp_path / "plain.parquet", []
    recommend_all("first", plain, k=3, home=trained, part=9)
    dies_at_the_third(monkeypatch, trained, out, made)
    assert not out.exists()
    (tmp_path / "lists.parquet.parts" / "part-000001.parquet").write_bytes(b"cut off")
    own = everyone._lists
    monkeypatch.setattr(everyone, "_lists", lambda *a: (made.append(a[1]), own(*a))[1])
    written = recommend_all("first", out, k=3, home=trained, part=9)
    assert made == [0, 9, 9, 18, 27, 36]  # the damaged one again, the whole one not
    assert written.before == 9
    assert read_parquet(out).equals(read_parquet(plain))


def test_parts_of_another_call_are_not_taken(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "lists.parquet"
    folder = tmp_path / "lists.parquet.parts"
    folder.mkdir()
    (folder / "of.json").write_text('{"k": 99}')
    duckdb.connect().execute(f"COPY (SELECT 1 AS x) TO '{folder}/part-000000.parquet'")
    assert recommend_all("first", out, k=2, home=trained).before == 0
    assert set(read_parquet(out)["rank"]) == {1, 2}


@pytest.mark.parametrize("other", [{"k": 2}, {"part": 7}], ids=str)
def test_a_call_for_other_lists_does_not_go_on_with_these(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: dict[str, int]
) -> None:
    """Lists of two lengths, or users twice and others never, would stand in one file."""
    out, plain, made = tmp_path / "lists.parquet", tmp_path / "plain.parquet", []
    asked = {"k": 3, "part": 9} | other
    recommend_all("first", plain, home=trained, **asked)
    dies_at_the_third(monkeypatch, trained, out, made)
    assert recommend_all("first", out, home=trained, **asked).before == 0
    assert read_parquet(out).equals(read_parquet(plain))


def test_parts_are_of_one_run_as_it_is_one_dataset_and_one_beam(trained: Path) -> None:
    run, recommender = open_run("first", trained), Recommender.load("first", trained, device="cpu")
    known, setting = everyone._described(run, recommender, 3, 9), recommender.setting
    assert everyone._described(run, recommender, 3, 9) == known

    def other(run: Any = run, **changes: Any) -> dict[str, Any]:
        changed = copy.copy(recommender)
        changed.setting = replace(setting, **changes)
        return everyone._described(run, changed, 3, 9)

    wider = replace(setting.recipe.evaluate, beam=setting.recipe.evaluate.beam + 1)
    assert other(recipe=replace(setting.recipe, evaluate=wider)) != known
    assert other(dataset=SimpleNamespace(fingerprint="of another")) != known
    assert other(SimpleNamespace(path=run.path, stamp=lambda: "trained again")) != known
    assert other(SimpleNamespace(path=run.path / "copy", stamp=run.stamp)) != known


def test_what_cannot_be_written_is_said_before_the_work(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere/lists\.parquet stands in a folder that is not"):
        recommend_all("first", tmp_path / "nowhere" / "lists.parquet", home=trained)
    with pytest.raises(DataError, match="is a folder; --out names the Parquet file"):
        recommend_all("first", tmp_path, home=trained)
    with pytest.raises(DataError, match=r"lists\.csv would be no \.csv file"):
        recommend_all("first", tmp_path / "lists.csv", home=trained)
    notes = tmp_path / "notes"
    notes.write_text("not to be lost")
    with pytest.raises(DataError, match="notes is there and holds something else"):
        recommend_all("first", notes, home=trained)
    assert notes.read_text() == "not to be lost"
    with pytest.raises(DataError, match="k=0"):
        recommend_all("first", tmp_path / "x.parquet", k=0, home=trained)
    with pytest.raises(RunError, match="no run 'frist'"):
        recommend_all("frist", tmp_path / "x.parquet", home=trained)


def test_a_second_call_for_the_same_file_is_refused(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It used to clear the first one's parts: lists of two lengths came into one file."""
    out, own, refused = tmp_path / "lists.parquet", everyone._lists, []

    def meanwhile(recommender, start, stop, k):
        if not refused:
            with pytest.raises(
                RunError, match=r"lists\.parquet\.parts' is held by process"
            ) as error:
                recommend_all("first", out, k=5, home=trained, part=9)
            refused.append(error)
        return own(recommender, start, stop, k)

    monkeypatch.setattr(everyone, "_lists", meanwhile)
    assert recommend_all("first", out, k=3, home=trained, part=9).rows == 3 * toy_home.USERS
    assert refused
    assert list(tmp_path.iterdir()) == [out]


def test_parts_that_vanish_end_the_call(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waited for ever for other processes, of which there were none."""
    out, own = tmp_path / "lists.parquet", everyone._lists

    def vanish(recommender, start, stop, k):
        for path in (tmp_path / "lists.parquet.parts").glob("part-*"):
            path.unlink()
        return own(recommender, start, stop, k)

    monkeypatch.setattr(everyone, "_lists", vanish)
    monkeypatch.setattr(everyone.time, "sleep", lambda _: pytest.fail("waits for nobody"))
    with pytest.raises(DataError, match="parts were taken away; start the same command again"):
        recommend_all("first", out, k=3, home=trained, part=9)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.:DeprecationWarning")
def test_a_compiled_search_writes_the_same_lists_for_few_shapes(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of 9 and the last one of 4 users are all searched as 12."""
    with pytest.raises(RecipeError, match="--compile: a search is compiled on a GPU"):
        recommend_all("first", tmp_path / "no", home=trained, device="cpu", compiled=True)
    monkeypatch.setattr(everyone, "refuse_to_compile_search", lambda device: None)
    monkeypatch.setattr(pieces, "BACKEND", "aot_eager")  # traced as ever, no machine code
    monkeypatch.setattr(packing, "packs", lambda *_: False)  # as in a search on a GPU
    monkeypatch.setattr(everyone, "BATCH", 12)
    own, sizes = everyone.beam_search, set()

    def searched(model, batch, *asked, **how):
        sizes.add(batch.size)
        return own(model, batch, *asked, **how)

    monkeypatch.setattr(everyone, "beam_search", searched)
    pieces.compiled_piece.cache_clear()
    frames = []
    for name, compiled in (("plain", False), ("compiled", True)):
        out = tmp_path / name
        recommend_all("first", out, k=4, home=trained, part=9, device="cpu", compiled=compiled)
        frames.append(read_parquet(out))
    pieces.compiled_piece.cache_clear()
    torch._dynamo.reset()
    plain, made = frames
    assert sizes == {12}
    assert made["item_id"].tolist() == plain["item_id"].tolist()
    assert made["score"].to_numpy() == pytest.approx(plain["score"].to_numpy(), abs=1e-4)

"""Tokenizer: the map by UMAP and quantisers side by side, before, while and after they are made."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jobs
import psutil
import pytest
import token_parts
from streamlit.testing.v1 import AppTest

from onerec.data.tables import write_parquet
from onerec.explain import item_map, quantisers
from onerec.explain.tokens import codes_of
from onerec.pipeline import quantisers as pipeline_quantisers
from onerec.pipeline.quantisers import KINDS
from onerec.runs import Run

APP = Path(__file__).resolve().parents[2] / "app"
Open = Callable[..., AppTest]


@pytest.fixture
def open_page(use_home: Callable[..., Path], own_home: Path) -> Open:
    use_home(own_home)

    def visit(**query: str) -> AppTest:
        app = AppTest.from_file(str(APP / "app_pages" / "tokenizer.py"), default_timeout=60)
        for key, value in query.items():
            app.query_params[key] = value
        app.run()
        assert not app.exception
        return app

    return visit


@pytest.fixture
def toy_run(own_home: Path) -> Run:
    return Run(own_home / "runs" / "toy_run")


def said(app: AppTest) -> str:
    kinds = (app.warning, app.info, app.error, app.success, app.markdown, app.caption)
    return "\n".join(box.value for kind in kinds for box in kind)


def keep_comparison(run: Run, seeds: int = 3) -> None:
    level = {"utilisation": 1.0, "perplexity": 4.0, "dead_codes": 0, "entropy_nats": 1.2}
    rows = [
        {"kind": kind, "seed": seed, "loss": 0.1 + 0.1 * place, "held_out_loss": 0.5 - 0.1 * place}
        | {"levels": [level | {"variance_explained": 0.5}] * 3, "share_sharing": 0.25}
        | {"largest_leaf": 2, "purity": 0.7, "chance": 0.3, "seconds": 0.1}
        for seed in range(seeds)
        for place, kind in enumerate(KINDS)
    ]
    setting = {"items": 48, "dim": 6, "size": 4, "levels": 3, "steps": 10}
    (run.path / "cache").mkdir(exist_ok=True)
    (run.path / quantisers.RESULT).write_text(json.dumps({"setting": setting, "rows": rows}))


def at_work(run: Run, task: str, state: str = "running", pid: int | None = None) -> None:
    """A status as the process of a task writes it; by default this test's own process."""
    folder = jobs.task_folder(run, task).path
    folder.mkdir(parents=True, exist_ok=True)
    created = psutil.Process(os.getpid()).create_time()
    status = {"pid": pid or os.getpid(), "process_started": created, "heartbeat": time.time()}
    status |= {"state": state, "stage": task, "step": 3, "of": 12, "message": "rq vae, seed 0"}
    (folder / "status.json").write_text(json.dumps(status | {"started": time.time()}))


def test_nothing_compared_says_what_it_is_and_offers_to_start(
    open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[object, ...]] = []
    monkeypatch.setattr(jobs, "start_task", lambda *asked: started.append(asked))
    app = open_page(tokens_view="Quantisers")
    assert "codes drawn by lot: what is lost" in said(app)
    app.button(key="quantisers_start").click().run()
    assert not app.exception
    run, task, words = started[0]
    assert (run.name, task) == ("toy_run", "quantisers")  # type: ignore[attr-defined]
    line = jobs.command_line(words)  # type: ignore[arg-type]
    assert line == "onerec bench quantisers --run toy_run --seeds 3"


def test_a_refused_start_is_said(open_page: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise jobs.RunError("run other is training")

    monkeypatch.setattr(jobs, "start_task", refuse)
    app = open_page(tokens_view="Quantisers")
    app.button(key="quantisers_start").click().run()
    assert "run other is training" in said(app)


def test_a_comparison_is_shown_with_its_numbers(open_page: Open, toy_run: Run) -> None:
    keep_comparison(toy_run)
    app = open_page(tokens_view="Quantisers", quantiser_measure="Entropy")
    text = said(app)
    assert "48 items of width 6, 3 levels of 4 codes each, 3 seeds" in text
    assert "RQ-Kmeans loses least of the items it was fitted on, drawn by lot of new ones" in text
    assert "At level 3 all are alike: entropy in nats 1.20" in text
    assert "agree most with the categories" in text
    assert not [button for button in app.button if button.key == "quantisers_start"]
    table = app.dataframe[-1].value
    assert table["kind"].tolist() == [
        "RQ-Kmeans", "refined", "balanced", "RQ-VAE", "drawn by lot"
    ]  # fmt: skip


def test_what_is_there_is_shown_while_the_rest_is_measured(open_page: Open, toy_run: Run) -> None:
    keep_comparison(toy_run, seeds=1)
    at_work(toy_run, "quantisers")
    app = open_page(tokens_view="Quantisers")
    assert "1 seed;" in said(app)
    assert app.button(key="quantisers_end")
    assert not app.info


def test_a_failure_says_why_and_can_be_started_again(open_page: Open, toy_run: Run) -> None:
    at_work(toy_run, "quantisers", state="failed")
    app = open_page(tokens_view="Quantisers")
    assert "rq vae, seed 0" in app.error[0].value
    assert app.button(key="quantisers_start")
    at_work(toy_run, "quantisers", pid=2**22 + 7)
    assert "gone without a word" in said(open_page(tokens_view="Quantisers"))


def test_umap_is_asked_for_while_the_other_map_stands(open_page: Open, toy_run: Run) -> None:
    app = open_page(tokens_layout="UMAP")
    assert "It takes a minute" in said(app)
    assert "of the variance of their vectors" in said(app), "the map of principal components"
    vectors = toy_run.vectors()
    assert vectors is not None
    path = item_map.map_file(toy_run, vectors, item_map.MapConfig())
    write_parquet(path, {"item": range(len(vectors)), "x": vectors[:, 0], "y": vectors[:, 1]})
    facts = {"neighbours": 15, "min_dist": 0.1, "seed": 0, "kept": 0.4, "kept_pca": 0.1}
    path.with_suffix(".json").write_text(json.dumps(facts))
    app.run()  # the stamp of the cache has changed
    assert "40% of an item's ten nearest" in said(app)
    assert "It takes a minute" not in said(app)


def test_a_damaged_result_is_one_line(open_page: Open, toy_run: Run) -> None:
    (toy_run.path / "cache").mkdir(exist_ok=True)
    (toy_run.path / quantisers.RESULT).write_text('{"rows": [')
    app = AppTest.from_file(str(APP / "main.py"), default_timeout=60)
    app.query_params["tokens_view"] = "Quantisers"
    app.run()
    app.switch_page("app_pages/tokenizer.py").run()
    app.segmented_control(key="tokens_view").set_value("Quantisers").run()
    assert not app.exception
    assert "not readable as JSON" in app.error[0].value


def test_a_bad_link_falls_back_and_says_so(open_page: Open) -> None:
    text = said(open_page(tokens_layout="Globe", tokens_view="Map"))
    assert "“Laid out by” to “Globe”, which is not here" in text


def test_a_chosen_code_is_told_on_the_map_as_in_the_tree(open_page: Open, toy_run: Run) -> None:
    ids = toy_run.semantic_ids()
    own = ids[ids["code_1"] == ids["code_1"][0]]
    text = said(open_page(tokens_view="Map", code=str(ids["code_1"][0])))
    assert f"is chosen: {len(own)} item" in text
    sizes = toy_run.report()["levels"]
    free = next(
        f"{first}-{second}"
        for first in range(sizes[0]["size"])
        for second in range(sizes[1]["size"])
        if not ((ids["code_1"] == first) & (ids["code_2"] == second)).any()
    )
    assert "No item's name begins with" in said(open_page(tokens_view="Map", code=free))


def test_codebooks_list_the_levels_and_no_dead_code(open_page: Open) -> None:
    app = open_page(tokens_view="Codebooks")
    assert "No code is dead" in said(app)
    assert "What the codes are made from" in said(app)
    levels, contents = (table.value for table in app.dataframe[-2:])
    assert contents.loc[0, "items_without"] == 3
    assert levels["perplexity"].tolist()[0] > 1


def test_a_demo_run_names_the_command_and_starts_nothing(
    use_home: Callable[..., Path], own_home: Path, tmp_path: Path
) -> None:
    use_home(tmp_path / "empty", demo=own_home)
    app = AppTest.from_file(str(APP / "app_pages" / "tokenizer.py"), default_timeout=60)
    app.query_params["tokens_layout"] = "UMAP"
    app.run()
    assert not app.exception
    assert "`onerec map --run toy_run`" in said(app)
    assert not [button for button in app.button if button.key == "umap_start"]


def test_a_comparison_with_too_few_seeds_can_be_gone_on_with(open_page: Open, toy_run: Run) -> None:
    keep_comparison(toy_run, seeds=1)
    app = open_page(tokens_view="Quantisers")
    assert app.button(key="quantisers_start")
    assert "1 seed;" in said(app), "what there is stands below"


def test_the_tree_offers_the_branch_of_the_chosen_item(open_page: Open, toy_run: Run) -> None:
    code = codes_of(toy_run, 3)[0]
    whole = open_page(tokens_view="Tree")
    assert not [b for b in whole.button if "where the chosen item is" in b.label]
    app = open_page(tokens_view="Tree", item="3")
    labels = [button.label for button in app.button]
    assert f"Look inside code {code}, where the chosen item is" in labels
    assert f"the chosen item is in {code}" in said(app)
    inside = open_page(tokens_view="Tree", item="3", code=str(code))
    assert not [b for b in inside.button if "where the chosen item is" in b.label]


def test_items_drawn_around_are_listed_under_words_and_can_be_forgotten(open_page: Open) -> None:
    app = open_page()
    app.session_state["circled"] = ("toy_run", [1, 2, 5])
    app.run()
    assert not app.exception
    assert "3 items in your selection" in said(app)
    (table,) = (frame for frame in app.dataframe if "item_id" in frame.value.columns)
    assert table.value["item"].tolist() == [1, 2, 5]
    assert json.loads(table.proto.columns)["code_1"]["label"] == "code 1"
    next(button for button in app.button if button.label == "Forget these items").click().run()
    assert "in your selection" not in said(app)


@pytest.mark.parametrize("lacking", [True, False])
def test_what_the_codes_lack_is_said_below_what_they_are_made_from(
    open_page: Open, toy_run: Run, lacking: bool
) -> None:
    path = toy_run.path / "tokenizer" / "report.json"
    report = json.loads(path.read_text())
    report["content"][0] |= {"items_without": 0, "empty_columns": ["*title*"] * lacking}
    path.write_text(json.dumps(report))
    words = said(open_page(tokens_view="Codebooks"))
    head = "**What they are made without**\n\n- hashed text: no item has a word in \\*title\\*"
    assert (head in words) == lacking
    assert ("made without" in words) == lacking


def test_rings_among_the_points_drawn_around_are_no_items() -> None:
    """Box and lasso take what stands on an item too; it has no number, and ended the page."""
    ring: dict[str, Any] = {"curve_number": 9}
    points = [ring, {"customdata": [7]}, {"customdata": [3, "x"]}, {"customdata": [7]}, ring]
    assert token_parts.picked(points) == [7, 3]
    assert token_parts.picked([ring]) == []


def test_a_comparison_of_too_few_items_is_not_offered(
    open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert quantisers.LEAST == pipeline_quantisers.LEAST
    monkeypatch.setattr(quantisers, "LEAST", 49)  # the run has 48
    app = open_page(tokens_view="Quantisers")
    assert "so it needs 49; here are 48" in said(app)
    assert "quantisers_start" not in [button.key for button in app.button]


@pytest.mark.parametrize(("least", "words"), [(1.0, "hold only a part"), (0.0, "hold all that")])
def test_what_two_axes_hold_is_said_as_it_is(
    open_page: Open, monkeypatch: pytest.MonkeyPatch, least: float, words: str
) -> None:
    monkeypatch.setattr(token_parts, "WHOLE", least)
    assert words in said(open_page())

"""The import form: upload, recognised columns, Import; a mistake is one line and leaves nothing."""

from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

MAIN = Path(__file__).resolve().parents[2] / "app" / "main.py"
LOG = "reviewerID,asin,unixReviewTime,overall\n" + "".join(
    f"u{user},i{(user + step) % 6},{1_700_000_000 + step * 86_400},5\n"
    for user in range(8)
    for step in range(5)
)


@pytest.fixture
def form(use_home: Callable[..., Path], own_home: Path) -> AppTest:
    use_home(own_home)
    app = AppTest.from_file(str(MAIN), default_timeout=30).run()
    app = app.switch_page("app_pages/dataset.py")
    app.query_params["dataset_view"] = "Import"
    return app.run()


def test_a_csv_becomes_the_selected_dataset(form: AppTest, own_home: Path) -> None:
    form.file_uploader(key="upload_interactions").upload("any name.txt.csv", LOG.encode()).run()
    assert form.selectbox(key="map_interactions_user_id").value == "reviewerID"
    assert form.selectbox(key="map_interactions_rating").value == "overall"
    form.text_input(key="import_name").set_value("reviews")
    form.button(key="import_go").click().run()
    assert not form.exception
    assert not form.error
    assert (own_home / "datasets" / "reviews" / "dataset.json").exists()
    assert form.sidebar.selectbox(key="dataset").value == "reviews"


@pytest.mark.parametrize(
    ("content", "name", "says"),
    [
        (LOG.replace(",1700000000,", ",yesterday-ish,", 1), "bad_time", "interactions"),
        (LOG, "toy", "toy"),
        (LOG, "../out", "out"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    form: AppTest, own_home: Path, content: str, name: str, says: str
) -> None:
    before = sorted(path.name for path in (own_home / "datasets").iterdir())
    form.file_uploader(key="upload_interactions").upload("log.csv", content.encode()).run()
    form.text_input(key="import_name").set_value(name)
    form.button(key="import_go").click().run()
    assert not form.exception
    assert len(form.error) == 1
    assert says in form.error[0].value
    assert "\n" not in form.error[0].value
    assert "/tmp/tmp" not in form.error[0].value, "our upload folder means nothing to a reader"
    assert sorted(path.name for path in (own_home / "datasets").iterdir()) == before


def test_a_file_that_is_no_table_is_one_line(form: AppTest) -> None:
    form.file_uploader(key="upload_interactions").upload("x.parquet", b"PAR1 no").run()
    assert not form.exception
    assert "interactions: not readable as Parquet" in form.error[0].value


def test_a_needed_column_is_asked_for_before_the_import(form: AppTest) -> None:
    form.file_uploader(key="upload_interactions").upload("log.csv", b"who,what,when\na,b,1\n").run()
    assert form.button(key="import_go").disabled
    asked = "Choose above which column is user_id (of interactions) and which is item_id"
    assert any(asked in box.value for box in form.info)
    form.selectbox(key="map_interactions_user_id").set_value("who")
    form.selectbox(key="map_interactions_item_id").set_value("what").run()
    assert form.button(key="import_go").disabled, "nothing tells the order of the events"
    assert any("is timestamp or position (of inter" in box.value for box in form.info)
    form.selectbox(key="map_interactions_timestamp").set_value("when").run()
    assert not form.button(key="import_go").disabled

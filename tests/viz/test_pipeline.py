"""The picture of the pipeline shows every stage, its number and its state, in words too."""

import xml.etree.ElementTree as ET

import pytest

from onerec.explain import overview
from onerec.runs import STAGES, Run
from onerec.viz import theme
from onerec.viz.pipeline import BOX, pipeline

BOXES = 1 + len(STAGES)  # the data and every stage
SVG = "{http://www.w3.org/2000/svg}"


def texts(picture: theme.Picture) -> list[str]:
    return [str(node.text) for node in ET.fromstring(picture.svg).iter(f"{SVG}text")]


@pytest.mark.parametrize("vertical", [False, True])
def test_every_stage_stands_there_with_its_number_and_its_state(run: Run, vertical: bool) -> None:
    stages = overview.stages(run)
    picture = pipeline(stages, vertical)
    said = texts(picture)
    for row in stages.to_dict("records"):
        assert row["label"] in said
        assert row["headline"] in said
        assert row["headline"] in theme.alt_text(picture)
    assert said.count("✓ done") == BOXES, "the state is said in words and by a sign"
    drawn = ET.fromstring(picture.svg)
    assert len(list(drawn.iter(f"{SVG}rect"))) == BOXES
    assert len(list(drawn.iter(f"{SVG}g"))) == BOXES - 1, "an arrow between each two"
    assert theme.title(picture) == "Every stage is done: recall@10 0.500"


def test_boxes_stand_side_by_side_or_one_below_the_other(run: Run) -> None:
    def places(vertical: bool) -> list[tuple[str | None, str | None]]:
        drawn = ET.fromstring(pipeline(overview.stages(run), vertical).svg)
        return [(box.get("x"), box.get("y")) for box in drawn.iter(f"{SVG}rect")]

    assert len({x for x, _ in places(False)}) == BOXES
    assert len({y for _, y in places(False)}) == 1
    assert len({x for x, _ in places(True)}) == 1
    assert len({y for _, y in places(True)}) == BOXES


def test_a_failed_stage_is_marked(run: Run) -> None:
    stages = overview.stages(run)
    stages.loc[2, "state"] = "failed"
    picture = pipeline(stages)
    assert "! failed" in texts(picture)
    assert theme.title(picture).startswith(f"{BOXES - 1} of {BOXES} stages are done")


def test_text_from_a_dataset_cannot_break_the_picture(run: Run) -> None:
    stages = overview.stages(run)
    stages.loc[0, "detail"] = "set <a&b> is gone"
    assert "set <a&b> is gone" in texts(pipeline(stages))


def test_a_long_headline_is_set_small_enough_for_its_box(run: Run) -> None:
    stages = overview.stages(run)
    stages.loc[1, "headline"] = "1024 x 1024 x 1024 x 1024"
    drawn = ET.fromstring(pipeline(stages).svg)
    long = next(node for node in drawn.iter(f"{SVG}text") if node.text == stages["headline"][1])
    assert float(str(long.get("font-size"))) * 0.56 * len(str(long.text)) <= BOX


def test_as_an_image_it_is_told_its_colour_of_text(run: Run) -> None:
    picture = pipeline(overview.stages(run))
    assert ET.fromstring(picture.inked("#D8DCE0")).get("color") == "#D8DCE0"
    assert ET.fromstring(picture._repr_html_()).get("color") is None

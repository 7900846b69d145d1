"""Content vectors: what they are made of, what may enter them, and what cannot be used."""

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import toy_home

from onerec.assembly import Setting
from onerec.data.dataset import Content, dataset_path, open_dataset, write_dataset
from onerec.data.sources.world import png
from onerec.errors import DataError, RecipeError
from onerec.pipeline import content as module
from onerec.pipeline.content import Watch, content_vectors
from onerec.tokenizer.content import ItemContent, Precomputed, stack_states

ALIGNED = {"qformer.steps": "6"}


def make_setting(home: Path, changes: dict[str, str] | None = None, name: str = "toy") -> Setting:
    return Setting.of(toy_home.make_recipe(changes), open_dataset(name, home))


def make_rich(home: Path, changes: dict[str, str] | None = None, bad: int = -1) -> Setting:
    """A dataset with content tokens; that of row `bad` is not a number."""
    log, items, users = toy_home.tables()
    random = np.random.default_rng(0)
    tokens = random.normal(size=(toy_home.ITEMS, 3, 5)).astype(np.float32)
    if bad >= 0:
        tokens[bad, 1, 2] = np.nan
    mask = np.ones((toy_home.ITEMS, 3), dtype=bool)
    content = Content(tokens, mask, np.arange(3), ("caption", "cover", "frame"))
    write_dataset(
        dataset_path("rich", home), "rich", log, items, users, source="toy", content=content
    )
    return make_setting(home, changes, "rich")


class Light:
    """Stands for an image encoder: one token, the brightness of the picture."""

    name, dim, pixels = "light", 2, 4

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    def encode(self, content: ItemContent) -> Precomputed:
        states = [
            [np.full((1, 2), image.mean(), dtype=np.float32) for image in images]
            for images in content.images
        ]
        return stack_states(states, self.dim, self.name)


@pytest.fixture
def pictures(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pictures of all items but the last three: 27 has none, 28 a damaged one, 29 an empty file."""
    pytest.importorskip("PIL")
    monkeypatch.setattr(module, "EfficientNetLite", Light)
    folder = home / "datasets" / "toy" / "images"
    folder.mkdir()
    for row in range(27):
        (folder / f"{row}.png").write_bytes(png(np.full((4, 4, 3), row, dtype=np.uint8)))
    (folder / "28.png").write_bytes(b"no picture")
    (folder / "29.png").write_bytes(b"")
    return folder


@pytest.mark.parametrize("changes", [{}, ALIGNED], ids=["mean", "qformer"])
def test_items_outside_fit_items_do_not_move_the_vectors_of_the_others(
    home: Path, changes: dict[str, str]
) -> None:
    """Words of items that only appear after the cut are changed: no other vector moves."""
    setting = make_setting(home, changes)
    fit = setting.split.fit_items.copy()
    fit[[3, 17]] = False
    held_out = np.flatnonzero(~fit)

    def vectors(words: str) -> np.ndarray:
        dataset = open_dataset("toy", home)
        dataset.items.loc[held_out, "title"] = words
        split = replace(setting.split, fit_items=fit)
        return content_vectors(replace(setting, dataset=dataset, split=split)).vectors

    plain, strange = vectors("cooking part 3"), vectors("zebra quartz xylophone jubilee")
    assert np.array_equal(plain[fit], strange[fit])
    assert not np.array_equal(plain[held_out], strange[held_out])


@pytest.mark.parametrize("changes", [{}, ALIGNED], ids=["mean", "qformer"])
def test_no_event_after_the_training_rows_enters_the_vectors(
    home: Path, changes: dict[str, str]
) -> None:
    setting = make_setting(home, changes)
    log = setting.split.log
    before = content_vectors(setting).vectors
    later = np.flatnonzero(~setting.split.train)
    log.item[later] = (log.item[later] + 11) % toy_home.ITEMS
    assert np.array_equal(content_vectors(setting).vectors, before)


def test_content_tokens_of_the_dataset_stand_in_for_text(home: Path) -> None:
    rich = make_rich(home)
    made = content_vectors(rich)
    assert made.parts[0]["part"] == "content tokens"
    assert made.vectors.shape == (toy_home.ITEMS, 5 + 8)
    no_tokens = replace(rich, recipe=toy_home.make_recipe({"content.tokens_weight": "0"}))
    assert content_vectors(no_tokens).parts[0]["part"] == "hashed text"


def test_items_without_any_content_are_refused(home: Path) -> None:
    silent = {"content.text": "none", "content.behaviour_weight": "0"}
    with pytest.raises(RecipeError, match=r"items have no content.*content\.behaviour_weight=1"):
        content_vectors(make_setting(home, silent))


@pytest.mark.usefixtures("pictures")
def test_images_stand_beside_texts_and_what_cannot_be_read_is_counted(home: Path) -> None:
    setting = make_setting(home, {"content.images": "true", "content.behaviour_weight": "0"})
    told: list[str] = []
    made = content_vectors(setting, Watch(cache=home / "cache", tell=told.append))
    text, images = made.parts
    assert (text["part"], images["part"], images["dim"]) == ("hashed text", "images", 2)
    assert images["images"] == {
        "read": 27,
        "left_out": 2,
        "items_without": 3,
        "first_left_out": f"item {setting.dataset.items['item_id'].iloc[28]}: "
        f"{setting.dataset.path / 'images' / '28.png'}",
        "left_out_of": setting.dataset.items["item_id"].iloc[[28, 29]].astype(str).tolist(),
    }
    assert told == ["images: 30 of 30 items encoded"]
    light = made.vectors[:, 8]
    assert np.all(np.diff(light[:27]) > 0)
    np.testing.assert_allclose(light[27:], 0, atol=1e-6)  # the mean of all the others
    again = content_vectors(setting, Watch(cache=home / "cache", tell=told.append))
    assert np.array_equal(again.vectors, made.vectors)
    assert len(told) == 1
    assert (again.parts[1]["encoded"], again.parts[1]["from_cache"]) == (0, 30)
    assert again.parts[1]["images"] == images["images"]


def test_pictures_none_of_which_can_be_read_are_refused(home: Path, pictures: Path) -> None:
    for row in range(27):
        (pictures / f"{row}.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"none of 29 images can be read .*item i\d+: .*0\.png"):
        content_vectors(make_setting(home, {"content.images": "true"}))


@pytest.mark.usefixtures("pictures")
def test_the_qformer_reads_texts_and_images_of_an_item_together(home: Path) -> None:
    changes = {**ALIGNED, "content.images": "true", "content.behaviour_weight": "0"}
    made = content_vectors(make_setting(home, changes))
    (part,) = made.parts
    assert part["part"] == "QFormer"
    assert [one["part"] for one in part["reads"]] == ["hashed text", "images"]
    assert made.qformer is not None
    assert made.qformer.dim == 8 + 2
    assert made.vectors.shape == (toy_home.ITEMS, 4 * 64)
    assert np.linalg.matrix_rank(made.vectors, tol=1e-3) > 3


def test_the_datasets_own_tokens_are_what_the_qformer_reads(home: Path) -> None:
    made = content_vectors(make_rich(home, ALIGNED))
    assert made.parts[0]["part"] == "QFormer"
    assert made.parts[0]["reads"] == [
        {"part": "content tokens", "dim": 5, "tokens": 90, "items_without": 0, "modalities": {
            name: {"tokens": 30, "items_without": 0} for name in ("caption", "cover", "frame")
        }}
    ]  # fmt: skip


def test_a_token_that_is_not_a_number_is_named_by_its_item(home: Path) -> None:
    setting = make_rich(home, bad=4)
    bad = [
        str(name)
        for name, tokens in zip(
            setting.dataset.items["item_id"], setting.dataset.content().tokens, strict=True
        )
        if np.isnan(tokens).any()
    ]
    assert len(bad) == 1
    with pytest.raises(DataError, match=f"content token of item {bad[0]} is not finite"):
        content_vectors(setting)


@pytest.mark.parametrize(
    ("changes", "counted"), [(ALIGNED, "items_without_content"), ({}, "items_without")]
)
def test_items_without_text_take_the_mean_and_are_counted(
    home: Path, changes: dict[str, str], counted: str
) -> None:
    """Without a QFormer they were zeros, which centring made a cluster of their own."""
    setting = make_setting(home, {**changes, "content.behaviour_weight": "0"})
    items = setting.dataset.items
    items.loc[[2, 9], "title"] = ""
    for row in (2, 9):
        items.at[row, "tags"] = []
    made = content_vectors(setting)
    assert made.parts[0][counted] == 2
    np.testing.assert_allclose(made.vectors[[2, 9]], 0, atol=1e-6)
    assert np.abs(made.vectors[3]).max() > 0.01


def test_a_dataset_without_a_word_has_nothing_to_align(home: Path) -> None:
    setting = make_setting(home, ALIGNED)
    bare = replace(setting.dataset)
    bare.__dict__["items"] = setting.dataset.items[["item", "item_id"]]
    setting = replace(setting, dataset=bare)
    assert [part["part"] for part in content_vectors(setting).parts] == [
        "co-consumption of training positives"
    ]


def test_another_sentence_model_is_asked_for_by_its_name(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Named:
        dim = 2

        def __init__(self, model: str, device: str) -> None:
            self.name, self.device = model, device

        def encode(self, texts: list[str]) -> np.ndarray:
            return np.array([[[len(text), len(self.name)]] for text in texts], dtype=np.float32)

    monkeypatch.setattr(module, "SentenceEmbeddings", Named)
    changes = {"content.text": "sentence", "content.model": "chinese"}
    heard: list[str] = []
    watch = Watch(cache=home / "cache", tell=heard.append)
    made = content_vectors(make_setting(home, changes), watch)
    assert made.parts[0] == {
        "part": "sentence text", "dim": 2, "weight": 1.0,
        "tokens": toy_home.ITEMS, "items_without": 0,
        "columns": ["title", "tags"], "encoder": "chinese, an item's texts as one",
        "encoded": toy_home.ITEMS, "from_cache": 0,
    }  # fmt: skip
    assert heard == [f"sentence text: {toy_home.ITEMS} of {toy_home.ITEMS} items encoded"]
    again = content_vectors(make_setting(home, changes), watch)
    assert again.parts[0]["from_cache"] == toy_home.ITEMS
    assert np.array_equal(again.vectors, made.vectors)
    assert np.abs(made.vectors[:, 0]).max() > 0


class Letters:
    """Stands for a sentence model: one state of a text, how long it is."""

    dim = 2

    def __init__(self, model: str, device: str = "cpu") -> None:
        self.name = f"letters ({model})"

    def states(self, texts: list[str]) -> list[np.ndarray]:
        return [np.array([[len(text), 1.0]], dtype=np.float32) for text in texts]


def test_a_models_folder_that_changes_is_another_model(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens of the weights that stood under the same path before are not taken for these."""
    monkeypatch.setattr(module, "SentenceEmbeddings", Letters)
    weights = home / "letters" / "weights.bin"
    weights.parent.mkdir()
    weights.write_bytes(b"one")
    changes = {**ALIGNED, "content.text": "sentence", "content.model": str(weights.parent)}

    def found() -> int:
        made = content_vectors(make_setting(home, changes), Watch(cache=home / "cache"))
        return int(made.parts[0]["reads"][0]["from_cache"])

    assert found() == 0
    assert found() == toy_home.ITEMS
    weights.write_bytes(b"other")
    assert found() == 0


def test_another_commit_of_a_model_of_the_hub_is_another_model(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name alone was the key: after an update of the model its old tokens were taken."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(module, "SentenceEmbeddings", Letters)
    changes = {**ALIGNED, "content.text": "sentence", "content.model": "me/letters"}

    def found(commit: str) -> int:
        repository = home / "hub" / "models--me--letters"
        for path, text in ((f"snapshots/{commit}/config.json", "{}"), ("refs/main", commit)):
            (repository / path).parent.mkdir(parents=True, exist_ok=True)
            (repository / path).write_text(text)
        made = content_vectors(make_setting(home, changes), Watch(cache=home / "cache"))
        return int(made.parts[0]["reads"][0]["from_cache"])

    assert found("a" * 40) == 0
    assert found("a" * 40) == toy_home.ITEMS
    assert found("b" * 40) == 0
    assert found("a" * 40) == toy_home.ITEMS


@pytest.mark.parametrize("model", ["me/other", "letters", "/no/such/folder", "a b", ""])
def test_a_model_whose_commit_is_unknown_has_its_name_alone(model: str, tmp_path: Path) -> None:
    assert module._cache(tmp_path, model) == tmp_path


@pytest.mark.usefixtures("pictures")
def test_what_an_item_without_a_picture_gets_knows_no_item_outside_fit_items(home: Path) -> None:
    changes = {"content.images": "true", "content.behaviour_weight": "0", "content.text": "none"}
    setting = make_setting(home, changes)
    fit = np.arange(toy_home.ITEMS) != 26
    setting = replace(setting, split=replace(setting.split, fit_items=fit))
    one = content_vectors(setting).vectors
    path = home / "datasets" / "toy" / "images" / "26.png"
    path.write_bytes(png(np.full((4, 4, 3), 250, dtype=np.uint8)))
    other = content_vectors(setting).vectors
    assert not np.array_equal(one[26], other[26])
    assert np.array_equal(one[27:], other[27:])


def test_tokens_are_counted_and_items_that_have_none() -> None:
    mask = np.array([[1, 0, 0], [0, 0, 0], [1, 1, 0]], dtype=bool)
    assert module._count(mask) == {"tokens": 3, "items_without": 1}


def test_images_are_counted_one_by_one() -> None:
    """Item 0 has both of its two, item 1 one of three, item 2 none of two, item 3 has none."""
    paths = [["a", "b"], ["c", "d", "e"], ["f", "g"], []]
    items = pd.DataFrame({"item_id": ["i0", "i1", "i2", "i3"]})
    lost = {1: ["d", "e"], 2: ["f", "g"]}
    reader = SimpleNamespace(
        paths=paths, dataset=SimpleNamespace(items=items), unreadable=lost.__getitem__
    )
    told = module._images_read(reader, SimpleNamespace(images=np.array([2, 1, 0, 0])))
    assert told == {
        "read": 3, "left_out": 4, "items_without": 2, "first_left_out": "item i1: d",
        "left_out_of": ["i1", "i2"],
    }  # fmt: skip
    lost[1] = []  # mended since
    assert (
        module._images_read(reader, SimpleNamespace(images=np.array([2, 1, 0, 0])))[
            "first_left_out"
        ]
        == "item i1: c"
    )
    whole = module._images_read(reader, SimpleNamespace(images=np.array([2, 3, 2, 0])))
    assert whole == {"read": 7, "left_out": 0, "items_without": 1}


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize(("tokens", "weight"), [("0.5", 0.5), ("0", 0.25)])
def test_images_weigh_what_tokens_weigh_or_else_texts(
    home: Path, tokens: str, weight: float
) -> None:
    changes = {"content.images": "true", "content.tokens_weight": tokens}
    made = content_vectors(make_setting(home, changes | {"content.text_weight": "0.25"}))
    assert [(part["part"], part["weight"]) for part in made.parts[:2]] == [
        ("hashed text", 0.25),
        ("images", weight),
    ]


def test_rows_that_are_no_success_do_not_enter_the_vectors(home: Path) -> None:
    setting = make_setting(home)
    log, before = setting.split.log, content_vectors(setting).vectors
    rows = np.flatnonzero(setting.split.train & ~log.positive)
    assert len(rows) > 10
    log.item[rows] = (log.item[rows] + 11) % toy_home.ITEMS
    assert np.array_equal(content_vectors(setting).vectors, before)


def test_a_models_file_of_another_time_is_another_file(tmp_path: Path) -> None:
    weights = tmp_path / "model" / "weights.bin"
    weights.parent.mkdir()
    weights.write_bytes(b"one")
    os.utime(weights, ns=(1, 1))
    first = module._cache(tmp_path, str(weights.parent))
    assert first == module._cache(tmp_path, str(weights.parent)) != tmp_path
    os.utime(weights, ns=(2, 2))
    assert first != module._cache(tmp_path, str(weights.parent))


@pytest.mark.parametrize(("words", "alike"), [("the same words", True), (None, False)])
def test_columns_of_blanks_and_texts_that_are_all_the_same_are_in_the_report(
    home: Path, words: str | None, alike: bool
) -> None:
    setting = make_setting(home, {})
    kept = setting.dataset.items
    titles = kept["title"] if words is None else [words] * len(kept)
    setting.dataset.__dict__["items"] = kept[["item_id"]].assign(title=titles, ocr="", asr=" ")
    text, behaviour = content_vectors(setting).parts
    assert text["empty_columns"] == ["ocr", "asr"]
    assert text.get("alike", False) is alike
    assert "alike" not in behaviour
    setting.dataset.__dict__["items"] = kept
    assert "empty_columns" not in content_vectors(setting).parts[0]

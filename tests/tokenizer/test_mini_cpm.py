"""The adapter on a tiny MiniCPM-V of transformers with random weights, loaded from a folder.

Its own processor needs torchvision; `Words` stands for it and gives the model what it would.
"""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from onerec.errors import RecipeError
from onerec.tokenizer.content import ItemContent
from onerec.tokenizer.mini_cpm import MiniCPMV

WIDTH, IMAGE_TOKEN, PIXELS = 16, 3, 56
transformers = pytest.importorskip("transformers")
own = pytest.importorskip("transformers.models.minicpmv4_6")


class Words:
    """One token of each character, padding on the left, a picture as 4 x 4 patches of 14 pixels."""

    image_token = "#"

    def __call__(
        self, text: list[str], images: list[np.ndarray] | None, **_: object
    ) -> "transformers.BatchFeature":
        codes = [[self._code(letter) for letter in line] for line in text]
        length = max(map(len, codes))
        ids = [[0] * (length - len(row)) + row for row in codes]
        found = {"input_ids": torch.tensor(ids), "attention_mask": (torch.tensor(ids) > 0).long()}
        if images is not None:
            pixels = torch.from_numpy(np.stack(images)).float() / 255
            rows = pixels.unfold(1, 14, 14).unfold(2, 14, 14)  # (I, 4, 4, 3, 14, 14)
            patches = rows.permute(3, 4, 0, 1, 2, 5).reshape(3, 14, -1)
            found["pixel_values"] = patches[None]
            found["target_sizes"] = torch.tensor([[4, 4]] * len(images), dtype=torch.int32)
        return transformers.BatchFeature(found)

    def _code(self, letter: str) -> int:
        return IMAGE_TOKEN if letter == "#" else 4 + ord(letter) % 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with random weights: each picture of 4 x 4 patches becomes one token."""
    text = {
        "model_type": "qwen3_5_text", "vocab_size": 40, "hidden_size": WIDTH,
        "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 8, "layer_types": ["full_attention"],
    }  # fmt: skip
    vision = {
        "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": PIXELS, "patch_size": 14,
    }  # fmt: skip
    config = own.MiniCPMV4_6Config(
        text_config=text, vision_config=vision, insert_layer_id=0, image_token_id=IMAGE_TOKEN
    )
    torch.manual_seed(0)
    made = tmp_path_factory.mktemp("checkpoint")
    own.MiniCPMV4_6Model(config).save_pretrained(made)
    return Path(made)


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", lambda _: Words())
    return


def image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (PIXELS, PIXELS, 3), dtype=np.uint8)


@pytest.mark.usefixtures("words")
def test_tokens_are_the_last_states_of_images_and_texts_in_one_sequence(folder: Path) -> None:
    content = ItemContent(
        {"title": ["ab", " ", "cde", ""], "tags": ["f", "", "", "\n"]},
        [[], [], [image(0)], [image(1), image(2)]],
    )
    encoder = MiniCPMV(str(folder), batch_size=2)
    made = encoder.encode(content)
    assert encoder.dim == made.dim == WIDTH
    lengths = [len("title: ab\ntags: f"), 0, 1 + len("title: cde"), 2 + len("image")]
    assert made.mask.sum(axis=1).tolist() == lengths
    model, processor = encoder._load()
    for item, prompt in ((0, "title: ab\ntags: f"), (2, "#title: cde"), (3, "##image")):
        inputs: Any = processor([prompt], content.images[item] or None)
        with torch.no_grad():
            alone = model(**inputs).last_hidden_state[0]
        found = made.tokens[item, : lengths[item]]
        np.testing.assert_allclose(found, alone.float().numpy(), atol=2e-3)
    other = encoder.encode(ItemContent({"title": ["c#e"]}, [[image(5)]]))
    assert other.mask.sum() == lengths[2]  # a mark of an image in a text is none
    first = made.tokens[2, : lengths[2]].astype(np.float64) - other.tokens[0]
    assert np.abs(first[1:7]).max() > 0.01  # "title:", which stands behind another image


@pytest.mark.usefixtures("words")
def test_long_sequences_are_averaged_to_the_limit(folder: Path) -> None:
    content = ItemContent({"title": ["abcdefghij"]}, [[]])
    whole = MiniCPMV(str(folder)).encode(content).tokens[0].astype(np.float64)
    made = MiniCPMV(str(folder), limit=2).encode(content).tokens[0]
    half = len(whole) // 2
    np.testing.assert_allclose(made[0], whole[:half].mean(0), atol=2e-3)
    np.testing.assert_allclose(made[1], whole[half:].mean(0), atol=2e-3)


def test_a_model_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(RecipeError, match=r"nowhere' cannot be loaded .*content\.model") as caught:
        MiniCPMV(str(tmp_path / "nowhere")).encode(ItemContent({"title": ["a"]}, [[]]))
    assert "\n" not in str(caught.value)


def test_what_its_processor_lacks_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(_: str) -> None:
        raise ImportError("\nIts processor requires the Torchvision library\nand more words")

    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", lacking)
    with pytest.raises(RecipeError, match=r"loaded \(Its processor requires the Torchvision libr"):
        MiniCPMV(str(folder)).encode(ItemContent({"title": ["a"]}, [[]]))


@pytest.mark.usefixtures("words")
def test_weights_that_are_cut_off_are_named(folder: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(folder, damaged)
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    encoder, content = MiniCPMV(str(damaged)), ItemContent({"title": ["a"]}, [[]])
    with pytest.raises(RecipeError, match=r"damaged' cannot be loaded .*content\.model"):
        encoder.encode(content)


def test_without_transformers_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(RecipeError, match=r"pip install onerec\[multimodal\]"):
        MiniCPMV().encode(ItemContent({"title": ["a"]}, [[]]))

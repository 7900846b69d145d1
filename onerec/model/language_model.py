"""A causal language model of transformers and its tokens, for `PretrainedCaptioner`.

V1 section 2.1 has LLaMA3 tell captions in training; whether it learns there is not said. Here its
weights stay as they are, so that only the states learn (ours).

Shapes: n texts, T tokens of a text.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onerec.errors import RecipeError, first_line
from onerec.model.captioner import PADDING
from onerec.tokenizer.vocabulary import padded


def load_language_model(name: str) -> tuple[Any, Any]:
    """The model called `name` (or in that folder) with its weights frozen, and its tokenizer.

    Raises:
        RecipeError: transformers is not installed, or the model cannot be loaded.
    """
    try:
        library = importlib.import_module("transformers")
    except ImportError as error:
        raise RecipeError(
            "a language model needs the package transformers; `pip install onerec[multimodal]`, "
            "or leave qformer.captioner empty"
        ) from error
    try:
        tokenizer = library.AutoTokenizer.from_pretrained(name)
        model = library.AutoModelForCausalLM.from_pretrained(name)
    except Exception as error:  # of damaged files each reader has errors of its own
        raise RecipeError(
            f"language model {name!r} cannot be loaded ({first_line(error)}); "
            "set qformer.captioner to the folder of one, or leave it empty"
        ) from error
    return model.eval().requires_grad_(False), tokenizer


def caption_tokens(tokenizer: Any, texts: Sequence[str], length: int) -> NDArray[np.int64]:
    """(n, T) tokens of each text, at most `length`, padding behind them.

    A text without a word has none; the model's own token 0 is left out, since 0 is padding here.
    """
    said = tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
    return padded(
        [
            [token for token in row if token != PADDING][:length] if text.strip() else []
            for text, row in zip(texts, said, strict=True)
        ]
    )

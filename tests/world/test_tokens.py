"""Content tokens: shapes, masks, and what can and cannot be read from them."""

import numpy as np

from onerec.world.tokens import MODALITIES, TOKEN_WIDTH


def readable(tokens, target):
    """Share of the variance of `target` (n,) that a line fitted on half of the rows explains."""
    table = np.column_stack([tokens, np.ones(len(tokens))])
    half = len(table) // 2
    line = np.linalg.lstsq(table[:half], target[:half], rcond=None)[0]
    error = target[half:] - table[half:] @ line
    return 1 - error.var() / target[half:].var()


def test_shapes_and_names(small_world):
    tokens, mask, modality, names = small_world.content_tokens()
    n = small_world.catalogue.n_items
    assert tokens.shape == (n, 10, TOKEN_WIDTH)
    assert tokens.dtype == np.float32
    assert mask.shape == (n, 10)
    assert [names[m] for m in modality] == ["caption", "tag", "ocr", "asr", "cover"] + ["frame"] * 5
    assert not tokens[~mask].any()
    for m, wanted in enumerate(MODALITIES):
        assert abs((~mask[:, modality == m]).mean() - wanted.missing) < 0.06


def test_tokens_tell_content_but_neither_style_nor_quality(small_world):
    tokens, mask, _, _ = small_world.content_tokens()
    mean = tokens.sum(axis=1) / mask.sum(axis=1, keepdims=True)
    catalogue = small_world.catalogue
    assert readable(mean, catalogue.content[:, 0]) > 0.6
    assert readable(mean, catalogue.hidden[:, 0]) < 0.1
    assert readable(mean, catalogue.quality) < 0.1

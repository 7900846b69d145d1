"""The QFormer's training on a run: what is held out, who tells captions, what is refused."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_home

from onerec.assembly import Setting
from onerec.data.dataset import open_dataset
from onerec.data.pairs import ItemPairs
from onerec.errors import DataError, RecipeError
from onerec.pipeline import item_alignment as module
from onerec.pipeline.item_alignment import (
    HELD_MOST,
    AlignedContent,
    align_content,
    held_out,
    mean_vectors,
    qformer_config,
)
from onerec.tokenizer.content import Precomputed

CPU = torch.device("cpu")
N = toy_home.ITEMS


def make_setting(home: Path, **changes: str) -> Setting:
    wanted = {"qformer.steps": "3"} | {f"qformer.{key}": value for key, value in changes.items()}
    return Setting.of(toy_home.make_recipe(wanted), open_dataset("toy", home))


def tokens(dim: int = 6) -> Precomputed:
    random = np.random.default_rng(0)
    mask = random.random((N, 4)) < 0.7
    mask[:, 0] = True
    return Precomputed(random.normal(size=(N, 4, dim)).astype(np.float32), mask)


def align(setting: Setting, content: Precomputed | None = None) -> AlignedContent:
    return align_content(
        setting, content or tokens(), CPU, lambda message: None, lambda result, of: None
    )


def ring(n: int) -> ItemPairs:
    """Each item with the next."""
    items = np.arange(n)
    pairs = np.stack([items, (items + 1) % n], axis=1)
    return ItemPairs(pairs, pairs[:0], {})


def test_a_twentieth_of_the_items_is_held_out_and_never_too_many() -> None:
    fit = np.ones(100, dtype=bool)
    fit[50:] = False
    held = held_out(ring(100), fit, seed=0)
    assert held.sum() == 49 // 20  # item 49 has its partner outside
    assert not held[49:].any()
    assert np.array_equal(held_out(ring(100), fit, seed=0), held)
    many = np.ones(20_000, dtype=bool)
    assert held_out(ring(20_000), many, seed=1).sum() == HELD_MOST


def test_another_seed_holds_other_items_out() -> None:
    fit = np.ones(2_000, dtype=bool)
    one, other = (held_out(ring(2_000), fit, seed) for seed in (0, 1))
    assert one.sum() == other.sum() == 100
    assert not np.array_equal(one, other)


def test_queries_are_as_wide_as_the_tokens_within_bounds() -> None:
    assert [qformer_config(dim).width for dim in (5, 64, 384, 385, 4_096)] == [
        64, 64, 384, 392, 512,
    ]  # fmt: skip
    assert qformer_config(512, 16).width == 16
    assert (qformer_config(512).queries, qformer_config(512).blocks) == (4, 4)


def test_held_out_items_are_in_no_pair_and_tell_no_caption(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting, seen = make_setting(home), {}
    real = module.align_items

    def spy(aligner, content, pairs, captions, fit, device):  # type: ignore[no-untyped-def]
        seen.update(pairs=pairs, fit=fit, captions=captions)
        return real(aligner, content, pairs, captions, fit, device)

    monkeypatch.setattr(module, "align_items", spy)
    outside = setting.split.fit_items.copy()
    setting.split.fit_items[:] = outside
    setting.split.fit_items[[4, 5]] = False
    report = align(setting).report
    (held,) = np.flatnonzero(~seen["fit"] & setting.split.fit_items)
    assert report["retrieval"]["held_out_items"] == 1
    assert not np.isin(seen["pairs"], [4, 5, held]).any()
    assert report["pairs"]["taught"] == len(seen["pairs"]) > 100
    assert seen["fit"].sum() == N - 3
    assert seen["captions"].shape[0] == N


def test_captions_know_the_words_of_taught_items_alone(home: Path) -> None:
    """Zebra is said by two items, which may not be fitted on."""
    setting = make_setting(home)
    setting.dataset.items["title"] = ["red cup"] * N
    setting.dataset.items["tags"] = [[]] * N
    setting.dataset.items.loc[[4, 5], "title"] = "zebra cup"
    assert align(setting).report["captioner"].endswith("3 words")
    setting.split.fit_items[[4, 5]] = False
    assert align(setting).report["captioner"].endswith("2 words")


def test_partners_of_held_out_items_are_looked_for_among_items_to_fit_on(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting, calls, training = make_setting(home), [], {}
    setting.split.fit_items[[4, 5]] = False

    def watched(vectors: np.ndarray, pairs: np.ndarray, k: int, among: np.ndarray) -> np.ndarray:
        calls.append((vectors, pairs, k, among))
        return np.full(1, len(calls) / 4)

    def spy(aligner, content, pairs, captions, fit, device):  # type: ignore[no-untyped-def]
        training.update(fit=fit)
        return real(aligner, content, pairs, captions, fit, device)

    real = module.align_items
    monkeypatch.setattr(module, "align_items", spy)
    monkeypatch.setattr(module, "partner_recall", watched)
    content = tokens()
    made = align(setting, content)
    (before, *one), (after, *two) = calls
    np.testing.assert_array_equal(before, mean_vectors(content, setting.split.fit_items))
    np.testing.assert_array_equal(after, made.vectors)
    for pairs, k, among in (one, two):
        assert k == 10
        assert not training["fit"][pairs[:, 0]].any()
        assert setting.split.fit_items[pairs].all()
        np.testing.assert_array_equal(among, setting.split.fit_items)
    told = made.report["retrieval"]
    assert (told["before"], told["after"]) == (0.25, 0.5)
    assert told["by_chance"] == pytest.approx(10 / 27, abs=1e-5)


def test_the_mean_of_tokens_is_that_of_items_to_fit_on() -> None:
    """Means 1, 3 and 9; about 2, that of the first two, they are -1, 1 and 7, of length 1."""
    given = np.array(
        [[[0.0, 4.0], [2.0, 4.0]], [[3.0, 4.0]] * 2, [[9.0, 4.0]] * 2, [[5.0, 4.0]] * 2]
    )
    mask = np.array([[1, 1], [1, 0], [1, 1], [0, 0]], dtype=bool)
    made = mean_vectors(Precomputed(given, mask), np.array([True, True, False, False]))
    assert made.tolist() == [[-1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]


def test_the_report_has_the_losses_of_both_ends(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses: list[float] = []
    monkeypatch.setattr(module, "SHOWN", 2)
    report = align_content(
        make_setting(home, steps="5"),
        tokens(),
        CPU,
        lambda message: None,
        lambda result, of: losses.append(result.loss),
    ).report
    assert len(losses) == 5
    assert report["first_losses"]["loss"] == pytest.approx(np.mean(losses[:2]), abs=1e-4)
    assert report["last_losses"]["loss"] == pytest.approx(np.mean(losses[-2:]), abs=1e-4)


def test_the_report_says_what_was_done(home: Path) -> None:
    made = align(make_setting(home))
    assert made.vectors.shape == (N, 4 * 64)
    np.testing.assert_allclose(np.linalg.norm(made.vectors, axis=1), 1, rtol=1e-5)
    report = made.report
    assert report["qformer"]["width"] == 64
    assert report["qformer"]["dim"] == 6
    assert set(report["first_losses"]) == {"loss", "contrastive", "caption", "temperature"}
    assert report["first_losses"] == report["last_losses"]  # three steps are both
    assert 0 <= report["retrieval"]["before"] <= 1
    assert report["retrieval"]["by_chance"] == pytest.approx(10 / 29, abs=1e-5)
    assert "words" in report["captioner"]
    assert report["items_without_content"] == 0


@pytest.mark.parametrize("off", ["contrastive_weight", "caption_weight"])
def test_each_loss_can_be_off(home: Path, off: str) -> None:
    report = align(make_setting(home, **{off: "0"})).report
    assert set(report["first_losses"]) & {"contrastive", "caption"} == (
        {"caption"} if off == "contrastive_weight" else {"contrastive"}
    )
    assert (report["captioner"] is None) == (off == "caption_weight")


def test_the_residual_is_a_setting_that_the_report_tells(home: Path) -> None:
    made = {word: align(make_setting(home, residual=word)) for word in ("false", "true")}
    told = {word: one.report["qformer"]["residual"] for word, one in made.items()}
    assert told == {"false": False, "true": True}
    assert not np.allclose(made["true"].vectors, made["false"].vectors)


def test_items_without_content_are_left_out_of_training_and_take_the_mean(home: Path) -> None:
    content, setting = tokens(), make_setting(home)
    content.mask[[0, 7]] = False
    made = align(setting, content)
    assert made.report["items_without_content"] == 2
    others = np.setdiff1d(np.arange(N), [0, 7])
    np.testing.assert_allclose(made.vectors[0], made.vectors[others].mean(0), atol=1e-6)
    assert np.array_equal(made.vectors[0], made.vectors[7])
    setting.split.fit_items[[3, 4]] = False
    made = align(setting, content)
    others = np.setdiff1d(np.arange(N), [0, 3, 4, 7])
    np.testing.assert_allclose(made.vectors[0], made.vectors[others].mean(0), atol=1e-6)


def test_nothing_to_read_and_nothing_to_tell_are_refused(home: Path) -> None:
    empty = tokens()
    empty.mask[:] = False
    with pytest.raises(DataError, match="none of 30 items has a content token to learn from"):
        align(make_setting(home), empty)
    silent = make_setting(home)
    silent.dataset.items["title"] = [chr(0x4E00 + row) for row in range(N)]
    silent.dataset.items["tags"] = [[]] * N
    with pytest.raises(DataError, match=r"no two items of 'toy' share a word.*caption_weight=0"):
        align(silent)
    align(make_setting(home, caption_weight="0"))


def test_chinese_captions_are_told(home: Path) -> None:
    setting = make_setting(home)
    setting.dataset.items["title"] = ["美食做饭", "足球比赛", "旅行美食"] * (N // 3)
    setting.dataset.items["tags"] = [[]] * N
    assert align(setting).report["captioner"].endswith("10 words")


def test_a_language_model_that_is_not_there_is_named(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = make_setting(home, captioner=str(tmp_path / "nowhere"))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(RecipeError, match="a language model needs the package transformers"):
        align(setting)


def test_a_language_model_of_transformers_tells_captions(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=300, hidden_size=8, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2,
    )  # fmt: skip
    language = transformers.LlamaForCausalLM(config).eval().requires_grad_(False)
    before = {name: value.clone() for name, value in language.state_dict().items()}

    def letters(texts: list[str], add_special_tokens: bool) -> dict[str, list[list[int]]]:
        return {"input_ids": [[ord(letter) % 300 for letter in text] for text in texts]}

    monkeypatch.setattr(module, "load_language_model", lambda name: (language, letters))
    made = align(make_setting(home, captioner="some/llama"))
    assert made.report["captioner"] == "some/llama"
    assert made.report["first_losses"]["caption"] > 0
    assert all(torch.equal(value, before[name]) for name, value in language.state_dict().items())

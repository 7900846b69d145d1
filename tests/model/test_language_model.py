"""A causal language model from a folder, frozen; captions in its tokens; clear errors."""

import shutil
import sys
from pathlib import Path

import pytest
import torch

from onerec.errors import RecipeError
from onerec.model.captioner import PretrainedCaptioner
from onerec.model.language_model import caption_tokens, load_language_model

WORDS = ["!", "red", "nail", "polish"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with random weights and a vocabulary of four words; token 0 is one of them."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    made = tmp_path_factory.mktemp("llama")
    level = tokenizers.models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="!")
    words = tokenizers.Tokenizer(level)
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(made)
    config = transformers.LlamaConfig(
        vocab_size=4, hidden_size=8, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(made)
    return Path(made)


def test_a_model_from_a_folder_tells_captions_and_stays_as_it_is(folder: Path) -> None:
    model, tokenizer = load_language_model(str(folder))
    captions = caption_tokens(tokenizer, ["red nail polish", "", "polish ! red"], 2)
    assert captions.tolist() == [[1, 2], [0, 0], [3, 1]]
    assert caption_tokens(tokenizer, [], 2).shape == (0, 1)
    teller = PretrainedCaptioner(model, 6)
    teller.init_weights(torch.Generator().manual_seed(0))
    states = torch.randn(3, 2, 6, requires_grad=True)
    teller(states, torch.from_numpy(captions)).sum().backward()
    assert states.grad is not None
    learned = [name for name, weight in teller.named_parameters() if weight.requires_grad]
    assert learned == ["project.weight"]


def test_a_model_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    message = r"nowhere' cannot be loaded .*qformer\.captioner"
    with pytest.raises(RecipeError, match=message) as caught:
        load_language_model(str(tmp_path / "nowhere"))
    assert "\n" not in str(caught.value)


def test_a_model_whose_weights_are_cut_off_is_named(folder: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(folder, damaged)
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(RecipeError, match=r"damaged' cannot be loaded .*qformer\.captioner"):
        load_language_model(str(damaged))


def test_without_transformers_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(RecipeError, match=r"pip install onerec\[multimodal\]"):
        load_language_model("any")

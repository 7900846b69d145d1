"""Caption models: the equation written out, what a position sees, a model of transformers."""

import pytest
import torch
from torch import Tensor

from onerec.errors import RecipeError
from onerec.model.captioner import Captioner, CaptionerConfig, PretrainedCaptioner

CAPTIONS = torch.tensor([[3, 1, 4, 0], [2, 0, 0, 0], [0, 0, 0, 0], [4, 4, 2, 1]])


def make(length: int = 4, queries: int = 2) -> Captioner:
    model = Captioner(CaptionerConfig(width=8, blocks=2, heads=2), (queries, 6), 5, length)
    model.init_weights(torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.tokens.weight.mul_(50)
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.copy_(torch.linspace(0.5, 2.0, 8))
    return model.double()


def states(queries: int = 2) -> Tensor:
    return torch.randn(4, queries, 6, generator=torch.Generator().manual_seed(1)).double()


def norm(x: Tensor, module: torch.nn.Module) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * module.weight


def by_hand(model: Captioner, own: Tensor, caption: list[int]) -> list[Tensor]:
    """Logits of each token of one caption, from a forward pass over what stands before it."""
    result = []
    for k in range(len(caption)):
        before = model.tokens.weight[caption[:k]]
        x = torch.cat([own @ model.project.weight.T, before]) + model.positions[: len(own) + k]
        for block in model.blocks:
            read = norm(x, block.attention_norm)
            q, keys, v = (read @ block.attention.qkv.weight.T).chunk(3, dim=-1)
            future = torch.ones(len(x), len(x)).triu(1).bool()
            heads = [
                (q[:, c] @ keys[:, c].T / 2.0).masked_fill(future, -torch.inf).softmax(-1) @ v[:, c]
                for c in (slice(0, 4), slice(4, 8))
            ]
            x = x + torch.cat(heads, 1) @ block.attention.out.weight.T
            read = norm(x, block.ffn_norm)
            gate, up = (read @ block.ffn.gate_up.weight.T).chunk(2, dim=-1)
            x = x + (gate * gate.sigmoid() * up) @ block.ffn.down.weight.T
        result.append(norm(x[-1], model.norm) @ model.tokens.weight.T)
    return result


@pytest.mark.parametrize("queries", [1, 2])
def test_logits_and_gradients_equal_the_equation(queries: int) -> None:
    model, prefix = make(queries=queries), states(queries).requires_grad_()
    logits = model(prefix, CAPTIONS)
    rows = [row for i, own in enumerate(prefix)
            for row in by_hand(model, own, [t for t in CAPTIONS[i].tolist() if t])]  # fmt: skip
    assert logits.shape == (8, 5)
    torch.testing.assert_close(logits, torch.stack(rows))
    weights = torch.randn(8, 5, generator=torch.Generator().manual_seed(2)).double()
    leaves = [prefix, *model.parameters()]
    found = torch.autograd.grad((logits * weights).sum(), leaves)
    expected = torch.autograd.grad((torch.stack(rows) * weights).sum(), leaves)
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two)


def test_a_caption_of_one_token_and_a_shorter_grid() -> None:
    model = make()
    assert model(states(), CAPTIONS[:, :1]).shape == (3, 5)
    torch.testing.assert_close(
        model(states()[:2], CAPTIONS[:2, :3]), model(states()[:2], CAPTIONS[:2])
    )


def test_a_token_sees_the_states_and_what_stands_before_it() -> None:
    model, changed = make(), CAPTIONS.clone()
    changed[3, 2] = 3
    before, after = model(states(), CAPTIONS), model(states(), changed)
    # Rows 4 to 7 tell the last caption; its third token is the input of the fourth alone.
    assert torch.equal(before[:7], after[:7])
    assert not torch.allclose(before[7], after[7])
    other = states()
    other[3] += 1
    moved = (model(other, CAPTIONS) - before).abs().amax(1) > 1e-9
    assert moved.tolist() == [False] * 4 + [True] * 4


def test_a_model_of_transformers_takes_its_place() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=5,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        pad_token_id=None,
    )
    torch.manual_seed(0)
    language = transformers.LlamaForCausalLM(config).double().eval()
    for parameter in language.parameters():
        parameter.requires_grad_(False)
    model = PretrainedCaptioner(language, 6).double()
    model.init_weights(torch.Generator().manual_seed(0))
    assert (model.vocabulary, model.length) == (5, None)
    prefix = states().requires_grad_()
    logits = model(prefix, CAPTIONS)
    own = (prefix[3] @ model.project.weight.T)[None]
    read = torch.cat([own, language.get_input_embeddings()(CAPTIONS[3:, :2])], dim=1)
    torch.testing.assert_close(logits[6], language(inputs_embeds=read).logits[0, -1])
    scored = []
    language.lm_head.register_forward_hook(lambda module, x, y: scored.append(y.numel()))
    torch.testing.assert_close(model(prefix, CAPTIONS), logits)
    assert scored == [8 * 5]  # a vocabulary is large: only places of captions are scored
    language(inputs_embeds=read)
    assert scored[1] == 4 * 5  # and the model is as it was
    logits.sum().backward()
    assert prefix.grad[[0, 1, 3]].abs().sum() > 0
    assert not prefix.grad[2].any()  # its caption is empty
    assert model.project.weight.grad is not None
    assert model.train().training
    assert not language.training, "its weights stay, so its dropout stays off"
    language.lm_head.weight.requires_grad_(True)
    assert model.train().model.training


def test_sizes_that_cannot_work_are_refused() -> None:
    with pytest.raises(RecipeError, match="captioner width 10, blocks 2, heads 4"):
        CaptionerConfig(width=10)

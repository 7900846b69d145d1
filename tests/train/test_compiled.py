"""Compiled blocks: the same numbers, gradients, loads and names; eager wherever nothing trains."""

import copy
import shutil

import pytest
import torch
import toy_model

from onerec.errors import RecipeError, RunError
from onerec.loop import Trainee, loop
from onerec.model import packing
from onerec.model.routers import RouterConfig
from onerec.model.sample import sequence_log_probs
from onerec.train import compiled
from onerec.train.optim import OptimConfig, make_adamw

# what torch.compile does inside torch, and hides from those who do not make errors of warnings
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*autograd.function.Function.:DeprecationWarning"),
]

LENGTHS = (4, 0, 2, 3, 4, 1)
MODELS = {
    "dense": lambda: toy_model.make_model(experts=0),
    "experts": lambda: toy_model.make_model(experts=3, expert_blocks="alternate"),
    "softmax": lambda: toy_model.make_model(
        experts=3, shared_experts=1, router=RouterConfig("softmax")
    ),
    "lazy": lambda: toy_model.make_lazy(experts=3),
    "dense lazy": lambda: toy_model.make_lazy(experts=0),
}


@pytest.fixture
def fresh():
    """Nothing compiled before, nothing after."""
    compiled._compiled.cache_clear()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield torch._dynamo.utils.counters
    compiled._compiled.cache_clear()
    torch._dynamo.reset()


@pytest.fixture
def traced(fresh, monkeypatch):
    """Graphs are made as ever, and run without being turned into machine code: fast to test."""
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")
    return fresh


def both(name, whole=False):
    plain, other = MODELS[name]().train(), MODELS[name]().train()
    compiled.compile_training(other, whole)
    return plain, other


def assert_same_step(plain, other, seed):
    batch = toy_model.make_batch(LENGTHS, seed=seed)
    for model in (plain, other):
        model.zero_grad()
    (loss, parts), (theirs, more) = plain.loss(batch), other.loss(batch)
    loss.backward()
    theirs.backward()
    assert theirs.item() == pytest.approx(loss.item(), rel=1e-5)
    assert more.keys() == parts.keys()
    for key, part in parts.items():
        assert more[key].item() == pytest.approx(part.item(), rel=1e-4)
    for (key, one), two in zip(plain.named_parameters(), other.parameters(), strict=True):
        assert (one.grad is None) == (two.grad is None), key
        if one.grad is not None:
            torch.testing.assert_close(two.grad, one.grad, atol=1e-5, rtol=1e-4)
    for ours, theirs_ in zip(plain.mixtures(), other.mixtures(), strict=True):
        assert theirs_.load.equal(ours.load)


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("dense", False),
        pytest.param("softmax", False, marks=pytest.mark.slow),
        pytest.param("lazy", True, marks=pytest.mark.slow),
        pytest.param("experts", True, marks=pytest.mark.slow),
        pytest.param("lazy", False, marks=pytest.mark.slow),
    ],
)
def test_losses_gradients_and_loads_are_those_without_compiling(traced, name, whole):
    plain, other = both(name, whole)
    for seed in range(2):  # each batch has another number of tokens
        assert_same_step(plain, other, seed)
    assert traced["stats"]["unique_graphs"] > 0


def test_a_dense_block_is_one_graph_and_shapes_become_variable_once(traced):
    _, other = both("dense")
    for seed in range(4):
        other.loss(toy_model.make_batch(LENGTHS, seed=seed))[0].backward()
    assert not traced["graph_break"]
    assert traced["stats"]["unique_graphs"] <= 4  # encoder and decoder, and each with variable T


def test_all_behind_the_pathways_is_one_graph(traced, monkeypatch):
    monkeypatch.setattr(packing, "packs", lambda *_: False)  # as on a GPU for a narrow model
    _, other = both("dense", whole=True)
    other.loss(toy_model.make_batch(LENGTHS))[0].backward()
    assert not traced["graph_break"]
    assert traced["stats"]["unique_graphs"] == 1
    traced.clear()
    with torch.no_grad():
        other.loss(toy_model.make_batch(LENGTHS, seed=1))
    other.eval().loss(toy_model.make_batch(LENGTHS, seed=2))
    assert not traced["stats"], "what does not train compiles nothing"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_a_gpu_full_contexts_are_one_graph(traced):
    """Without a mask attention is cuDNN's, and whether it is there breaks no graph."""
    _, other = both("dense", whole=True)
    batch = toy_model.make_batch((4, 4, 4, 4)).to(torch.device("cuda"))
    with torch.autocast("cuda", torch.bfloat16):
        other.cuda().loss(batch)[0].backward()
    assert not traced["graph_break"]
    assert traced["stats"]["unique_graphs"] <= 2  # the pathways' sum, and all behind it


def test_experts_on_a_cpu_break_the_graph_at_their_loop_alone(traced):
    _, other = both("lazy")
    other.loss(toy_model.make_batch(LENGTHS))[0].backward()
    assert traced["graph_break"]
    assert all("disable" in reason for reason in traced["graph_break"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of modules that inductor imports
def test_machine_code_of_inductor_trains_the_same_weights(fresh, tmp_path, monkeypatch):
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    plain, other = both("dense lazy")  # one kind of block, one graph: half a minute less
    assert_same_step(plain, other, seed=1)
    for model in (plain, other):
        trainee = Trainee(
            model=model,
            optimizer=make_adamw(model, OptimConfig()),
            loss=model.loss,
            batch=lambda step: toy_model.make_batch(LENGTHS, seed=1),
            learning_rate=lambda step: 1e-3,
        )
        assert [result.step for result in loop(trainee, steps=2)] == [1, 2]
    for one, two in zip(plain.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(two, one, atol=1e-4, rtol=1e-3)


def test_what_does_not_train_is_not_compiled(traced):
    plain, other = both("experts")
    batch = toy_model.make_batch(LENGTHS)
    for model in (plain, other):
        model.eval()
    for one, two in zip(plain(batch), other(batch), strict=True):
        assert two.equal(one)  # with gradients, in evaluation
    other.train()
    with torch.no_grad():
        other(batch)
    assert not traced["stats"]


def test_names_stay_and_a_copy_names_its_own_blocks(traced):
    plain, other = both("dense")
    assert list(other.state_dict()) == list(plain.state_dict())
    other.load_state_dict(plain.state_dict())
    twin = copy.deepcopy(other, {id(other.items): other.items})
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert_same_step(plain, other, seed=0)
    loss, _ = twin.loss(toy_model.make_batch(LENGTHS))
    assert loss.item() != pytest.approx(other.loss(toy_model.make_batch(LENGTHS))[0].item())
    assert twin.encoder[0].forward.module is twin.encoder[0]


def test_a_missing_compiler_is_said_early(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(RecipeError, match="'no-such-compiler' is not found; install g\\+\\+"):
        compiled.refuse_without_compiler(torch.device("cpu"))
    monkeypatch.setattr(compiled.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match="package triton"):
        compiled.refuse_without_compiler(torch.device("cuda"))


def test_what_cannot_be_compiled_is_one_line():
    said = r"torch.compile failed .*: first\); start a new run"
    with pytest.raises(RunError, match=said), compiled.told_of_compiler():
        raise torch._dynamo.exc.TorchDynamoException("\nfirst\nsecond")
    with pytest.raises(ValueError, match="other"), compiled.told_of_compiler():
        raise ValueError("other")


def test_log_probabilities_of_codes_are_the_same_and_have_gradients(traced):
    model, other = (toy_model.make_model(experts=0) for _ in range(2))  # in evaluation
    batch = toy_model.make_batch(LENGTHS, seed=3)
    codes = toy_model.item_codes()[torch.arange(2 * len(LENGTHS)).view(-1, 2)]
    plain = sequence_log_probs(model, batch, codes, temperature=0.5)
    made = compiled.compiled_log_probs(other, batch, codes, temperature=0.5)
    torch.testing.assert_close(made, plain, atol=1e-5, rtol=1e-5)
    plain.sum().backward()
    made.sum().backward()
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert (one.grad is None) == (two.grad is None)
        if one.grad is not None:
            torch.testing.assert_close(two.grad, one.grad, atol=1e-4, rtol=1e-4)
    assert traced["stats"]["unique_graphs"] > 0

"""The dense model: as wide as what a token goes through, and made as any other."""

import pytest
import torch
import toy_routers

from onerec.assembly import load_semantic_ids
from onerec.bench.dense import DenseSetting, sizes
from onerec.model.layers import SwiGLU


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    run, setting = toy_routers.prepare(tmp_path_factory.mktemp("dense"))
    parts = (setting.recipe, setting.dataset, setting.split, setting.features)
    ids, _ = load_semantic_ids(run)
    makes = [type(setting)(*parts), DenseSetting(*parts), DenseSetting(*parts)]
    return [one.new_model(ids, run.codebooks(), run.vectors()) for one in makes]


def test_it_is_as_wide_as_the_active_experts_and_has_no_other(models):
    mixed, dense, _ = models
    hidden = mixed.mixtures()[0].down.shape[1]
    assert not dense.mixtures()
    for block in dense.decoder:
        assert isinstance(block.ffn, SwiGLU)
        assert block.ffn.down.weight.shape == (16, 2 * hidden)
    routers = 2 * 4 * 16
    assert sizes(dense)["parameters"] == sizes(dense)["active_parameters"]
    assert sizes(dense)["parameters"] == sizes(mixed)["active_parameters"] - routers
    expert = 3 * 16 * hidden
    apart = sizes(mixed)["parameters"] - sizes(mixed)["active_parameters"]
    assert apart == 2 * (4 - 2) * expert


def test_its_weights_are_the_seeds_and_begin_as_loud_as_others(models):
    _, dense, again = models
    for one, other in zip(dense.parameters(), again.parameters(), strict=True):
        assert one.equal(other)
    down = dense.decoder[0].ffn.down.weight
    branches = 3 * len(dense.decoder)
    assert down.std().item() == pytest.approx((down.shape[1] * branches) ** -0.5, rel=0.05)


def test_it_starts_at_the_codebooks(models):
    mixed, dense, _ = models
    alike = [torch.cdist(m.codes.table.weight, m.codes.table.weight) for m in (mixed, dense)]
    torch.testing.assert_close(*alike, atol=1e-3, rtol=1e-3)  # rotated, so distances remain

"""The sections of a recipe are small, frozen and said."""

import dataclasses

import pytest

from onerec import sections

KINDS = [kind for kind in vars(sections).values() if dataclasses.is_dataclass(kind)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_section_holds_few_settings_and_is_frozen(kind):
    # a recipe is a list of sections; the model's settings are named in every run there is, and what
    # makes a training fast belongs to the training
    limit = {sections.Recipe: 17, sections.ModelConfig: 12, sections.TrainConfig: 12}
    limit |= {sections.AlignConfig: 11}  # `tilt` belongs beside `weight`
    limit = limit.get(kind, 10)
    assert len(dataclasses.fields(kind)) <= limit
    assert kind.__dataclass_params__.frozen
    assert len(kind.__doc__ or "") > 20


def test_a_recipe_has_every_section():
    held = {item.type for item in dataclasses.fields(sections.Recipe)}
    assert {kind for kind in KINDS if kind is not sections.Recipe} <= held

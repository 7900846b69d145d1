"""Arms by name, the step that is chosen, and cases in processes of their own."""

import json
import re
import subprocess
import threading

import pytest

from onerec.bench import arms
from onerec.errors import RecipeError, RunError
from onerec.pipeline.align import Valid
from onerec.recipes import recipe


def test_an_arm_is_a_set_of_changes():
    base = recipe("small", {"align.weight": "0.3"})
    found = arms.arm_recipe(base, "long_view+beam+g32@0.7@0.01", 4).align
    assert (found.reward, found.search, found.group, found.weight) == ("long_view", "beam", 32, 0.7)
    assert arms.arm_recipe(base, "beam@0.7@0.01", 4).align.learning_rate == 0.01
    assert arms.arm_recipe(base, "none", 4).align.weight == 0
    assert arms.arm_recipe(base, "pscore", 4).seed == 4
    assert arms.arm_recipe(base, "tilt2.5+beam", 4).align.tilt == 2.5


@pytest.mark.parametrize(
    ("arm", "said"),
    [
        (
            "nonsense",
            "no arm 'nonsense': 'nonsense' (did you mean 'none'?); there are none, pscore,",
        ),
        ("beam+pscor", "no arm 'beam+pscor': 'pscor' (did you mean 'pscore'?)"),
        ("tiltx", "no arm 'tiltx': 'x' is no number from 0 on"),
        ("beam@nan", "no arm 'beam@nan': 'nan' is no number from 0 on"),
        ("beam@-1", "no arm 'beam@-1': '-1' is no number from 0 on"),
        ("beam@1@2@3", "no arm 'beam@1@2@3': at most a weight and a learning rate"),
    ],
)
def test_an_unknown_arm_is_named(arm, said):
    with pytest.raises(RecipeError, match=re.escape(said)):
        arms.named_arms(f"none,{arm}")
    assert arms.named_arms("none,pscore+beam@0.3") == ["none", "pscore+beam@0.3"]


def test_the_step_is_chosen_by_reward_among_those_that_keep_their_recall():
    valid = {0: Valid(0.5, 0.9), 10: Valid(0.2, 0.3), 20: Valid(0.19, 0.5), 30: Valid(0.1, 0.6)}
    base = dict.fromkeys(valid, 0.2)
    assert arms.choose(valid, base) == 10  # 20 lost more than 2%, and 0 is no training
    assert arms.choose(valid, {**base, 20: 0.19}) == 20
    assert arms.choose(valid, dict.fromkeys(valid, 9.0)) == 10  # none keeps it: the nearest


def test_an_arm_keeps_the_weights_of_every_evaluated_step(aligned):
    import torch

    from onerec.assembly import setting_of
    from onerec.runs import open_run

    run = open_run("first", aligned)
    trained = arms.train_arm(run, setting_of(run), "none", seed=1, steps=4)
    assert set(trained.kept) == set(trained.valid) == {0, 1, 2, 3, 4}
    assert [line["step"] for line in trained.curve] == [1, 2, 3, 4]
    for step in (0, 4):
        model = trained.at(step).alignment.model
        kept = trained.kept[step]
        assert all(torch.equal(kept[name], value) for name, value in model.state_dict().items())
    first, last = (next(iter(trained.kept[step].values())) for step in (0, 4))
    assert not torch.equal(first, last)


def test_what_is_done_is_not_done_again_and_a_failure_is_told(tmp_path, monkeypatch):
    asked = []

    def run(command, check, stderr, env):
        assert check
        asked.append(command)
        case, out = command[-3], command[-1]
        if case == "bad:0":
            raise subprocess.CalledProcessError(1, command)
        arms.write_part({"case": case}, arms.Path(out))

    monkeypatch.setattr(arms.subprocess, "run", run)
    (tmp_path / "a-0.json").write_text(json.dumps({"case": "there"}))
    found = arms.in_parts("worth", ["--home", "H"], ["a:0", "b:0"], tmp_path, jobs=2)
    assert found == [{"case": "there"}, {"case": "b:0"}]
    work = ["b:0", "a:0"]
    (tmp_path / "c-0.json").write_text(json.dumps({"case": "of an earlier call"}))
    assert arms.in_parts("worth", ["--home", "H"], work, tmp_path, jobs=1, only=True) == found[::-1]
    assert len(arms.in_parts("worth", ["--home", "H"], work, tmp_path, jobs=1)) == 3
    assert [command[2:7] for command in asked] == [
        ["onerec.bench.worth", "--home", "H", "--one", "b:0"]
    ]
    with pytest.raises(subprocess.CalledProcessError):
        arms.in_parts("worth", ["--home", "H"], ["bad:0"], tmp_path, jobs=1)
    assert not list(tmp_path.glob("*.log"))  # nobody said anything
    with pytest.raises(RecipeError, match="--jobs 0: at least 1"):
        arms.in_parts("worth", ["--home", "H"], ["b:0"], tmp_path, jobs=0)


def test_parts_of_other_settings_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(arms.subprocess, "run", lambda command, check, stderr, env: None)
    (tmp_path / "a-0.json").write_text("{}")
    arms.in_parts("worth", ["--looks", "4"], ["a:0"], tmp_path, jobs=1)
    assert arms.in_parts("worth", ["--looks", "4"], ["a:0"], tmp_path, jobs=2) == [{}]
    with pytest.raises(RunError, match=r"other settings: .*\"4\".*not .*\"12\".* another --out"):
        arms.in_parts("worth", ["--looks", "12"], ["a:0"], tmp_path, jobs=1)
    with pytest.raises(RunError, match="made with other settings"):
        arms.in_parts("worth", ["--looks", "4"], [], tmp_path, 1, {"made": "x"})


def test_processes_are_dealt_to_gpus(tmp_path, monkeypatch):
    seen, both = [], threading.Barrier(2)

    def run(command, check, stderr, env):
        both.wait(timeout=30)  # two at once, so that both places are taken
        seen.append(env.get("CUDA_VISIBLE_DEVICES"))
        arms.write_part({}, arms.Path(command[-1]))

    monkeypatch.setattr(arms.subprocess, "run", run)

    def devices(name: str) -> list[str]:
        seen.clear()
        arms.in_parts("worth", [], [f"{case}:0" for case in "abcd"], tmp_path / name, jobs=2)
        return sorted(seen)

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert devices("several") == ["4", "4", "7", "7"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    assert devices("one") == ["5"] * 4
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(arms.torch.cuda, "device_count", lambda: 2)
    assert devices("all") == ["0", "0", "1", "1"]

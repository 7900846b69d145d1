"""What a stage is handed: it can say where it is, and it hears a stop."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from onerec.assembly import Setting
from onerec.pipeline.session import Session, Stopped, quiet
from onerec.run_writer import RunWriter


def test_a_session_reports_writes_and_obeys(tmp_path: Path) -> None:
    heard: list[tuple[str, int, int, dict[str, Any]]] = []

    def listen(stage: str, step: int, of: int, values: Mapping[str, Any]) -> None:
        heard.append((stage, step, of, dict(values)))

    description = {"name": "r", "recipe": {}, "seed": 0, "dataset": {}}
    with RunWriter.claim(tmp_path / "x", description) as writer:
        session = Session(writer, cast(Setting, None), torch.device("cpu"), listen)
        session.begin("tokenize", 3, "reading")
        assert session.run.status().message == "reading"
        assert session.run.status().of == 3
        session.advance("tokenize", 1, 3, loss=0.5)
        session.run.control(stop=True)
        with pytest.raises(Stopped):
            session.advance("tokenize", 2, 3)
    assert heard == [
        ("tokenize", 0, 3, {"message": "reading"}),
        ("tokenize", 1, 3, {"loss": 0.5}),
        ("tokenize", 2, 3, {}),  # heard before it stops: the step was done
    ]
    assert "tokenize: begins: reading" in writer.run.log_tail()
    assert writer.run.status().step == 2


def test_a_stage_that_goes_on_does_not_seem_to_begin_anew(tmp_path: Path) -> None:
    """The page Train once showed step 0 of a resumed training until its next step was done."""
    description = {"name": "r", "recipe": {}, "seed": 0, "dataset": {}}
    with RunWriter.claim(tmp_path / "x", description) as writer:
        session = Session(writer, cast(Setting, None), torch.device("cpu"), quiet)
        session.begin("pretrain", 200, "541,224 parameters")
        session.goes_on("pretrain", 0, 200)
        assert session.run.status().message == "541,224 parameters"
        session.goes_on("pretrain", 103, 200)
        assert (session.run.status().step, session.run.status().of) == (103, 200)
        assert session.run.status().message == "goes on from step 103"


def test_the_default_listener_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """`--json` promises one object on stdout and nothing else."""
    quiet("tokenize", 0, 1, {"message": "reading"})
    assert capsys.readouterr() == ("", "")

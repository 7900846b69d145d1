"""What commands share: one JSON object, tables, and bars that are silent without a terminal."""

import json

import pandas as pd
import pytest

from onerec.cli.show import Bars, err, print_json, print_table, say


def test_json_is_one_line_that_a_strict_reader_takes(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"title": "schön", "path": pd.Timestamp("2024-01-02")})
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert json.loads(out) == {"title": "schön", "path": "2024-01-02 00:00:00"}
    with pytest.raises(ValueError, match="JSON compliant"):
        print_json({"recall": float("nan")})


def test_say_speaks_to_people_or_to_programs(capsys: pytest.CaptureFixture[str]) -> None:
    say("run 'a' is deleted", {"deleted": "a"}, as_json=False)
    assert capsys.readouterr().out == "run 'a' is deleted\n"
    say("run 'a' is deleted", {"deleted": "a"}, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"deleted": "a"}


def test_tables_show_four_digits(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("t", pd.DataFrame({"model": ["onerec"], "recall@10": [0.123456]}))
    out = capsys.readouterr().out
    assert "0.1235" in out
    assert "0.12345" not in out


@pytest.mark.parametrize("text", ["Live [/b]", "[red]Alert", "one :star: of [many]"])
def test_text_is_shown_as_it_is(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A closing bracket without an opening one was an error, an opening one was left out."""
    print_table(text, pd.DataFrame({f"{text} header": [f"{text} cell"]}))
    shown = capsys.readouterr().out
    assert [shown.count(part) for part in (text, f"{text} header", f"{text} cell")] == [3, 1, 1]
    say(text, {}, as_json=False)
    err.print(text)
    said = capsys.readouterr()
    assert (said.out, said.err) == (f"{text}\n", f"{text}\n")


def test_what_a_stage_says_is_shown_as_it_is() -> None:
    with Bars(quiet=True) as bars:
        bars.report("run [/b]", 0, 10, {"message": "[red]begins [/b]"})
        columns = [column(bars.progress.tasks[0]) for column in bars.progress.columns]
    assert str(columns[0]).strip() == "run [/b]"
    assert str(columns[2]).endswith("[red]begins [/b]")


@pytest.mark.parametrize("quiet", [True, False])
def test_bars_are_silent_where_there_is_no_terminal(
    quiet: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with Bars(quiet) as bars:
        bars.report("pretrain", 0, 10, {"message": "begins"})
        bars.report("pretrain", 3, 10, {"loss": 1.25})
    assert bars.progress.tasks[0].completed == 3
    assert bars.progress.tasks[0].fields["note"] == "loss 1.250"
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == ""

"""Every benchmark ends a user's mistake in one line on stderr, also where a case made it."""

import argparse
import importlib
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from onerec.bench import arms, mistakes, stream
from onerec.errors import DataError, OneRecError, RecipeError, RunError

BENCH = Path(mistakes.__file__).parent
MISTAKES = {  # of each benchmark a mistake, and what is said of it; HOME is an empty folder
    "added": ("--run nope --home HOME --out OUT", "no run 'nope'"),
    "cascade": ("--runs nope --home HOME --out OUT", "no run 'nope'"),
    "cold": ("--runs nope --home HOME --out OUT", "no run 'nope'"),
    "code_quality": ("--dataset nope --home HOME --out OUT --seeds 1", "no dataset 'nope'"),
    "content": ("--dataset nope --home HOME", "no dataset 'nope'"),
    "decoding": ("--run nope --home HOME", "no run 'nope'"),
    "explanations": ("--run nope --home HOME", "no run 'nope'"),
    "frontier": ("--home HOME --out OUT", "no run 'large'"),
    "generate": ("--beams 0", "--beams 0: at least 1"),
    "industrial": ("--run nope --home HOME --out OUT", "no run 'nope'"),
    "judged": ("--log kuairand --kuairand HOME/no --home HOME --out OUT", "no"),
    "kmeans": ("--clusters 0", "0 clusters"),
    "kmeans_at_scale": ("--rows 0", "--rows 0: at least 1"),
    "lazy": ("--run nope --home HOME --out OUT", "no run 'nope'"),
    "legality": ("--run nope --home HOME --out OUT", "no run 'nope'"),
    "lifelong": ("--events 0", "--events 0: at least 1"),
    "old_interests": ("--windows 0", "--windows 0: at least 1"),
    "pathways": ("--experiment ablation --arms fulll --home HOME --out OUT", "'full'"),
    "pscore": ("--kuairand HOME/no", "HOME/no"),
    "quantisers": ("--run nope --home HOME", "no run 'nope'"),
    "rl": ("--recipe tinny", "did you mean 'tiny'"),
    "routers": ("--set model.experts --home HOME --out OUT", "'model.experts' has no '='"),
    "scaling": ("--run nope --home HOME --out OUT", "no run 'nope'"),
    "serving": ("--set align.weight", "'align.weight' has no '='"),
    "several": ("--processes 3 --home HOME --out OUT", "3 processes do not divide"),
    "sizes": ("--out HOME", "HOME"),
    "stability": ("--run nope --home HOME --out OUT", "no run 'nope'"),
    "stream": ("--run nope --home HOME --out OUT", "no run 'nope'"),
    "swing": ("--rows 0", "--rows 0: at least 1"),
    "tilts": ("--arms foo --home HOME --out OUT", "no arm 'foo'"),
    "tokenizer": ("--vectors HOME/no.npy", "HOME/no.npy"),
    "train": ("--set train.stepz=1", "did you mean 'train.steps'"),
    "train_peer": ("--rounds 0", "--rounds 0: at least 1"),
    "world": ("--kuairand HOME/no", "HOME/no: no such folder"),
    "worth": ("--arms none,foo --home HOME --out OUT", "no arm 'foo'"),
}


def with_main() -> set[str]:
    return {path.stem for path in BENCH.glob("*.py") if "\ndef main(" in path.read_text()}


def test_the_table_has_every_benchmark() -> None:
    assert set(MISTAKES) == with_main()


@pytest.mark.parametrize("name", sorted(with_main()))
def test_a_mistake_is_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, said = MISTAKES[name]
    home = tmp_path / "home"
    home.mkdir()
    places = {"HOME": str(home), "OUT": str(tmp_path / "out.json")}
    for word, place in places.items():
        words, said = words.replace(word, place), said.replace(word, place)
    code = importlib.import_module(f"onerec.bench.{name}").main(words.split())
    told = capsys.readouterr()
    assert code == 2
    assert told.err.count("\n") == 1, told.err
    assert told.err.startswith("onerec: ")
    assert said in told.err
    assert not (tmp_path / "out.json").exists()
    assert not list(tmp_path.glob("**/*.part"))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "run"), [("cascade", "--runs"), ("industrial", "--run")])
def test_a_log_has_no_truth(
    name: str,
    run: str,
    aligned: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = importlib.import_module(f"onerec.bench.{name}")
    monkeypatch.setattr(module, "in_parts", None, raising=False)  # no case is begun
    words = [run, "first", "--home", str(aligned), "--out", str(tmp_path / "out.json")]
    assert module.main(words) == 2
    told = capsys.readouterr().err
    assert told == "onerec: 'toy': a log has no truth to compare with; make a world dataset\n"


@pytest.mark.slow
def test_a_process_of_its_own_passes_its_last_line_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """For real: once a mistake there ended here in the traceback of a CalledProcessError."""
    monkeypatch.setenv("PYTHONPATH", str(BENCH.parents[1]))
    out = tmp_path / "out.json"
    words = ["--home", str(tmp_path), "--arms", "none", "--seeds", "1", "--out", str(out)]
    assert importlib.import_module("onerec.bench.worth").main(words) == 2
    told = capfd.readouterr().err
    assert told.startswith("onerec: none:0: no run 'large'")
    assert told.count("\n") == 1
    assert not out.exists()


def failing(status: int, said: str):  # type: ignore[no-untyped-def]
    """Stands for subprocess.run: a case that says so and ends with that status."""

    def run(command, check, stderr, env=None):  # type: ignore[no-untyped-def]
        stderr.write(said)
        raise subprocess.CalledProcessError(status, command)

    return run


@pytest.mark.parametrize(
    ("status", "said", "told"),
    [
        (2, "a warning\nonerec: no run 'x'\n", "onerec: a:0: no run 'x'\n"),
        (1, "Traceback\n  in f\nKeyError: 3\n", "onerec: a:0 failed: KeyError: 3; all of it in "),
        (-9, "", "onerec: a:0 failed: it said nothing and ended with status -9; the same command"),
    ],
)
def test_how_a_case_ended_is_told_and_what_it_said_is_kept(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    status: int,
    said: str,
    told: str,
) -> None:
    monkeypatch.setattr(arms.subprocess, "run", failing(status, said))

    @mistakes.told_in_a_line
    def main(argv: object = None) -> None:
        arms.in_parts("worth", [], ["a:0"], tmp_path, jobs=1)

    assert main() == (2 if status == 2 else 1)
    line = capsys.readouterr().err
    assert line.startswith(told)
    assert line.count("\n") == 1
    log = tmp_path / "a-0.log"
    assert (log.read_text() if log.exists() else "") == said
    assert (str(log) in line) == (status == 1)


def test_what_is_ours_keeps_its_traceback() -> None:
    @mistakes.told_in_a_line
    def main(argv: object = None) -> None:
        raise KeyError("ours")

    with pytest.raises(KeyError, match="ours"):
        main([])


def test_files_and_packages_that_are_missing_are_mistakes() -> None:
    said = r"^/no/such: No such file or directory$"
    with pytest.raises(DataError, match=said), mistakes.as_mistakes():
        Path("/no/such").read_text()
    with pytest.raises(DataError, match=r"^name the folder$"), mistakes.as_mistakes():
        raise FileNotFoundError("name the folder")
    said = r"^faiss is not installed; `pip install onerec\[bench\]"
    with pytest.raises(OneRecError, match=said), mistakes.as_mistakes():
        raise ModuleNotFoundError("No module named 'faiss'", name="faiss")
    with pytest.raises(ModuleNotFoundError), mistakes.as_mistakes():
        raise ModuleNotFoundError("No module named 'onerec.gone'", name="onerec.gone")


def test_a_number_below_one_is_refused() -> None:
    mistakes.refuse_below_one(argparse.Namespace(seeds=1, size=None), ["seeds", "size"])
    with pytest.raises(RecipeError, match=r"^--roma-steps 0: at least 1$"):
        mistakes.refuse_below_one(argparse.Namespace(roma_steps=0), ["roma_steps"])
    with pytest.raises(RecipeError, match=r"^--beams -1: at least 1$"):
        mistakes.refuse_below_one(argparse.Namespace(beams=[8, -1]), ["beams"])


def test_an_amount_that_is_none_is_refused() -> None:
    mistakes.refuse_no_amount(argparse.Namespace(clip=0.0, rates=[1e-3]), ["clip", "rates"])
    with pytest.raises(RecipeError, match=r"^--clip nan: a number from 0 up$"):
        mistakes.refuse_no_amount(argparse.Namespace(clip=float("nan")), ["clip"])
    with pytest.raises(RecipeError, match=r"^--roma-rate -1\.0: a number from 0 up$"):
        mistakes.refuse_no_amount(argparse.Namespace(roma_rate=[2.0, -1.0]), ["roma_rate"])
    mistakes.refuse_no_amount(argparse.Namespace(rates=[1e-9]), ["rates"], zero=False)
    with pytest.raises(RecipeError, match=r"^--rates 0\.0: a number above 0$"):
        mistakes.refuse_no_amount(argparse.Namespace(rates=[1.0, 0.0]), ["rates"], zero=False)


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("legality", "--run nope --weight nan", "--weight nan: a number from 0 up"),
        ("lazy", "--run nope --rates 1e-3 inf", "--rates inf: a number above 0"),
        ("pscore", "--trials 0", "--trials 0: at least 1"),
        ("routers", "--roma-rate -1", "--roma-rate -1.0: a number from 0 up"),
        ("scaling", "--run nope --rates 1e-3 0", "--rates 0.0: a number above 0"),
        ("scaling", "--run nope --sizes 1 2 3 -4", "--sizes -4.0: a number above 0"),
        ("scaling", "--run nope --sizes 1 2 3 nan", "--sizes nan: a number above 0"),
        ("scaling", "--run nope --tune-at 0 1", "--tune-at 0.0: a number above 0"),
        ("stability", "--run nope --clip nan", "--clip nan: a number from 0 up"),
        ("tokenizer", "--seeds 0", "--seeds 0: at least 1"),
        ("tokenizer", "--steps 0", "--steps 0: at least 1"),
        ("tokenizer", "--most-steps -1", "--most-steps -1: at least 1"),
        ("tokenizer", "--world -1", "--world -1: a number from 0 up"),
        (
            "tokenizer",
            "--world 500",
            "--world 500: of 500 rows 450 are fitted, fewer than 1,024 codes; give 1,139 or more",
        ),
        ("worth", "--home HOME --seeds 0", "--seeds 0: at least 1"),
        ("worth", "--home HOME --prepare --items 0", "--items 0: at least 1"),
    ],
)
def test_numbers_are_refused_before_anything_is_done(
    name: str, words: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once `worth --seeds 0` wrote a result of nothing, and a clip of nan trained on."""
    given = [*words.replace("HOME", str(tmp_path)).split(), "--out", str(tmp_path / "out.json")]
    assert importlib.import_module(f"onerec.bench.{name}").main(given) == 2
    assert capsys.readouterr().err == f"onerec: {said}\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["cascade", "legality", "pscore", "rl", "stability"])
def test_what_cannot_be_put_together_is_named(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module(f"onerec.bench.{name}")
    other, broken = tmp_path / "other.json", tmp_path / "broken.json"
    other.write_text(json.dumps({"rows": []}))
    broken.write_text("{")
    for path, said in (
        (other, "holds no"),
        (broken, "not readable as JSON"),
        (tmp_path / "gone.json", "no such file"),
    ):
        assert module.main(["--join", str(path), "--out", str(tmp_path / "o.json")]) == 2
        line = capsys.readouterr().err
        assert str(path) in line
        assert said in line
        assert line.count("\n") == 1
    with pytest.raises(RunError):
        mistakes.read_results([broken])


def test_sizes_that_no_law_can_be_fitted_to_are_refused_before_they_are_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--run", "r", "--sizes", "1", "2", "4", "4", "--out", str(tmp_path / "out.json")]
    assert importlib.import_module("onerec.bench.scaling").main(words) == 2
    assert "onerec: --sizes: four or more" in capsys.readouterr().err


def test_a_stream_passes_its_last_line_on(
    aligned: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from onerec.runs import open_run

    def ended(status: int, said: str):  # type: ignore[no-untyped-def]
        return lambda *_, **__: subprocess.CompletedProcess([], status, "", said)

    run = open_run("first", aligned)
    monkeypatch.setattr(stream.subprocess, "run", ended(2, "a warning\nonerec: share=2\n"))
    with pytest.raises(RunError, match=r"^stream 'bench-all-0': share=2$"):
        stream.play(run, ["all"], 1, [], jobs=1)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(stream.subprocess, "run", ended(1, "Traceback\nKeyError: 3\n"))
    with pytest.raises(RunError, match=r"^stream 'bench-all-0': KeyError: 3$"):
        stream.play(run, ["all"], 1, [], jobs=1)
    assert "Traceback" in capsys.readouterr().err


def test_results_that_do_not_belong_together_are_named() -> None:
    paths = [Path("a.json"), Path("b.json")]

    def refuse(first: dict[str, object], second: dict[str, object]) -> None:
        mistakes.refuse_unlike(paths, [first, second], ["rows"], other_than="seed")

    refuse({"rows": 3, "seed": 0}, {"rows": 3, "seed": 1})
    with pytest.raises(DataError, match=r"^b\.json: rows is 4, and 3 in a\.json; join results"):
        refuse({"rows": 3, "seed": 0}, {"rows": 4, "seed": 1})
    with pytest.raises(DataError, match=r"^b\.json: seed 0 is in a\.json too; give it once$"):
        refuse({"rows": 3, "seed": 0}, {"rows": 3, "seed": 0})
    with pytest.raises(DataError, match=r"^b\.json: holds no 'seed'"):
        refuse({"rows": 3, "seed": 0}, {"rows": 3})


def test_a_result_that_has_no_place_is_refused_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = []
    main = mistakes.told_in_a_line(done.append)
    file = tmp_path / "file"
    file.write_text("")
    for words, said in (
        (["--out", str(tmp_path)], f"--out {tmp_path}: is a folder; name a file in it"),
        ([f"--out={tmp_path}"], f"--out {tmp_path}: is a folder; name a file in it"),
        (["--out", f"{file}/a/b"], f"--out {file}/a/b: {file} is a file, no folder"),
    ):
        assert main(words) == mistakes.MISTAKE
        assert capsys.readouterr().err == f"onerec: {said}\n"
    assert not done
    for fine in ([], ["--out"], ["--out", str(file)], ["--out", str(tmp_path / "new" / "x.json")]):
        assert main(fine) == 0
    assert len(done) == 4


def test_a_device_that_is_not_there_is_told_in_the_words_of_the_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def main(words: Sequence[str] | None) -> int:
        raise RecipeError("no device; use --set device=cpu")

    told = mistakes.told_in_a_line(main)
    for words, said in ((["--device", "cuda"], "--device cpu"), (["-x"], "--set device=cpu")):
        assert told(words) == mistakes.MISTAKE
        assert capsys.readouterr().err == f"onerec: no device; use {said}\n"

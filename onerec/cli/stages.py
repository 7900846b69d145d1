"""`onerec run` and the stages, one command each."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from onerec.cli.show import Bars, JsonFlag, err, out, print_json, print_table, say
from onerec.errors import DataError, RecipeError, first_line

if TYPE_CHECKING:
    import pandas as pd

    from onerec.business_rules import Rules
    from onerec.train.distributed import Processes

RunName = Annotated[str, typer.Option("--run", help="Name of the run.")]
RecipeName = Annotated[str | None, typer.Option("--recipe", help="tiny, small, beauty, ...")]
DatasetName = Annotated[str | None, typer.Option("--dataset", help="Name of a dataset.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting.")
]
Parallel = Annotated[
    str | None, typer.Option("--parallel", help="Under torchrun: ddp (the default) or fsdp.")
]
MicroBatches = Annotated[
    int, typer.Option("--micro-batches", help="Parts of a batch, worked out in turn.")
]

app = typer.Typer()


def _shared_command(name: str, stage: str, text: str) -> None:
    """A command whose pre-training several processes may share."""

    def command(
        run: RunName,
        recipe: RecipeName = None,
        dataset: DatasetName = None,
        settings: Settings = None,
        parallel: Parallel = None,
        micro_batches: MicroBatches = 1,
        as_json: JsonFlag = False,
    ) -> None:
        how = (parallel, micro_batches)
        _run_stages(stage, run, recipe, dataset, settings, as_json, how)

    command.__doc__ = text
    app.command(name)(command)


def _stage_command(stage: str, text: str) -> None:
    def command(
        run: RunName,
        recipe: RecipeName = None,
        dataset: DatasetName = None,
        settings: Settings = None,
        as_json: JsonFlag = False,
    ) -> None:
        _run_stages(stage, run, recipe, dataset, settings, as_json)

    command.__doc__ = text
    app.command(stage)(command)


_shared_command(
    "run",
    "recommend",
    """All stages: tokenize, pretrain, reward, align, evaluate with baselines, recommend.

    Started by torchrun (see pretrain), processes share pre-training; the first does the rest.
    """,
)
_stage_command("tokenize", "Items become semantic IDs.")
_shared_command(
    "pretrain",
    "pretrain",
    """Train OneRec on next tokens.

    On several devices: torchrun --nproc-per-node 2 -m -- onerec pretrain --run NAME ... (without
    the two dashes torchrun may take --run for its own).
    """,
)
_stage_command("reward", "Train the P-Score that scores what the policy generates.")
_stage_command("align", "Align the policy with the reward while next-token training goes on.")
_stage_command("evaluate", "Measure OneRec beside its baselines; prints evaluate.json.")


@app.command("recommend")
def recommend_command(
    run: RunName,
    user: Annotated[list[str] | None, typer.Option(help="A user's id; may be repeated.")] = None,
    k: Annotated[int, typer.Option(help="Items per user.")] = 10,
    everyone: Annotated[bool, typer.Option("--all", help="All users, into --out.")] = False,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="Parquet file for --all; goes on after a stop.")
    ] = None,
    compiled: Annotated[
        bool,
        typer.Option("--compile", help="With --all on a GPU: for large models and many users."),
    ] = False,
    without_tag: Annotated[
        list[str] | None, typer.Option(help="With --user: a tag that is off; may be repeated.")
    ] = None,
    per_author: Annotated[
        int, typer.Option(help="With --user: items of one author at most; 0 for no limit.")
    ] = 0,
    new_items: Annotated[
        Path | None,
        typer.Option(help="With --user: a CSV or Parquet file of items that came after training."),
    ] = None,
    recipe: RecipeName = None,
    dataset: DatasetName = None,
    settings: Settings = None,
    as_json: JsonFlag = False,
) -> None:
    """Recommend for one user, for all, or write recommendations.parquet for the test users.

    Lists of --user and --all follow all that a user did. Those in
    recommendations.parquet, which the page Recommend of `onerec app` shows,
    stop before the events that are held out.
    """
    if (without_tag or per_author or new_items) and not user:
        raise RecipeError(
            "--without-tag, --per-author and --new-items shape the lists of --user; name a user"
        )
    if (user or everyone or out_file is not None) and (recipe or dataset or settings):
        raise RecipeError(
            "--recipe, --dataset and --set make the stage of a run; with --user or --all a run "
            "answers as it was trained: leave them out"
        )
    if everyone or out_file is not None:
        if not everyone or out_file is None or user:
            raise RecipeError("--all and --out FILE go together, without --user")
        _recommend_all(run, out_file, k, as_json, compiled)
        return
    if compiled:
        raise RecipeError("--compile goes with --all: for a few users it would only be a wait")
    if not user:
        _run_stages("recommend", run, recipe, dataset, settings, as_json)
        return
    _recommend_users(run, user, k, without_tag or [], per_author, new_items, as_json)


def _recommend_users(
    run: str,
    users: list[str],
    k: int,
    without_tags: list[str],
    per_author: int,
    new_items: Path | None,
    as_json: bool,
) -> None:
    from onerec.recommend import Recommender

    recommender, new, asked = Recommender.load(run), None, list(dict.fromkeys(users))
    if new_items is not None:
        new = _new_items(new_items)
        recommender = recommender.with_items(new)
    rules = _rules(recommender.items, without_tags, per_author)
    frame = recommender.recommend(asked, k, rules=rules)
    if new is not None:
        frame.attrs["notes"] += _joined(run, new, frame, k, len(asked))
    _tell_lists(frame, recommender.items, as_json)


def _joined(run: str, new: "pd.DataFrame", frame: "pd.DataFrame", k: int, users: int) -> list[str]:
    """What became of new items: how many came up, and which had no text."""
    from onerec.new_items import in_words, textless
    from onerec.runs import open_run

    found = int(new["item_id"].astype(str).isin(frame["item_id"].astype(str)).sum())
    came = {0: "none is", 1: "1 is"}.get(found, f"{found} are")
    of = f" of these {users} users" if users > 1 else ""
    joined = f"{in_words(len(new))} joined the trie; {came} in the first {k}{of}"
    return [joined, *textless(open_run(run), new)]


def _tell_lists(frame: "pd.DataFrame", items: "pd.DataFrame", as_json: bool) -> None:
    """Print lists of users with the items' titles, and what there is to note."""
    notes = frame.attrs["notes"]
    names = [name for name in ("title", "caption") if name in items.columns] or ["item_id"]
    titles = items[names].astype("string").bfill(axis=1).iloc[:, 0].fillna("")
    frame.insert(4, "title", titles[frame["item"]].to_numpy())
    if as_json:
        rows = json.loads(frame.to_json(orient="records"))
        print_json({"recommendations": rows, "notes": notes})
        return
    for user_id, rows in frame.groupby("user_id", sort=False):
        print_table(f"user {user_id}", rows[["rank", "item_id", "title", "score"]])
    for note in notes:
        err.print(note, highlight=False)


def _new_items(path: Path) -> "pd.DataFrame":
    """The rows of a file; DataError where it cannot be read."""
    import pandas as pd

    try:
        return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise DataError(
            f"--new-items {path}: {first_line(error)}; give a CSV or Parquet file with a row for "
            "each new item: item_id, and the columns of text that the dataset's items have"
        ) from error


def _rules(items: "pd.DataFrame", without_tags: list[str], per_author: int) -> "Rules | None":
    """What may stand in the lists; DataError for a tag that no item has."""
    from onerec.business_rules import Rules, column

    for tag in without_tags:
        if Rules(without={"tags": [tag]}).allowed(items).all():
            usual = column(items, "tags").explode().value_counts().index[:10].astype(str)
            text = f"--without-tag {tag}: no item has it; the most used are {', '.join(usual)}"
            raise DataError(text)
    if not (without_tags or per_author):
        return None
    return Rules(without={"tags": without_tags} if without_tags else {}, per_author=per_author)


def _recommend_all(run: str, path: Path, k: int, as_json: bool, compiled: bool) -> None:
    """All users' lists into a file, with progress; by the processes of torchrun, if there are."""
    from onerec.pipeline.everyone import recommend_all
    from onerec.train.distributed import joined

    before = path.is_file()
    with joined() as processes, Bars(quiet=as_json or not processes.leads) as bars:
        written = recommend_all(
            run,
            path,
            k=k,
            tell=lambda done, of: bars.report("recommend", done, of, {}),
            processes=processes,
            compiled=compiled,
        )
    if not processes.leads:
        return
    resumed = f", {written.before:,} of them from an earlier call" if written.before else ""
    anew = ", in place of the file that was there" if before else ""
    text = f"{written.rows:,} rows for {written.users:,} users{resumed}: {written.path}{anew}"
    say(text, {**vars(written), "path": str(written.path)}, as_json)


def _run_stages(
    stage: str,
    name: str,
    recipe_name: str | None,
    dataset: str | None,
    settings: list[str] | None,
    as_json: bool,
    how: tuple[str | None, int] = (None, 1),
) -> None:
    """Do a stage and print how it went; `how` is the way of several processes and their parts."""
    from onerec.pipeline import follow
    from onerec.train.distributed import joined

    with joined(*how) as processes:
        if processes.leads:
            _lead(stage, name, recipe_name, dataset, settings, as_json, processes)
        else:
            follow(name, processes)


def _lead(
    stage: str,
    name: str,
    recipe_name: str | None,
    dataset: str | None,
    settings: list[str] | None,
    as_json: bool,
    processes: "Processes",
) -> None:
    from onerec.pipeline import run_stage
    from onerec.recipes import parse_overrides, recipe

    if settings and recipe_name is None:
        raise RecipeError("--set changes a recipe: name it with --recipe as well")
    chosen = recipe(recipe_name, parse_overrides(settings or [])) if recipe_name else None
    begun = time.perf_counter()
    with Bars(quiet=as_json) as bars:
        finished = run_stage(
            stage,
            name,
            recipe=chosen,
            dataset=dataset,
            report=bars.report,
            processes=processes,
        )
    status = finished.status()
    if as_json:
        measured = finished.evaluate() if finished.is_done("evaluate") else None
        if stage == "evaluate" and measured is not None:
            print_json(measured)
            return
        summary: dict[str, Any] = {
            "run": finished.name,
            "path": str(finished.path),
            "state": status.state,
            "wall_seconds": round(time.perf_counter() - begun, 2),
        }
        print_json(summary | ({"evaluate": measured} if measured else {}))
        return
    err.print(f"run {finished.name!r}: {status.state} ({finished.path})")
    if stage == "tokenize":
        from onerec.explain.contents import left_out

        for line in left_out(finished):
            err.print(line, markup=False)
    if stage == "recommend":
        one = f"`onerec recommend --run {finished.name} --user ID` shows one person's"
        err.print(f"lists of the test users: {finished.path}/recommendations.parquet; {one}")
    if finished.is_done("evaluate"):
        from onerec.explain.serving import metrics

        wide = metrics(finished).pivot_table(index="model", columns="metric", values="value")
        shown = wide[["recall@10", "ndcg@10", "coverage@10"]]  # what fits a narrow terminal
        print_table("evaluation", shown.sort_values("recall@10", ascending=False).reset_index())


@app.command("recipes")
def recipes_command(
    names: Annotated[list[str] | None, typer.Argument(help="Whose settings to show.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Recipes and their settings: those named, else those for data at hand (--json: all)."""
    from onerec.recipes import BY_DATA, RECIPES, recipe, to_dict
    from onerec.run_files import flatten

    if as_json:
        print_json({name: to_dict(recipe(name)) for name in names or RECIPES})
        return
    shown = names or list(BY_DATA)
    flat = [flatten(to_dict(recipe(name))) for name in shown]
    table = Table("setting", *shown)
    for setting in flat[0]:
        table.add_row(setting, *(values[setting] for values in flat))
    out.print(table)
    if others := [name for name in RECIPES if name not in shown]:
        out.print(f"also: {', '.join(others)}")

"""What the page Tokenizer is made of: its map, its codebooks, and quantisers side by side.

What takes a minute (UMAP, the comparison) is computed by a process of its own that keeps its result
in the run's cache; until then the page says what there is, and offers to start it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cache
import jobs
import pandas as pd
import places
import selection
import streamlit as st
import tasks
import widgets

from onerec import plain
from onerec.explain import contents, item_map, quantisers, tokens
from onerec.runs import Run
from onerec.viz import code_space
from onerec.viz import quantisers as draw_quantisers
from onerec.viz import tokens as draw

COLOURS = {"First code": "code_1", "Popularity": "popularity", "Items per name": "leaf_size"}
LAYOUTS = ("Principal components", "UMAP")
MEASURES = {"Spread left": "spread_left", "Entropy": "entropy_nats", "Codes in use": "utilisation",
            "Dead codes": "dead_codes"}  # fmt: skip
SEEDS = 3
WHOLE = 0.9995  # of the variance: told as 100.0%


class Cached(Run):
    """A run whose stamp also changes with the results in its cache, so that pictures follow."""

    def stamp(self) -> str:
        kept = sorted(self.path.glob("cache/*.json"))
        times = (f"{path.name}:{path.stat().st_mtime_ns}" for path in kept)
        return "|".join([super().stamp(), *times])


def the_map(view: selection.Selection, run: Run, pick: Callable[..., None]) -> pd.DataFrame:
    """The items on a map, by principal components at once or by UMAP when its worker is done."""
    colour = COLOURS[widgets.options("Colour", list(COLOURS), "tokens_colour")]
    layout = widgets.options("Laid out by", LAYOUTS, "tokens_layout")
    own = Cached(run.path)
    drawing = {"colour": colour, "chosen": view.item} | ({"code": view.code} if view.code else {})
    if view.code:
        _say_of_code(run, view.code)
    if layout == "UMAP":
        if not cache.read(item_map.umap, own)[0].empty:
            return widgets.show(
                own, item_map.umap, code_space.umap, key=f"umap_{colour}",
                command=places.command(f"map --run {run.name}", run), drawing=drawing,
                pick=pick, lasso=True, say="Dots that lie near each other have similar content. "
                "How far groups lie apart says little.",
            )  # fmt: skip
        tasks.task(view, run, "umap", {})
    whole = sum(cache.read(tokens.projection, run)[1]) > WHOLE
    return widgets.show(
        run, tokens.projection, draw.projection, key=f"map_{colour}",
        command=places.command(f"runs show {run.name} --json", run), drawing=drawing,
        pick=pick, lasso=True,
        say="Each dot is an item. These two axes hold "
        + ("all that tells items apart." if whole else "only a part of what tells items apart, so "
           "neighbours here need not be alike: UMAP keeps more of them."),
    )  # fmt: skip


def _say_of_code(run: Run, code: tuple[int, ...]) -> None:
    """How many items the chosen code is the beginning of: they have rings on the map."""
    name, count = " · ".join(map(str, code)), len(cache.read(tokens.items_of_code, run, code))
    if count:
        st.caption(f"Code {name} is chosen: {count:,} item{'s' * (count > 1)}, in small rings. "
                   "**Tree** lists them.")  # fmt: skip
    else:
        st.info(f"No item's name begins with {name}.", icon=":material/hourglass_empty:")


def codebooks(run: Run, command: str) -> None:
    """Use, entropy, what is left, and the dead codes, level by level."""
    grid = st.grid(2, min_column_width=340)
    for read, figure, say in (
        (tokens.levels, draw.utilisation, "A code that no item has is wasted."),
        (tokens.levels, draw.entropy, "How evenly items spread over the codes of a level; the line "
         "is a perfectly even spread."),
        (tokens.levels, draw.residuals, "How much of what tells items apart is in the codes."),
        (tokens.rank_frequency, draw.rank_frequency, "The codes of a level from the most to the "
         "least used: the flatter the line, the more even the use."),
    ):  # fmt: skip
        with grid.cell():
            widgets.show(run, read, figure, key=figure.__name__, command=command, say=say)
    column = st.column_config.NumberColumn
    widgets.table(
        cache.read(tokens.levels, run).drop(columns=["utilisation", "entropy_share"]).round(4),
        key="levels", title="Level by level",
        column_config={
            "size": column("of N"), "dead_codes": column("dead"),
            "entropy_nats": column("entropy", help="in nats"), "max_entropy_nats": column("ln N"),
            "perplexity": column(format="%.1f", help="As many equally used codes: exp(entropy)"),
            "residual_norm": column("residual norm"),
            "variance_explained": column("explained", format="percent"),
        },
    )  # fmt: skip
    dead = cache.read(tokens.dead_codes, run)
    if dead.empty:
        st.success(
            "No code is dead: each is the code of some item.", icon=":material/check_circle:"
        )
    else:
        title = f"{int(dead['dead'].sum()):,} codes are dead: no item has them"
        widgets.table(dead, key="dead_codes", title=title)
    _contents(run)


def _contents(run: Run) -> None:
    """What the codes were made from, and which items lack it."""
    read = cache.read(contents.sources, run)
    column = st.column_config.NumberColumn
    widgets.table(
        read.replace({"reads": {"": None}}).dropna(axis=1, how="all"),
        key="contents", title="What the codes are made from",
        column_config={
            "width": column(help="Numbers of a token"),
            "weight": column(help="Its part in the vector that is quantised"),
            "tokens": column(help="Of all items together"),
            "items_without": column("items without", help="Items that have nothing of this source: "
                                    "they stand where the others' mean is"),
            "images_read": column("images read"), "images_left_out": column("images left out"),
            "first_left_out": "the first left out", "left_out_of": "items that lack one",
        },
    )  # fmt: skip
    if lacking := cache.read(contents.left_out, run):
        lines = "".join(f"\n- {plain.text(line)}" for line in lacking)
        st.markdown(f"**What they are made without**\n{lines}")


def picked(points: list[dict[str, Any]]) -> list[int]:
    """Items that were clicked or drawn around; their rings, which stand on them, say no number."""
    numbers = (int(point["customdata"][0]) for point in points if point.get("customdata"))
    return list(dict.fromkeys(numbers))


def circled(run: Run, points: pd.DataFrame) -> None:
    """The items that the last line was drawn around: do neighbours on the map share codes?"""
    name, chosen = st.session_state.get("circled", ("", []))
    if name != run.name or not chosen:
        return
    found = points[points["item"].isin(chosen)].drop(columns=["x", "y"])
    counts = found["code_1"].value_counts()
    most = f"{counts.iloc[0]:,} of them have the first code {counts.index[0]}"
    items(found, key="circled_items", title=f"{len(found):,} items in your selection; {most}")
    st.button("Forget these items", icon=":material/close:", on_click=st.session_state.pop,
              args=("circled",))  # fmt: skip


def items(frame: pd.DataFrame, *, key: str, title: str) -> None:
    """Items with their codes, under words for the columns."""
    codes = [name for name in frame.columns if name.startswith("code_")]
    widgets.table(
        frame, key=key, title=title,
        column_config={name: name.replace("_", " ") for name in codes} | {
            "item_id": "id in the data",
            "leaf_size": st.column_config.NumberColumn("items of this name",
                                                       help="1: the name is this item's alone"),
            "popularity": st.column_config.NumberColumn(help="Its positive rows in the training "
                                                        "part"),
        },
    )  # fmt: skip


def side_by_side(view: selection.Selection, run: Run) -> None:
    """Quantisers on the same items: what they lose, how they use codes, what codes mean."""
    own = Cached(run.path)
    known, count = cache.read(quantisers.facts, own), len(run.semantic_ids())
    if count < quantisers.LEAST:
        st.info(f"A comparison leaves items out, so it needs {quantisers.LEAST}; here are {count}.",
                icon=":material/hourglass_empty:")  # fmt: skip
        return
    measured = known and known["seeds"] >= SEEDS
    if not measured or jobs.status(jobs.task_folder(run, "quantisers")).busy:
        tasks.task(view, run, "quantisers", {"seeds": SEEDS})
    if not known:
        return
    kind = draw_quantisers.NAMES.get(str((run.report() or {}).get("quantiser")), "another")
    st.caption(
        f"This run's own quantiser is {kind}. {known['items']:,} items of width {known['dim']}, "
        f"{known['levels']} levels of {known['size']} codes each, "
        f"{known['seeds']} seed{'s' * (known['seeds'] > 1)}; the "
        f"RQ-VAE learns for {known['steps']:,} steps. Each kind is fitted on all items, where the "
        "run's own tokenizer keeps to those that its split allows, and once more without a fifth "
        "of them, whose error stands under new. RQ-Kmeans takes the nearest code level by "
        "level. Refined: its levels are then fitted to each other, and an item looks several codes "
        "ahead. Balanced: each code of a level has as many items. RQ-VAE: a network learns codes "
        "and reconstruction together. Drawn by lot: the codes are items drawn by chance, and "
        "an item takes the nearest: nothing is learned."
    )
    command = places.command(f"bench quantisers --run {run.name} --seeds {SEEDS}", run)
    widgets.show(
        own, quantisers.compared, draw_quantisers.losses, key="quantiser_losses", command=command,
        say="Lower is better. New items were left out of a second fit: where they are much worse "
        "than the fitted ones, the quantiser has learned its items by heart.",
    )  # fmt: skip
    measure = MEASURES[widgets.options("By level", list(MEASURES), "quantiser_measure")]
    widgets.show(
        own, quantisers.by_level, draw_quantisers.by_level, key=f"quantiser_{measure}",
        command=command, drawing={"measure": measure},
    )  # fmt: skip
    frame = cache.read(quantisers.compared, own)
    if frame["purity"].notna().any():
        widgets.show(
            own, quantisers.compared, draw_quantisers.purity, key="quantiser_purity",
            command=command, say="Do items of one first code belong together? Chance is high where "
            "codes hold few items, so look at the difference.",
        )  # fmt: skip
    _collisions(frame)


def _collisions(frame: pd.DataFrame) -> None:
    percent = st.column_config.NumberColumn
    shown = frame[["kind", "loss", "held_out_loss", "share_sharing", "purity", "seconds"]]
    widgets.table(
        shown.assign(kind=[draw_quantisers.NAMES[kind] for kind in shown["kind"]]),
        key="quantisers", title="In numbers, means over the seeds",
        column_config={
            "loss": percent("error, fitted", format="percent"),
            "held_out_loss": percent("error, new", format="percent"),
            "share_sharing": percent("share a name", format="percent",
                                     help="Items whose whole code another item has too"),
            "purity": percent(format="percent"),
            "seconds": percent("seconds of CPU", format="%.2f"),
        },
    )  # fmt: skip

"""Tokenizer: how items become code words, and how well the codebooks are used."""

import cache
import places
import selection
import streamlit as st
import token_parts
import widgets

from onerec import plain
from onerec.explain import dataset as explain_dataset
from onerec.explain import tokens
from onerec.viz import tokens as draw

VIEWS = ("Map", "Tree", "Codebooks", "Shared names", "Quantisers")
WEIGHTS = {"Number of items": "items", "Popularity": "popularity"}

view = widgets.head(
    "How items become code words",
    "Each item is named by a few codes, coarse to fine. Are all codes used, do different items get "
    "different names, and do similar items get similar ones?",
    words=(
        "code", "codebook", "centroid", "entropy", "k-means", "level", "nats", "perplexity",
        "popularity", "principal components", "purity", "quantiser", "relative error",
        "residual", "RQ-Kmeans", "RQ-VAE", "semantic ID", "UMAP", "utilisation", "vector",
    ),
)  # fmt: skip
run = widgets.needs_run(view, "tokenize")
command = places.command(f"runs show {run.name} --json", run)


def pick_items(points: list[dict]) -> None:
    """A click on the map selects that item everywhere; a line drawn around some lists them."""
    items = token_parts.picked(points)
    st.session_state["circled"] = (run.name, items if len(items) > 1 else [])
    if len(items) == 1:
        selection.choose(item=items[0])


def pick_code(points: list[dict]) -> None:
    """A click in the tree selects that code, and the item where it is one.

    An icicle's event has no customdata; the id is the path, as in `all/3/1/item 7`.
    """
    path = points[0]["id"].split("/")[1:]
    if path[-1:] == ["other"]:  # no code of its own: the tree is drawn anew, closed
        st.session_state["trees"] = st.session_state.get("trees", 0) + 1
        named = sum(part.isdigit() for part in path) == facts["words"]  # items, not codes
        st.toast("That box is many items of one name. Below the tree is a list of them." if named
                 else "That box is many small codes. To look inside one, write its code under "
                 "Code, at the side.", icon=":material/touch_app:")  # fmt: skip
        return
    selection.choose(code="-".join(part for part in path if part.isdigit()) or None)
    if path and path[-1].startswith("item "):
        selection.choose(item=int(path[-1].removeprefix("item ")))


facts = cache.read(tokens.names, run)
levels = cache.read(tokens.levels, run)
with st.grid(4, min_column_width=130):
    st.metric("Code words an item", facts["words"], border=True,
              help="One of each level; together they are its name, or semantic ID")  # fmt: skip
    st.metric("Codes in use", f"{levels['utilisation'].mean():.0%}", border=True,
              help="Of all codes that there are, those that some item has")  # fmt: skip
    st.metric("Items that share a name", f"{facts['share_sharing']:.1%}", border=True,
              help="All their codes are the same: the model cannot tell them apart")  # fmt: skip
    st.metric("Largest shared name", f"{facts['largest']:,}", border=True,
              help="So many items have the fullest name; 1: no name is shared")  # fmt: skip
if facts["touched"]:
    st.caption(f"`tokenizer.policy={facts['policy']}` gave {facts['touched']:.1%} of the items "
               "other codes than the quantiser did, so that fewer share a name.")  # fmt: skip

part = widgets.options("Show", VIEWS, "tokens_view")
if part == "Map":
    points = token_parts.the_map(view, run, pick_items)
    token_parts.circled(run, points)
    if view.item is None:
        st.info(
            "Click a point to see the item's codes and its neighbours. To list several, take the "
            "lasso or the box from the map's toolbar and draw around them.",
            icon=":material/ads_click:",
        )  # fmt: skip
    else:
        title = explain_dataset.titles(run.dataset_folder, [view.item])[0]
        codes = " · ".join(map(str, cache.read(tokens.codes_of, run, view.item)))
        st.header(f"{plain.text(title) or f'item {view.item}'}  :blue-badge[{codes}]")
        widgets.show(
            run, tokens.residual_walk, draw.residual_walk,
            key="walk", command=command, reading={"item": view.item},
            say="Each code says a part of what is still unsaid about the item. Many items share a "
            "code, so it is right on average: for one item it may also say too much.",
        )  # fmt: skip
        widgets.show(
            run, tokens.neighbours, draw.neighbours,
            key="neighbours", command=command, reading={"item": view.item, "k": 10},
            drawing={"title": title},
        )  # fmt: skip
elif part == "Tree":
    prefix = view.code or ()
    weight = WEIGHTS[widgets.options("Size by", list(WEIGHTS), "tree_weight")]
    widgets.show(
        run, tokens.code_tree, draw.code_tree,
        key=f"tree{st.session_state.get('trees', '')}", command=command, pick=pick_code,
        reading={"prefix": prefix, "weight": weight, "chosen": view.item},
        drawing={"weight": weight},
        say="Read it from left to right: first code, second code, and so on, down to the items. "
        "Click a box to look inside it. The box of the other codes is no larger than its largest "
        "neighbour; to look inside one of them, write its number under Code, at the side.",
    )  # fmt: skip
    first = () if prefix or view.item is None else cache.read(tokens.codes_of, run, view.item)[:1]
    if first:
        st.button(f"Look inside code {first[0]}, where the chosen item is",
                  icon=":material/arrow_forward:", on_click=selection.choose,
                  kwargs={"code": str(first[0])})  # fmt: skip
    if prefix:
        st.button("Back to the whole tree", icon=":material/undo:", on_click=selection.choose,
                  kwargs={"code": None})  # fmt: skip
        items = cache.read(tokens.items_of_code, run, prefix)
        name = " · ".join(map(str, prefix))
        if items.empty:
            st.info(f"No item's name begins with {name}.", icon=":material/hourglass_empty:")
        else:
            title = f"{len(items):,} item{'s' * (len(items) > 1)} with a name that begins {name}"
            token_parts.items(items, key="items_of_code", title=title)
elif part == "Codebooks":
    token_parts.codebooks(run, command)
elif part == "Quantisers":
    token_parts.side_by_side(view, run)
else:
    widgets.show(run, tokens.leaf_sizes, draw.leaf_sizes, key="leaves", command=command)
    shared = cache.read(tokens.shared_leaves, run)
    if shared.empty:
        st.success("Every item has a name of its own.", icon=":material/check_circle:")
    else:
        widgets.table(
            shared, key="shared", title="Names that several items share",
            column_config={"codes": "name", "leaf_size": "items", "item_ids": "ids in the data"},
        )  # fmt: skip

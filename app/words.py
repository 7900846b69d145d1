"""The field's words, each in a plain sentence: a page lists those that stand on it.

Pages are for people who have read no paper, and words of one's own for what has a name would leave
them unable to read the next book. So the names stay, and what they mean is one click away.
"""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

TERMS = {
    "advantage": "How much better an item did than the others of its group, on a common scale.",
    "alignment": "Training by rewards, after the model has learned to imitate what people did.",
    "attention": "How much of each event the model mixes in when it writes a code. It is a cheap "
    "guess at what mattered, not a proof.",
    "baseline": "A simpler method on the same data: what the model must beat to be worth its cost.",
    "batch": "The examples that are learned from together in one step.",
    "beam": "The most probable beginnings of names that the search keeps at each level.",
    "behaviour": "What a person can do with an item: watch it long, like it, follow, share.",
    "centroid": "The vector that a code stands for: the mean of the items that have it.",
    "clipping": "A limit on how far one item may push the model in one step.",
    "code": "One word of an item's name: a number that similar items share.",
    "codebook": "All codes of one level, each with the vector that it stands for.",
    "collapse": "One expert or code gets nearly everything, so the others never learn.",
    "coverage": "The share of the catalogue that stands in somebody's list.",
    "ECPO": "OneRec's rule for learning from rewards: GRPO whose push away from bad items is "
    "bounded early, so that it cannot explode.",
    "entropy": "How evenly items spread over codes, in nats; at most ln N, where all N codes have "
    "as many.",
    "expert": "One of several small networks of a layer; each token goes through a few of them.",
    "FLOPs": "Additions and multiplications of numbers: the work that a computer has with it.",
    "gradient": "Which way, and how fast, an answer changes when an input changes a little.",
    "group": "The items that the model draws for one person at once, compared with one another.",
    "GRPO": "Learning from rewards by comparing the items of a group, without a model of values.",
    "held out": "Kept from training, to see later whether the model would have guessed it.",
    "importance ratio": "How much likelier an item is for the model now than when it was drawn.",
    "interval": "Where the true value lies, most likely (95%): what was measured has noise.",
    "k-means": "Points are dealt to the nearest centre, each centre moves to the mean of its "
    "points, and again until nothing moves.",
    "KL": "How far one set of probabilities is from another, in nats; 0 where they are the same.",
    "learning rate": "How far the model moves in one step.",
    "level": "The place of a code in a name: the first is the coarsest.",
    "ln p": "The logarithm of a probability: 0 is certain, more negative is less likely.",
    "load": "How many tokens an expert gets.",
    "log-probability": "Of a probability p, ln p: 0 is certain, more negative is less likely.",
    "loss": "How surprised the model is by what really came next; it learns by lowering it.",
    "MaxVio": "How far the busiest expert is above the mean: load / mean - 1. 0 is even.",
    "MFU": "The share of what the computer could calculate that went into the model.",
    "nats": "A measure of surprise: what has probability p is worth -ln p nats; a bit is 0.69 of "
    "them.",
    "ndcg@10": "As recall@10, but an item counts more the higher it stands.",
    "P-Score": "One number for how much a person would like an item, out of all behaviours that "
    "were foretold.",
    "perplexity": "As many equally used codes would be just as even: exp(entropy).",
    "policy": "The model as it chooses: with which probability it would recommend what.",
    "popularity": "How often an item was taken in the part of the log that is learned from.",
    "prefix": "The beginning of a name: its first code, or its first two.",
    "principal components": "The directions in which the vectors differ most. A map of the first "
    "two shows only their share of it.",
    "purity": "The share of items whose category is the commonest of their first code.",
    "quantiser": "What turns a vector into codes.",
    "recall@10": "The share of what people really went on to take that stands in their first ten.",
    "recipe": "All settings of a run under one name.",
    "relative error": "What the codes leave unsaid, as a share of how much items differ at all.",
    "residual": "What is still unsaid about an item: its vector less those of its codes so far.",
    "reward": "What says how good a generated item was.",
    "round": "One turn of the loop: serve, collect what people did, learn, serve again.",
    "router": "What decides which experts a token goes to.",
    "RQ-Kmeans": "K-means level by level, each on what the levels before left unsaid.",
    "RQ-VAE": "A network that learns codes and how to make content of them again, together.",
    "RSFT": "Next-token training on what people liked goes on while rewards align the model.",
    "semantic ID": "An item's name in codes, such as 12-7-31: similar items begin alike.",
    "split": "Which part of the log is learned from, which is used to choose, which to judge.",
    "step": "One change of the model, after one batch.",
    "temperature": "Below 1 the likely becomes likelier, above 1 chance has more say.",
    "token": "A place that the model reads or writes: an event, or a code.",
    "tower": "The part of the reward model that foretells one behaviour.",
    "trie": "All names as a tree. Where it has no branch there is no item, so the search never "
    "goes there.",
    "UMAP": "A map that keeps who is near whom; how far groups lie apart says little.",
    "utilisation": "The share of a codebook's codes that some item has.",
    "validation": "Held-out events by which one chooses; the test part is looked at once, at the "
    "end.",
    "vector": "A list of numbers that stands for an item: similar items have similar lists.",
}


def shown(names: Sequence[str]) -> None:
    """A button with the meaning of these words."""
    if not names:
        return
    with st.popover("Words on this page", icon=":material/menu_book:", type="tertiary"):
        ordered = sorted(names, key=str.casefold)
        st.markdown("\n".join(f"- **{name}**: {TERMS[name]}" for name in ordered))

"""Playground: residual quantisation and a router's experts, small enough to watch step by step."""

import links
import playground_codes
import playground_experts
import stepping
import widgets

PARTS = {"Codes": playground_codes.show, "Experts": playground_experts.show}

widgets.head(
    "Two ideas, small enough to watch",
    "How does an item get its **code words**, and how do **experts** divide work? Press Step and "
    "look at what moves. Every slider acts at once, also while it plays.",
    words=(
        "code", "centroid", "codebook", "collapse", "entropy", "expert", "k-means",
        "learning rate", "level", "load", "loss", "MaxVio", "nats", "perplexity", "residual",
        "router", "RQ-Kmeans",
    ),
)  # fmt: skip
part = widgets.options("Show", list(PARTS), "playground_view")
PARTS[part]()
if part == "Codes":
    stepping.unseen(playground_experts.TOY)
    links.to("tokenizer", "The same on a run's items", "arrow_forward")
else:
    stepping.unseen(playground_codes.TOY)
    links.to("routing", "The same in a run's model", "arrow_forward")

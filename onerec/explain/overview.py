"""The whole path of a run at a glance: one line per stage, each with the number that tells most."""

from __future__ import annotations

from typing import Any

import pandas as pd

from onerec.explain.folder import info
from onerec.explain.rewards import report
from onerec.explain.serving import models
from onerec.explain.tokens import levels
from onerec.explain.training import latest, progress
from onerec.runs import Run

NO_RIVALS = ("onerec", "onerec_pretrained", "oracle", "random")


def stages(run: Run) -> pd.DataFrame:
    """stage, label, state, headline, detail: data and then every stage of a run."""
    state = dict(zip(*(progress(run)[name] for name in ("stage", "state")), strict=True))
    rows = [("data", "Data", *_data(run))]
    for stage, label, words in (
        ("tokenize", "Semantic IDs", _tokenize),
        ("pretrain", "Training", _pretrain),
        ("reward", "Reward", _reward),
        ("align", "Alignment", _align),
        ("evaluate", "Evaluation", _evaluate),
        ("recommend", "Lists", _recommend),
    ):
        headline, detail = words(run)
        rows.append((stage, label, state[stage], headline, detail))
    return pd.DataFrame(rows, columns=["stage", "label", "state", "headline", "detail"])


def _data(run: Run) -> tuple[str, str, str]:
    folder = run.dataset_folder
    if folder is None:
        name = (run.recipe().get("dataset") or {}).get("name", "")
        return "missing", "not here", f"dataset {name} is gone"
    rows = info(folder)["rows"]
    people = f"{rows['users']:,} users, {rows['items']:,} items"
    return "done", f"{rows['interactions']:,} events", people


def _tokenize(run: Run) -> tuple[str, str]:
    table, report = levels(run), run.report() or {}
    if table.empty:
        return "not yet", ""
    sizes = " x ".join(str(size) for size in table["size"])
    distinct = (report.get("collisions") or {}).get("distinct")
    names = f"; {distinct:,} different names" if isinstance(distinct, int) else ""
    return sizes, f"{len(table)} code words an item{names}"


def _pretrain(run: Run) -> tuple[str, str]:
    last = latest(run)
    if not last:
        return "not yet", ""
    loss = f"loss {last['loss']:.2f}" if "loss" in last else f"step {last['step']:,}"
    return loss, f"step {last['step']:,} of {last['of']:,}"


def _reward(run: Run) -> tuple[str, str]:
    done = run.done("reward") or {}
    if done.get("skipped"):
        return "skipped", "no reward model"
    measured = report(run).get("behaviours") or {}
    known = {name: row["auc"] for name, row in measured.items() if row["auc"] is not None}
    if not known:
        return "not yet", ""
    most = max(known, key=lambda name: int(measured[name]["positives"]))
    return f"AUC {known[most]:.3f}", f"{_words(most)}; {len(measured)} behaviours"


def _align(run: Run) -> tuple[str, str]:
    done = run.done("align") or {}
    if done.get("skipped"):
        return "skipped", "the policy is as trained"
    valid = {int(step): row for step, row in (done.get("valid") or {}).items()}
    if "step" in done and not valid:
        return f"step {int(done['step']):,}", "valid has no users to choose by"
    if 0 not in valid or "step" not in done:
        return "not yet", ""
    before, after = valid[0]["reward"], valid[int(done["step"])]["reward"]
    change = (after / before - 1) if before else 0.0
    return f"reward {change:+.1%}", f"on valid, at step {int(done['step']):,}"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _evaluate(run: Run) -> tuple[str, str]:
    results: dict[str, Any] = (run.evaluate() or {}).get("models") or {}
    ours = results.get("onerec", {}).get("recall@10")
    if ours is None:
        return "not yet", ""
    rivals = {
        name: values["recall@10"]
        for name, values in results.items()
        if name not in NO_RIVALS and "recall@10" in values
    }
    headline = f"recall@10 {ours:.3f}"
    if not rivals:
        return headline, ""
    best = max(rivals, key=lambda name: rivals[name])
    return headline, f"best baseline: {best.replace('_', '-')} {rivals[best]:.3f}"


def _recommend(run: Run) -> tuple[str, str]:
    names = models(run)
    if not names:
        return "not yet", ""
    people = run.recommendations(model=names[0])["user"].nunique()
    names = ["OneRec" if name == "onerec" else name.replace("_", "-") for name in names]
    return f"{people:,} users", "lists of " + " and ".join(names)

"""Stage 3: a ranker learns what people do, to be the policy's reward.

How it is trained stands in `pipeline.pscore`; here it is skipped where there is nothing to learn,
waited for where the companion trains it beside the policy, and trained where nobody did.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from onerec.alignment_settings import PSCORE, judged_by
from onerec.assembly import Setting
from onerec.data.exposures import learnable, with_positive
from onerec.errors import RecipeError
from onerec.pipeline.pscore import CURVE, FOLDER, REPORT, total_steps, train_pscore
from onerec.pipeline.session import Session
from onerec.run_files import read_json
from onerec.settings import listed

STAGE = "reward"
WAIT_SECONDS = 0.1


def reward(session: Session) -> None:
    """Write reward/: a checkpoint, report.json, and done.json; or done.json with why not."""
    setting = session.setting
    found = learnable(with_positive(setting.split.log), setting.split.train)
    if not setting.recipe.reward.steps or not found.names:
        nothing = _nothing(found.left_out)
        why = nothing if setting.recipe.reward.steps else "reward.steps=0"
        session.begin(STAGE, 1, f"skipped: {why}")
        session.writer.mark_done(STAGE, skipped=why)
        session.advance(STAGE, 1, 1, message=f"skipped: {why}")
        return
    total = total_steps(setting)
    session.begin(STAGE, total, ", ".join(found.names))
    session.writer.rewind_metrics(STAGE, 0)
    if not _trained_beside(session, total):

        def tell(step: int, values: Mapping[str, float], logged: bool) -> None:
            if logged:
                session.writer.log_metrics(STAGE, step, total, **values)
            session.advance(STAGE, step, total, **values)

        train_pscore(session.run, setting, found, session.device, tell)
    report = read_json(session.run.path / FOLDER / REPORT)
    session.writer.mark_done(
        STAGE,
        checkpoint=report["checkpoint"],
        behaviours=list(found.names),
        dataset=setting.dataset.fingerprint,
        seconds=report["seconds"],
    )
    session.advance(STAGE, total, total, message="done")


def refuse_unlearnable(setting: Setting) -> None:
    """Refuse an `align.reward` that this log cannot teach, before anything is trained.

    Where it teaches nothing at all both stages are skipped, and nothing is refused.

    Raises:
        RecipeError: which, and what can be learned instead.
    """
    found = learnable(with_positive(setting.split.log), setting.split.train)
    for name in judged_by(setting.recipe.align) if found.names else ():
        if name not in (PSCORE, *found.names):
            why = found.left_out.get(name, "the log has no such column")
            raise RecipeError(
                f"align.reward={setting.recipe.align.reward!r}: {name!r} cannot be learned from "
                f"{setting.dataset.name!r} ({why}); there are {listed((PSCORE, *found.names))}"
            )


def _trained_beside(session: Session, total: int) -> bool:
    """Whether the companion has trained it, waiting while it is at it; its curve is taken over."""
    folder, companion = session.run.path / FOLDER, session.companion
    if companion is None:
        return False
    while companion.works() and not (folder / REPORT).is_file():
        session.advance(STAGE, 0, total, message="trained beside the policy")
        time.sleep(WAIT_SECONDS)
    if not (folder / REPORT).is_file() or not (folder / CURVE).is_file():
        return False
    for line in read_json(folder / CURVE)["lines"]:
        session.writer.log_metrics(STAGE, int(line.pop("step")), total, **line)
    return True


def _nothing(left_out: dict[str, str]) -> str:
    if not left_out:
        return "every event of this dataset is a success, so there is nothing to tell apart"
    named = "; ".join(f"{name}: {why}" for name, why in left_out.items())
    return f"no behaviour has both outcomes ({named})"

"""The stages of a run, one function each; command line, app, notebooks and tests call these.

    ingest -> tokenize -> pretrain -> reward -> align -> evaluate -> recommend

`run` does all of them; `run_stage` one. A stage reads only finished stages, writes its folder and,
last, its done.json. Called again, a finished stage does nothing and an unfinished one goes on from
its last checkpoint.
"""

from onerec.data.ingest import import_files as ingest
from onerec.pipeline.align import align
from onerec.pipeline.evaluate import evaluate
from onerec.pipeline.pretrain import pretrain
from onerec.pipeline.recommend import recommend
from onerec.pipeline.reward import reward
from onerec.pipeline.session import Report, Session, Stopped
from onerec.pipeline.stages import STAGES, follow, run, run_stage
from onerec.pipeline.tokenize import tokenize

__all__ = [
    "STAGES",
    "Report",
    "Session",
    "Stopped",
    "align",
    "evaluate",
    "follow",
    "ingest",
    "pretrain",
    "recommend",
    "reward",
    "run",
    "run_stage",
    "tokenize",
]

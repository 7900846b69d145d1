"""What a fresh server does before its first visitor comes: load the libraries and the first run.

Without it the first visitor waits a second for pandas, DuckDB and the drawing of the first page.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any


@contextlib.asynccontextmanager
async def lifespan(_app: Any) -> AsyncIterator[None]:
    """Answers from the first moment on, and warms up beside that."""
    warming = asyncio.get_running_loop().run_in_executor(None, first_page)
    yield
    await warming


def first_page() -> None:
    """What Home needs, done once: a damaged file is the page's to tell."""
    import cache
    import places
    import widgets  # noqa: F401  (with it, all that a page imports)

    from onerec.errors import OneRecError
    from onerec.explain import dataset, overview
    from onerec.runs import Run
    from onerec.viz import pipeline, theme

    with contextlib.suppress(OneRecError, OSError):
        for info in list(places.run_infos().values())[:1]:
            run = Run(info.path)
            pipeline.pipeline(cache.read(overview.stages, run))
            if run.dataset_folder is not None:
                cache.read(dataset.summary, run.dataset_folder)
    theme.nothing("", "")  # the first Plotly figure of a process loads most of Plotly

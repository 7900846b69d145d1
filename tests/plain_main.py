"""Spawned processes begin with this process's `__main__`, and must not begin with the wrong one."""

import contextlib
import sys
import types
from collections.abc import Iterator


@contextlib.contextmanager
def plain_main() -> Iterator[None]:
    """An empty `__main__`: a page that was tested earlier in this process has put itself there."""
    before = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = before

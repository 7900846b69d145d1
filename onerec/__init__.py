"""OneRec: items as semantic IDs, an encoder-decoder that generates them, and tools to see inside.

Names are loaded when first used, so that reading a run folder never costs an import of torch.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "DataError": "onerec.errors",
    "Dataset": "onerec.data.dataset",
    "LazyConfig": "onerec.model.lazy",
    "LazyDecoder": "onerec.model.lazy",
    "OneRec": "onerec.model.onerec",
    "OneRecConfig": "onerec.model.onerec",
    "OneRecError": "onerec.errors",
    "RQKmeans": "onerec.tokenizer.rq_kmeans",
    "RQKmeansConfig": "onerec.tokenizer.rq_kmeans",
    "Recipe": "onerec.recipes",
    "RecipeError": "onerec.errors",
    "Recommender": "onerec.recommend",
    "Run": "onerec.runs",
    "RunError": "onerec.errors",
    "SemanticIds": "onerec.tokenizer.semantic_ids",
    "Trie": "onerec.tokenizer.trie",
    "WorldConfig": "onerec.world",
    "beam_search": "onerec.model.generate",
    "describe": "onerec.data.describe",
    "import_files": "onerec.data.ingest",
    "list_runs": "onerec.runs",
    "make_split": "onerec.data.split",
    "make_world": "onerec.world",
    "open_dataset": "onerec.data.dataset",
    "open_run": "onerec.runs",
    "recipe": "onerec.recipes",
    "run": "onerec.pipeline",
}

__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'onerec' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__

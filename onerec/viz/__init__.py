"""Draws what `onerec.explain` reads: Plotly figures of frames, no files, no torch."""

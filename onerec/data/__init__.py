"""Datasets: the folder, how it is made and described, how it is split, and what a model reads."""

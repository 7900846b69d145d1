"""Optimisers and, in later stages, policy objectives: pure functions of tensors."""

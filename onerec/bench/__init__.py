"""Benchmarks, each beside a peer: what is measured is printed as JSON."""

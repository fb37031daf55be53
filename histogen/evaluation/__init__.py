"""Downstream evaluation of frozen embeddings, with intervals; fidelity of synthetic tiles."""

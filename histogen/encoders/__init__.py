"""Frozen networks that turn tiles into embeddings."""

"""Tile stores: the layout on disk, writing it, and the fast lane that reads it."""

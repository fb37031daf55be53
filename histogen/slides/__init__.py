"""Slides: opening them, reading regions, and drawing ones with known truth."""

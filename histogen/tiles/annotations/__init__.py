"""Regions that people drew elsewhere: a reader for each format, and the frame in which its coordinates count."""

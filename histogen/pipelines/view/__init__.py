"""``histogen view``: a page to look at slides, tiles, embeddings and synthetic tiles."""

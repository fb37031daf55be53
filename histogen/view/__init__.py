"""A page to look at slides, tiles, embeddings and synthetic tiles: what ``histogen view`` serves and exports."""

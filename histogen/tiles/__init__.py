"""From a slide to tiles: the grid, the tissue mask, quality, extraction, stain, annotations."""

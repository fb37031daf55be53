"""Self-supervised learning: views, heads, losses, the teacher, and the collapse monitor."""

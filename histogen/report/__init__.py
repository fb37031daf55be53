"""Self-contained HTML pages from runs."""

"""``histogen run`` and ``histogen demo``: the whole chain, and its page."""

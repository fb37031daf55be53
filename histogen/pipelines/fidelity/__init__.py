"""``histogen fidelity``: synthetic tiles against real ones."""

"""``histogen embed``: one embedding per tile."""

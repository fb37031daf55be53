"""``histogen benchmark``: encoders judged on labelled tiles."""

"""``histogen tile`` and ``histogen plan``: slides become tile stores."""

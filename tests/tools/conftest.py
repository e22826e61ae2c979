"""Scripts that run in the environments of tools, or by hand, are no tests."""

collect_ignore = ["exports", "original.py", "round_trips.py"]

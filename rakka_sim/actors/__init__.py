"""The serving topology, one actor a file; policy is in `core`."""

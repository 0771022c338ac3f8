"""Trace readers: one file per format, `row` for what they yield, `trace` to open the trace of a workload."""

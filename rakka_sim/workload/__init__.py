"""Workloads: where requests come from, and where their data lies. Read `source` first."""

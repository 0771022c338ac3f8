"""Scenario files: tables, catalogues of models and GPUs, loading; nothing is run here."""

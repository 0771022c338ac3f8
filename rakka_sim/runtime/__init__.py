"""Runtimes: what gives actors time, delivery and supervision. Read `api` first."""

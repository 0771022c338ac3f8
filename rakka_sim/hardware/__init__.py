"""The machine as a graph: topology, links, collectives, MIG; no placement policy is here."""

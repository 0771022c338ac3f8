"""What computes a step, modelled or real, and how much memory it has for it. No scheduling."""

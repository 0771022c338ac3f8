"""How long a step takes: the protocol, and the models behind it. No policy, no clock."""

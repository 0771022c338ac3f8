"""``python -m rakka_sim`` is the `rakka-sim` command; nothing else may be here."""

from rakka_sim.cli import main

main()

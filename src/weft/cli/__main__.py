"""`python -m weft.cli` is `weft`."""

from weft.cli.app import main

main()

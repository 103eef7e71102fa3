"""`python -m weft` is `weft`."""

from weft.cli.app import main

main()

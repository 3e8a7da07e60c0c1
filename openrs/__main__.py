"""`python -m openrs` is the `openrs` command."""

from openrs.cli.app import main

main()

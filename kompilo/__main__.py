"""`python -m kompilo` is the command line."""

from .compiler.cli.main import main

main()

"""`python -m kompilo` and the script `kompilo` are the command line."""

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line and exit; Ctrl-C counts from the first import on, a quarter of a second before it runs."""
    try:
        from .compiler.cli.main import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()

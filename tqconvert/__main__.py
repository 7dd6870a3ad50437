"""`python -m tqconvert` and the `tqconvert` program."""

import sys


def run() -> None:
    """Run the command line and exit with its code."""
    from tqconvert.cli import main

    sys.exit(main())


if __name__ == "__main__":
    run()

"""`python -m tqconvert` and the `tqconvert` program."""

import sys


def run() -> None:
    """Run the command line and exit with its code."""
    try:
        from tqconvert.cli import main
    except KeyboardInterrupt:  # Ctrl-C while modules are loaded
        sys.exit(130)
    sys.exit(main())


if __name__ == "__main__":
    run()

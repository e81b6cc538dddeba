"""`python -m flowkit` is the command `flowkit`."""

from flowkit.cli import main

if __name__ == "__main__":
    main()

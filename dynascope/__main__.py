"""``python -m dynascope``: the same as the command ``dynascope``."""

from dynascope.cli import main

if __name__ == "__main__":
    raise SystemExit(main())

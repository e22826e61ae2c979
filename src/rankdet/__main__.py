"""The command ``rankdet``, and ``python -m rankdet``, which ``torchrun -m rankdet`` needs."""

import sys

from rankdet.extras import missing


def main() -> None:
    """Run a command of `rankdet.cli`; one line and exit status 2 where the extra ``train`` is not installed."""
    if absent := missing():
        print(f"rankdet: error: {absent}", file=sys.stderr)
        sys.exit(2)
    from rankdet import cli

    cli.main()


if __name__ == "__main__":
    main()

"""``python -m rankdet``, which ``torchrun -m rankdet`` needs."""

from rankdet.cli import main

if __name__ == "__main__":
    main()

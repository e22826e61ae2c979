"""What pytest leaves alone when it looks for doctests here."""

try:
    import triton  # noqa: F401
except ImportError:
    collect_ignore = ["rankdet/losses/kernels/negatives.py"]

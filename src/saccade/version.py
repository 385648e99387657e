"""The version of this package, which checkpoints, run folders and reports name."""

__version__ = "0.1.0"

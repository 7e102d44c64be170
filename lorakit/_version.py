"""The version, alone in a file so that building and `--version` need nothing else."""

__version__ = "0.1.0"

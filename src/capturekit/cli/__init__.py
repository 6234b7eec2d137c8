"""The command line: `capturekit COMMAND`. Click and rich live here and nowhere else."""

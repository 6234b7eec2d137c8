"""``python -m capturekit`` is the command ``capturekit``."""

from capturekit.cli.main import main

if __name__ == "__main__":
    main()

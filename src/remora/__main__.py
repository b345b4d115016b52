"""``python -m remora``: the command line."""

from remora.cli.main import main

if __name__ == "__main__":
    main()

"""``python -m fastmnv2``: the command line."""

from fastmnv2.cli import main

if __name__ == "__main__":
    main()

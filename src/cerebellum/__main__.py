"""``python -m cerebellum`` is the command."""

from cerebellum.cli import main

if __name__ == "__main__":
    main()

"""Let ``python -m okubsd`` be the command."""

from okubsd.cli.main import main

if __name__ == "__main__":
    main()

"""`python -m mobilenas` is the same as `mobilenas`."""

from mobilenas.cli.main import main

if __name__ == "__main__":
    main()

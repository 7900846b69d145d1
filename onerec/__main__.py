"""`python -m onerec` is the command line."""

from onerec.cli import main

main()

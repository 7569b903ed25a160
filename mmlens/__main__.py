"""`python -m mmlens` is the `mmlens` command."""

from mmlens.cli import main

main()

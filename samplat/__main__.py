"""`python -m samplat` is the command `samplat`."""

from samplat.cli import main

main()

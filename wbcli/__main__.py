"""`python -m wbcli`."""

from wbcli.cli import main

main()

"""`python -m vspcn_lib`."""

import sys

try:
    from vspcn_lib.commands.cli import main

    status = main()
except KeyboardInterrupt:  # while Python was still importing
    print("stopped before anything began", file=sys.stderr)
    status = 130
sys.exit(status)

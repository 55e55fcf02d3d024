"""`python -m vspcn_lib`."""

import sys

from vspcn_lib.cli import main

sys.exit(main())

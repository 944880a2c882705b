"""`python -m finwait`."""

import sys

from finwait.cli.main import main

sys.exit(main())

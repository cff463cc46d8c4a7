"""`python -m app.cli` is the command `abq`."""

import sys

from app.cli.main import main

sys.exit(main())

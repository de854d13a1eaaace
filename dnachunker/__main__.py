"""`python -m dnachunker`: the same as the command `dnachunker`."""

import sys

from dnachunker.cli import main

sys.exit(main())

"""``python -m fedtl.cli`` is ``fedtl``."""

import sys

from fedtl.cli import main

sys.exit(main())

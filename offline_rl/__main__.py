"""``python -m offline_rl`` is ``offline-rl``."""

import sys

from offline_rl.cli.main import main

sys.exit(main())

"""The fake cloud as a program: python tests/fakes --scenario FILE.json"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fakes.cloud import main

sys.exit(main())

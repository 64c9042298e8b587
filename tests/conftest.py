"""Puts the project's folder on the path, so that tests can import helpers from anywhere."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

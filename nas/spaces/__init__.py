"""Search spaces, as YAML files in this folder, and their architectures."""

from pathlib import Path

FOLDER = Path(__file__).parent

"""The site: `make docs` builds these pages into build/docs by sphinx and myst-parser; nothing is fetched."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

project = "Saccade"
author = "The Saccade authors"
release = re.findall(r'"([\d.]+)"', (ROOT / "src/saccade/version.py").read_text(encoding="utf-8"))[0]

extensions = ["myst_parser"]
myst_heading_anchors = 4  # links to headings, by the names that GitHub gives them
html_theme = "furo"
html_title = f"Saccade {release}"
html_copy_source = False
html_show_copyright = False
exclude_patterns = ["figures/*.md"]
suppress_warnings = ["misc.highlighting_failure"]  # signatures of the architecture page are no whole Python

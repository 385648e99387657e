"""Write the list of settings into reference/settings.md: `python docs/make_settings.py` (a test holds it fresh)."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path

from saccade.models.configs import describe_settings

PAGE = Path(__file__).parent / "reference" / "settings.md"
BEGIN = "<!-- written by docs/make_settings.py from saccade.config -->\n"


def page(text: str) -> str:
    """The page with its list, which is everything behind `BEGIN`, made anew."""
    lines = []
    for group, rows in groupby(describe_settings(), key=lambda row: row["group"]):
        lines += [
            "",
            f"### {group.capitalize()}",
            "",
            "| setting | default | it is | what it does |",
            "|---|---|---|---|",
        ]
        for row in rows:
            cells = [f"`{row['name']}`", f"`{json.dumps(row['value'])}`", row["type"], row["help"]]
            lines.append(f"| {' | '.join(cells)} |")
    return text.partition(BEGIN)[0] + BEGIN + "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

"""Results as lines for a person at a terminal. Imports no torch."""

from __future__ import annotations

from typing import Any


def transfer_lines(result: dict[str, Any]) -> str:
    """The methods, best first, and which one is recommended why."""
    lines = [f"{'method':<16} {result['metric']:>8}  {'95 % interval':<18} {'seconds':>8}"]
    for row in sorted(result["methods"], key=lambda row: -row["mean"]):
        interval = "" if row["low"] is None else f"{row['low']:.4f} to {row['high']:.4f}"
        lines.append(f"{row['method']:<16} {row['mean']:>8.4f}  {interval:<18} {row['seconds']:>8.1f}")
    best = result["recommended"]
    return "\n".join([*lines, *best["why"], f"ready: {best['run']}", f"report: {result['report']}"])


def short_answer(result: dict[str, Any]) -> str:
    """What a model says of one image (an entry of `predict`)."""
    if "error" in result:
        return f"error: {result['error']}"
    if "objects" in result:
        names = result["objects"]["names"]
        counts = {name: names.count(name) for name in dict.fromkeys(names)}
        return ", ".join(f"{count} {name}" for name, count in counts.items()) or "nothing found"
    if "tags" in result:
        return ", ".join(f"{t['name']} {t['score']:.2f}" for t in result["tags"]) or "no tag"
    if "label" in result:
        return f"{result['label']} {result['scores'][0]['score']:.2f}"
    total = sum(part["pixels"] for part in result["mask"].values()) or 1
    shares = sorted(result["mask"].items(), key=lambda item: -item[1]["pixels"])
    return ", ".join(f"{name} {100 * part['pixels'] / total:.0f} %" for name, part in shares[:6])

"""What `--resume` may change of a run, and what must be as it was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saccade.config import height_width, resolve
from saccade.errors import UsageError
from saccade.models.own_file import COPY, short_name

CHANGEABLE = {"epochs", "minutes", "patience", "workers", "save_every", "cache", "keep_state", "curve_images"}


def changed_settings(stored: Mapping[str, Any], given: Mapping[str, Any], free: set[str]) -> dict[str, Any]:
    """What of the given settings differs from those of the run, so that the same command goes on with it: queue systems
    start the same line again. A value may equal the one that was asked for, or what came of it.

    Raises:
        UsageError: one of them cannot change.
    """
    config = stored["config"] | stored["config"].get("objective", {})
    has = config | stored["settings"] | stored.get("asked", {})
    changed, refused = {}, []
    for name, value in given.items():
        plain = plain_setting(name, value, free)
        came = (config if name in free else stored["settings"]).get(name)
        if plain in (plain_setting(name, has.get(name), free), plain_setting(name, came, free)):
            continue
        changed[name] = value
        if name not in CHANGEABLE:
            refused.append(f"{name} ({has.get(name)} in the run, {value} now)")
    if refused:
        raise UsageError(
            f"--resume cannot change {', '.join(sorted(refused))}; allowed: {', '.join(sorted(CHANGEABLE))}. "
            "Start a new run with another --out instead"
        )
    return changed


def plain_setting(name: str, value: Any, free: set[str]) -> Any:
    """A setting as `config.json` holds it, however it was written: 32 and "32x32" are one size."""
    if name not in free and value is not None:
        value = getattr(resolve([("flag", {name: value})])[0], name)
        value = height_width(value) if name == "size" else value
    return json.loads(json.dumps(value))


def start_of(stored: Mapping[str, Any], weights: str | Path | None, recipe: str) -> tuple[str | None, str]:
    """Weights and recipe of the run. Raises UsageError where it is asked to start from others, or to follow another."""
    for name, now, nothing in (("weights", weights, None), ("recipe", recipe, "default")):
        if now is not nothing and now != nothing and str(now) != stored[name]:
            raise UsageError(f"--resume cannot change {name} ({stored[name]} in the run, {now} now)")
    return stored["weights"], stored["recipe"]


def kept_origins(origins: Mapping[str, str], stored: Mapping[str, str], free: set[str]) -> dict[str, str]:
    """What a resumed run keeps has the origin that it had, fields of the model's Config (`free`) too; minutes that are
    new take the place of epochs given then."""
    found = {name: stored.get(name, origin) if origin == "resumed" else origin for name, origin in origins.items()}
    if origins["minutes"] != "resumed" and origins["epochs"] == "resumed":
        found["epochs"] = "default"
    return {name: origin for name, origin in stored.items() if name in free} | found


def _is_moved(now: Mapping[str, Any], stored: Mapping[str, Any]) -> bool:
    """Whether the network is a file of the user's own that lies elsewhere now, by the same name and with the same
    bytes."""
    digest = now.get("file_sha256", "")
    same = short_name(now["model"]) == short_name(stored["model"])
    return bool(digest) and digest == stored.get("file_sha256") and same


def refuse_changes(now: Mapping[str, Any], stored: Mapping[str, Any]) -> None:
    """Compare the `config.json` that a resumed run would write now with the one that it has.

    Raises:
        UsageError: model, task, classes, images or labels differ.
    """
    now = json.loads(json.dumps(now))
    if now["model"] == stored["model"] and now.get("file_sha256", "") != stored.get("file_sha256", ""):
        raise UsageError(
            f"--resume: {now['model']} is not as it was when the run began (its {COPY} is); put it back, or start a "
            "new run with another --out, from these weights by --weights"
        )
    moved = now["model"] != stored["model"] and _is_moved(now, stored)
    for name in ("task", "classes", "fingerprint") if moved else ("model", "task", "classes", "fingerprint"):
        if now[name] != stored[name]:
            what = "images or labels" if name == "fingerprint" else name
            differs = "differs from that" if name in ("model", "task") else "differ from those"
            raise UsageError(
                f"--resume: {what} {differs} of the run"
                + ("" if name == "fingerprint" else f" ({stored[name]} then, {now[name]} now)")
                + "; start a new run with another --out"
            )

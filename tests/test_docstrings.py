"""What docs promise of public functions: whoever takes tensors says their shapes, whoever has a formula its source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent / "src" / "saccade"
WHOLE = ("layers", "losses", "ops")  # folders in which every function that takes tensors gives shapes
IN_ALL = 0.8  # share elsewhere


def takes_tensors(function: ast.FunctionDef) -> bool:
    arguments = (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
    hints = [ast.unparse(a.annotation) for a in arguments if a.annotation is not None]
    return any(re.search(r"\bTensor\b|\bndarray\b", hint) for hint in hints)


def public_functions(path: Path) -> Iterator[tuple[str, str]]:
    """Place and docstring of what takes tensors; of `forward` with the docstring of its class."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            inside, about = node.body, ast.get_docstring(node) or ""
        else:
            inside, about = [node], ""
        for function in inside:
            if isinstance(function, ast.FunctionDef) and not function.name.startswith("_") and takes_tensors(function):
                own = ast.get_docstring(function) or ""
                where = f"{path.relative_to(SOURCE).as_posix()}:{function.lineno} {function.name}"
                yield where, own + (about if function.name == "forward" else "")


def test_shapes_stand_in_docstrings() -> None:
    found = [function for path in sorted(SOURCE.rglob("*.py")) for function in public_functions(path)]
    lacking = [where for where, text in found if "[" not in text]
    assert [where for where in lacking if where.startswith(WHOLE)] == []
    assert len(lacking) <= (1 - IN_ALL) * len(found), "\n".join(lacking)

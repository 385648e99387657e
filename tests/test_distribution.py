"""Our distribution is `saccade-cv`: no text names another one; a stranger's package of our name is told."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = "The Saccade authors"


def _distribution(folder: Path, name: str, author: str) -> None:
    place = folder / f"{name.replace('-', '_')}-9.9.dist-info"
    place.mkdir(parents=True)
    (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.9\nAuthor: {author}\n")


def _start(folder: Path) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.path[:0] = [{str(folder)!r}, {str(ROOT / 'src')!r}]; sys.argv = ['saccade', '--version']"
    command = [sys.executable, "-c", f"{code}; import saccade_cv; saccade_cv.main()"]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_strangers_package_of_the_same_name_is_told_and_not_imported(tmp_path: Path) -> None:
    _distribution(tmp_path, "saccade", "Somebody else")
    (tmp_path / "saccade").mkdir()
    (tmp_path / "saccade" / "__init__.py").write_text("raise SystemExit('the stranger ran')")
    done = _start(tmp_path)
    assert done.returncode == 2
    assert "another project's package, saccade 9.9" in done.stderr
    assert "pip install saccade-cv" in done.stderr
    assert "the stranger ran" not in done.stdout + done.stderr


def test_an_older_installation_of_ours_is_no_stranger(tmp_path: Path) -> None:
    _distribution(tmp_path, "saccade", OURS)
    done = _start(tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("saccade ")


def test_the_distribution_has_a_name_of_its_own_and_both_commands() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["name"] == "saccade-cv"
    assert project["scripts"] == dict.fromkeys(("saccade", "saccade-cv"), "saccade_cv:main")
    assert project["authors"] == [{"name": OURS}]  # by which `saccade_cv` knows its own


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("pip install saccade", True),
        ("pip install 'saccade[deploy]'", True),
        ('python -m pip install -U "saccade>=1"', True),
        ("uv add saccade", True),
        ("pip install saccade-cv", False),
        ("pip install 'saccade-cv[deploy]'", False),
        ("pip install '.[deploy]'", False),
        ("pip uninstall saccade saccade-cv", False),
    ],
)
def test_the_rule_sees_what_it_should(line: str, found: bool) -> None:
    assert bool(_STRANGERS.search(line)) == found


_STRANGERS = re.compile(r"(?:pip3? install|uv add|uv pip install|poetry add)\b[^\n#]*?[\s'\"]saccade(?![-\w/.])")


def test_no_text_names_an_installation_that_is_not_ours() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    faults = []
    for entry in listed.stdout.split("\0"):
        path = ROOT / entry
        if (
            not entry
            or path == Path(__file__)
            or not path.is_file()
            or path.suffix not in (".py", ".md", ".toml", ".j2")
        ):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if _STRANGERS.search(line):
                faults.append(f"{entry}:{number}: {line.strip()}")
    assert not faults, "\n".join(faults)

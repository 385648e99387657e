"""What the documents promise: links, anchors and pictures are there, commands and settings exist, lines are short."""

from __future__ import annotations

import functools
import html
import importlib.util
import itertools
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.main import get_command

from saccade.cli import app
from saccade.data.types import Annotation, Batch
from saccade.models import catalogue
from saccade.models.configs import describe_settings

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").rglob("*.md")])
WIDTH = 120
SHELL = ("sh", "bash", "console", "shell")


def flat(group: Any, before: str = "") -> dict[str, Any]:
    """The commands of a group by name, those of a group within it by both names."""
    found: dict[str, Any] = {}
    for word, command in group.commands.items():
        inner = hasattr(command, "commands")
        found |= flat(command, f"{word} ") if inner else {f"{before}{word}": command}
    return found


COMMANDS = flat(get_command(app))
GROUPS = {name.split()[0] for name in COMMANDS if " " in name}


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def lines(page: Path) -> Iterator[tuple[int, str, str | None]]:
    """Number, text and language of every line: None for prose, "" for a block without a language."""
    language: str | None = None
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if line.lstrip().startswith("```"):
            language = line.strip().removeprefix("```") if language is None else None
        else:
            yield number, line, language


def prose(page: Path) -> str:
    return "\n".join(line for _, line, language in lines(page) if language is None)


@functools.cache
def anchors(page: Path) -> set[str]:
    """Names of the headings as GitHub and myst-parser form them: small letters, no punctuation, hyphens for blanks."""
    found: set[str] = set()
    for _, line, language in lines(page):
        heading = re.match(r"#+ (.*)", line)
        if language is None and heading:
            text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading[1]).lower()
            slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
            found.add(next(s for s in (slug, *(f"{slug}-{i}" for i in range(1, 99))) if s not in found))
        found |= set(re.findall(r"^\((\S+)\)=$", line)) if language is None else set()
    return found


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_anchors_and_pictures_are_there(page: Path) -> None:
    text = re.sub(r"`[^`]*`", "", prose(page))
    targets = re.findall(r"\]\(\s*<?([^)\s>]+)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    faults = []
    for target in targets:
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            faults.append(f"{target}: no such file")
        elif anchor and (file.suffix != ".md" or anchor not in anchors(file)):
            faults.append(f"{target}: no such heading")
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_pages_of_a_table_of_contents_are_there(page: Path) -> None:
    """Entries of the site's `toctree` blocks are pages, or patterns of pages."""
    block, faults = False, []
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            block = line == "```{toctree}"
        elif block and line and not line.startswith(":"):
            target = re.sub(r".*<(.*)>", r"\1", line)
            if not list(page.parent.glob(f"{target}.md")):
                faults.append(line)
    assert not faults


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_lines_end_by_column_120(page: Path) -> None:
    """Tables and the targets of links aside."""
    long = []
    for number, line, language in lines(page):
        shown = re.sub(r"\]\([^)]*\)", "]()", line) if language is None else line
        if len(shown) > WIDTH and not (language is None and line.startswith("|")):
            long.append(f"{name(page)}:{number}: {len(shown)}")
    assert not long, "\n".join(long)


def commands(page: Path) -> Iterator[tuple[int, str]]:
    """Every `saccade ...` of a page's shell blocks (lines that end in a backslash go on) and of its inline code."""
    gathered = ""
    for number, line, language in lines(page):
        if language in SHELL:
            gathered += line.removeprefix("$ ")
            if gathered.endswith("\\"):
                gathered = gathered[:-1]
                continue
            for part in re.split(r"&&|;|\|", gathered):
                found = re.search(r"(?:^|\s)(?:\.venv/bin/)?saccade (.*)", part)
                if found:
                    yield number, found[1]
            gathered = ""
    text = prose(page)
    for found in re.finditer(r"(?<!`)`(?:python -m )?saccade\s+([^`]+)`(?!`)", text):
        yield text[: found.start()].count("\n") + 1, found[1].replace("\n", " ").split("\\|")[0]


@functools.cache
def settings_of(model: str | None) -> set[str]:
    """Names that `--set` takes: with a model its own too, without one those of every model."""
    if model is None:
        return settings_of("") | {name for model in catalogue() for name in settings_of(model)}
    return {row["name"] for row in describe_settings(model or None)}


def fault_of(line: str, own: frozenset[str] = frozenset()) -> str | None:
    """What is wrong with a command; words in capitals, `...` and brackets stand for anything, `own` are models that the
    page itself makes."""
    words = shlex.split(re.sub(r"[][]", " ", line), comments=True)
    words = [word for word in words if word not in ("...", "--debug")]
    if not words or words[0] in ("--help", "--version", "COMMAND", "VERB"):
        return None
    if words[0] in GROUPS:
        words = [" ".join(words[:2]), *words[2:]]
        if words[0] in GROUPS or words[0].endswith(" --help"):
            return None
    if words[0] not in COMMANDS:
        return f"no command {words[0]}"
    command, rest = COMMANDS[words[0]], words[1:]
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    for word in rest:
        option = word.partition("=")[0]
        if option.startswith("-") and option not in known:
            return f"saccade {words[0]} has no option {option}"
    model = next((w for w in rest[:1] if words[0] in ("train", "settings", "models", "weights")), None)
    placeholder = model is None or model.startswith(("-", "./")) or model.upper() == model or model in own
    if not placeholder and model not in catalogue() and not (words[0] == "weights" and model.endswith(".cfg")):
        return f"no model {model}"
    given = [b for a, b in itertools.pairwise(rest) if a == "--set"]
    for setting in (word.partition("=")[0] for word in given):
        if setting.upper() != setting and setting not in settings_of(None if placeholder else model):
            return f"no setting {setting}"
    return None


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_options_models_and_settings_exist(page: Path) -> None:
    own = frozenset(re.findall(r'"(\w+)": Config\(', page.read_text(encoding="utf-8")))
    found = [(number, line, fault_of(line, own)) for number, line in commands(page)]
    faults = [f"{name(page)}:{number}: saccade {line}: {fault}" for number, line, fault in found if fault]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("train resnet18 photos/ --minutes 10", None),
        ("train MODEL DATA --set NAME=VALUE ...", None),
        ("train resnet18 photos/ --set lr=0.1  # a comment", None),
        ("train resnet19 photos/", "no model resnet19"),
        ("train resnet18 photos/ --minute 10", "saccade train has no option --minute"),
        ("train resnet18 photos/ --set learning_rate=1", "no setting learning_rate"),
        ("trian resnet18 photos/", "no command trian"),
        ("faces list people.db", None),
        ("faces lost people.db", "no command faces lost"),
        ("faces list people.db --top 3", "saccade faces list has no option --top"),
    ],
)
def test_the_rule_sees_what_it_should(line: str, fault: str | None) -> None:
    assert fault_of(line) == fault


def test_the_reference_names_every_command_and_option() -> None:
    """And no other: the first block of reference/cli.md holds them all."""
    text = (ROOT / "docs/reference/cli.md").read_text(encoding="utf-8").split("```")[1]
    named: dict[str, set[str]] = {}
    for entry in re.split(r"(?m)^saccade ", text)[2:]:
        words = entry.split()
        word = " ".join(words[: 2 if words[0] in GROUPS else 1])
        named.setdefault(word, set()).update(re.findall(r"--[a-z]+(?:-[a-z]+)*", entry))
    assert set(named) == set(COMMANDS)
    for word, command in COMMANDS.items():
        options = {
            o
            for p in command.params
            if not isinstance(p, typer.core.TyperArgument)
            for o in (*p.opts, *p.secondary_opts)
        }
        assert named[word] == options - {"--help"}, word


def test_the_list_of_settings_is_not_stale() -> None:
    spec = importlib.util.spec_from_file_location("make_settings", ROOT / "docs/make_settings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = module.PAGE.read_text(encoding="utf-8")
    assert text == module.page(text), "python docs/make_settings.py writes it"


def test_settings_named_in_the_tables_of_the_reference_exist() -> None:
    """`NAME=VALUE` in a first column is a setting of training or of some model."""
    page = ROOT / "docs/reference/settings.md"
    cells = [line.split("|")[1] for _, line, language in lines(page) if language is None and line.startswith("| `")]
    names = {found for cell in cells for found in re.findall(r"(\w+)=", cell)}
    assert len(names) > 10
    assert names <= settings_of(None)


def test_the_network_of_the_page_on_own_networks_works(tmp_path: Path) -> None:
    """And has the number of parameters that the page counts by hand."""
    page = ROOT / "docs/own_network.md"
    file = tmp_path / "tiny_net.py"
    file.write_text("\n".join(line for _, line, language in lines(page) if language == "python"), encoding="utf-8")
    assert sum(bool(line.strip()) for line in file.read_text(encoding="utf-8").splitlines()) <= 40
    spec = importlib.util.spec_from_file_location("tiny_net", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tiny_net"] = module  # where dataclasses look for the types of their fields
    try:
        spec.loader.exec_module(module)
        model = module.Model(module.VARIANTS["tiny_net"])
        truth = [Annotation((32, 32), label=label) for label in (1, 2)]
        batch = Batch(torch.rand(2, 3, 32, 32), [(32, 32)] * 2, truth)
        (loss,) = model.loss(batch).values()
        assert loss.isfinite()
        assert [answer.probabilities is not None and len(answer.probabilities) for answer in model.predict(batch)] == [
            10,
            10,
        ]
    finally:
        del sys.modules["tiny_net"]
    counted = f"{sum(p.numel() for p in model.parameters()):,}"
    assert f"together {counted}." in prose(page)


def test_the_drawing_of_the_way_of_an_image_names_files_that_are_there() -> None:
    """And is the one that its script draws."""
    script = (ROOT / "docs/figures/image_path.py").read_text(encoding="utf-8")
    drawn = html.unescape((ROOT / "docs/figures/image_path.svg").read_text(encoding="utf-8"))
    boxes = re.findall(r'Box\([\d., ]+"([^"]*)", "([^"]*)"', script)
    assert len(boxes) > 10
    for file, words in boxes:
        assert (ROOT / "src/saccade" / file).exists(), file
        assert all(f">{line}<" in drawn for line in (file, *words.split("\\n")) if line), file


@pytest.mark.slow
def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    for package in ("sphinx", "myst_parser", "furo"):
        pytest.importorskip(package)
    words = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(ROOT / "docs")]
    done = subprocess.run([*words, str(tmp_path / "site")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site/index.html").is_file()

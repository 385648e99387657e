"""Networks of the user's own, named by the path of their file: that they work with every verb, and that nothing runs a
file that the user has not named."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import saccade
from saccade.errors import ModelFileError, UsageError
from saccade.inference.trained import open_run
from saccade.models import create, own_file
from saccade.models.summary import summarize

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/own_network.md").read_text(encoding="utf-8")
PLAIN = PAGE.split("```py\n")[1].split("```")[0]
FULL = PAGE.split("```python\n")[1].split("```")[0]
Shell = Callable[..., tuple[int, str, str]]


def forget() -> None:
    """As if another process began: nothing is loaded; what the cache folder holds stays."""
    own_file._of_this_process.cache_clear()
    for name in [name for name in sys.modules if name.startswith(own_file.MODULES)]:
        del sys.modules[name]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SACCADE_CACHE", str(tmp_path / "cache"))
    forget()
    return tmp_path / "cache"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my_net.py"
    path.write_text(PLAIN, encoding="utf-8")
    return path


@pytest.fixture
def trained(file: Path, colours: Path, tmp_path: Path) -> Path:
    run = tmp_path / "run"
    settings = {"epochs": 1, "batch": 10, "hidden": 8, "precision": "fp32"}
    saccade.train(str(file), colours, out=run, progress=False, workers=0, **settings)
    return run


def test_a_plain_network_goes_through_every_verb(
    trained: Path, file: Path, colours: Path, tmp_path: Path, shell: Shell
) -> None:
    assert (trained / "network.py").read_text(encoding="utf-8") == PLAIN
    forget()
    image = colours / "val" / "red" / "0.png"
    for words in (
        ("evaluate", trained, colours),
        ("predict", trained, image, "--out", tmp_path / "predictions"),
        ("explain", trained, image, "--out", tmp_path / "explained", "--methods", "grad_cam", "--top", 1),
        ("export", trained, "--to", "torch", "--out", tmp_path / "net.pt2"),
        ("train", file, colours, "--out", trained, "--resume", "--epochs", 2, "--workers", 0),
    ):
        code, _, err = shell(*words)
        assert code == 0, err
    page = (trained / "report.html").read_text(encoding="utf-8")
    assert "my_net on colours" in page
    assert own_file.digest_of(own_file.own_room(str(file)))[:12] in page


def test_the_page_counts_the_parameters_by_hand(file: Path) -> None:
    found = summarize(str(file))
    assert f"together {found['parameters']:,};" in PAGE.replace("\n", " ")
    assert found["size"] == [28, 28]


def test_arguments_of_the_constructor_are_settings(file: Path) -> None:
    assert create(str(file), classes=3, hidden=5).network.hidden.out_features == 5
    with pytest.raises(UsageError, match="has no setting 'hiden'"):
        create(str(file), hiden=5)


def test_a_changed_file_is_not_run(trained: Path, file: Path, tmp_path: Path, shell: Shell) -> None:
    marker = tmp_path / "ran"
    file.write_text(PLAIN + f"\nopen({str(marker)!r}, 'w').close()\n", encoding="utf-8")
    forget()
    for words in ((), ("--model", file)):
        code, _, err = shell("export", trained, "--to", "torch", *words)
        assert (code, marker.exists()) == (4, False)
        assert "was changed since" in err
    kept = trained / "network.py"
    assert f"--model {kept}" in err
    code, _, err = shell("export", trained, "--to", "torch", "--model", kept)
    assert code == 0, err


def test_a_file_that_is_gone_is_asked_for(trained: Path, file: Path, tmp_path: Path) -> None:
    moved = file.rename(tmp_path / "moved.py")
    forget()
    with pytest.raises(ModelFileError, match="is gone"):
        open_run(trained)
    saccade.trust(moved)
    assert open_run(trained).model == str(moved)
    forget()  # it is remembered
    assert open_run(trained).model == str(moved)


def test_a_file_that_was_never_named_here_is_not_run(trained: Path, file: Path, own_cache: Path) -> None:
    """A run with its file, as a stranger may send it: the hash is right, but nobody looked at it."""
    for path in own_cache.rglob("*"):
        if path.is_file():
            path.unlink()
    forget()
    with pytest.raises(ModelFileError, match="you have not named it on this machine") as error:
        open_run(trained)
    assert f"--model {file}" in str(error.value)
    assert not [name for name in sys.modules if name.startswith(own_file.MODULES)]


def test_a_run_ends_well_though_its_file_is_edited_meanwhile(trained: Path, file: Path) -> None:
    file.write_text("this is being edited", encoding="utf-8")
    assert open_run(trained).model == str(file)  # in the process that runs it


def test_a_run_goes_on_where_its_file_was_moved(
    trained: Path, file: Path, colours: Path, tmp_path: Path, shell: Shell
) -> None:
    place = tmp_path / "elsewhere" / file.name
    place.parent.mkdir()
    file.rename(place)
    forget()
    code, _, err = shell("train", place, colours, "--out", trained, "--resume", "--epochs", 2, "--workers", 0)
    assert code == 0, err
    assert open_run(trained).model == str(place)


def test_going_on_wants_the_file_as_it_was(trained: Path, file: Path, colours: Path, shell: Shell) -> None:
    file.write_text(PLAIN + "\n# changed\n", encoding="utf-8")
    code, _, err = shell("train", file, colours, "--out", trained, "--resume")
    assert code == 2
    assert "not as it was when the run began" in err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import torch\nx = (\n", r"my_net.py line 2: SyntaxError"),
        ("import torch\n\n1 / 0\n", r"my_net.py line 3: ZeroDivisionError: division by zero\n    1 / 0"),
        ("x = 1\n", "defines no network"),
        (
            "from torch import nn\nclass A(nn.Module):\n    def __init__(self): super().__init__()\n",
            "number of classes",
        ),
        (PLAIN.replace("hidden: int = 200", "*, hidden"), "hidden needs a default"),
        (PLAIN.replace("self.hidden(x", "self.hiden(x"), r"my_net.py line 14, in forward: AttributeError"),
        (PLAIN.replace("self.out(torch", "(torch"), r"gives \[2, 200\] for 2 images of 28x28 and 10 classes"),
        (PLAIN.replace("13 * 13", "13 * 14"), r"my_net.py line 14, in forward: RuntimeError: .*SIZE = N says yours"),
        (PLAIN + PLAIN.replace("MyNet", "Other").replace("hidden: int", "much: int"), None),
    ],
)
def test_errors_show_file_and_line(file: Path, text: str, says: str | None, shell: Shell) -> None:
    file.write_text(text, encoding="utf-8")
    code, _, err = shell("models", file)
    assert code == (0 if says is None else 2), err
    assert says is None or re.search(says, err), err


def test_an_error_in_the_midst_of_training_shows_file_and_line(file: Path, colours: Path, shell: Shell) -> None:
    odd = PLAIN.replace("        x = ", "        if images.device.type != 'meta': raise KeyError('here')\n        x = ")
    file.write_text(odd, encoding="utf-8")
    code, _, err = shell("train", file, colours, "--out", file.parent / "run", "--epochs", 1, "--workers", 0)
    assert code == 2
    assert "my_net.py line 13, in forward: KeyError: 'here'" in err


def test_of_several_networks_one_is_named(file: Path) -> None:
    file.write_text(PLAIN.replace("MyNet", "Wide") + PLAIN.replace("MyNet", "Deep"), encoding="utf-8")
    with pytest.raises(UsageError, match=r"holds Wide, Deep: say which, as my_net.py:Deep"):
        create(str(file))
    assert create(f"{file}:Wide", classes=3).config.classes == 3
    with pytest.raises(UsageError, match="holds no network 'Wid': did you mean 'Wide'"):
        create(f"{file}:Wid")


def test_a_file_with_the_whole_contract(tmp_path: Path) -> None:
    file = tmp_path / "tiny_net.py"
    file.write_text(FULL, encoding="utf-8")
    assert create(str(file)).config.width == 16
    assert create(f"{file}:tiny_net_wide").config.width == 32
    assert f"together {sum(p.numel() for p in create(str(file)).parameters()):,}." in PAGE


def test_every_task_can_be_served(tmp_path: Path) -> None:
    """A room of the package, copied and changed, as those do who have one thing to try."""
    file = tmp_path / "my_unet.py"
    source = ROOT / "src/saccade/models/segmenters/unet.py"
    file.write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    torch.manual_seed(0)
    own = create(f"{file}:unet_light", classes=3)
    torch.manual_seed(0)
    ours = create("unet_light", classes=3)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(own.eval()(images), ours.eval()(images))


def test_no_field_of_a_checkpoint_names_a_file_that_is_run(tmp_path: Path) -> None:
    """The trunk of a detector is a word of a checkpoint's Config: it never reaches a file."""
    marker, file = tmp_path / "ran", tmp_path / "trunk.py"
    file.write_text(f"open({str(marker)!r}, 'w').close()\n", encoding="utf-8")
    with pytest.raises(UsageError, match="unknown trunk"):
        create("unet", trunk=str(file))
    assert not marker.exists()

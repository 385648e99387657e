"""Settings: where a value comes from, and what a wrong one is told."""

import dataclasses
from pathlib import Path

import pytest

from saccade.config import Settings, height_width, parse_assignments, parse_size, read_settings_file, resolve
from saccade.errors import UsageError


def test_later_layers_win_and_say_so() -> None:
    settings, model, origins = resolve(
        [
            ("recipe default", {"lr": 0.1, "epochs": 3}),
            ("run.yaml", {"lr": "1e-3"}),
            ("flag", {"epochs": 5, "width": 8}),
        ],
        model_fields={"width"},
    )
    assert (settings.lr, settings.epochs, settings.momentum) == (1e-3, 5, Settings().momentum)
    assert model == {"width": 8}
    assert (origins["lr"], origins["epochs"], origins["momentum"]) == ("run.yaml", "flag", "default")


def test_all_faults_at_once_with_suggestions() -> None:
    with pytest.raises(UsageError) as caught:
        resolve([("flag", {"learning_rate": 1, "epochz": 2, "epochs": "ten", "batch": -1, "flip": float("nan")})])
    message = str(caught.value)
    for part in (
        "did you mean 'lr'",
        "did you mean 'epochs'",
        "epochs is 'ten'",
        "batch is -1, allowed: at least 0",
        "flip",
    ):
        assert part in message


@pytest.mark.parametrize("value", [0, -3, 1.5, True, "x", None, [1]])
def test_epochs_must_be_a_whole_positive_number(value: object) -> None:
    with pytest.raises(UsageError, match="epochs"):
        resolve([("flag", {"epochs": value})])


def test_sizes() -> None:
    assert parse_size("320") == 320
    assert parse_size("180x240") == (180, 240)
    assert height_width(32) == (32, 32)
    assert resolve([("flag", {"size": "180x240"})])[0].size == (180, 240)
    for bad in ("x", "3x4x5", "12px", ""):
        with pytest.raises(UsageError, match="HEIGHTxWIDTH"):
            parse_size(bad)
    with pytest.raises(UsageError, match="at least 8"):
        resolve([("flag", {"size": 7})])


def test_assignments() -> None:
    given = parse_assignments(["lr=1e-2", "schedule=step", "milestones=[0.5, 0.8]", "nesterov=true", "minutes=null"])
    settings = resolve([("flag", given)])[0]
    assert (settings.lr, settings.schedule, settings.milestones, settings.nesterov) == (0.01, "step", (0.5, 0.8), True)
    with pytest.raises(UsageError, match="name=value"):
        parse_assignments(["lr"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr: 0.1\nlr: 0.2\n", "line 2.*stands twice"),
        ("- 1\n- 2\n", "found list"),
        ("", "found NoneType"),
        ("lr: [1, 2", "not valid YAML"),
        ("lr: !!python/object/apply:os.system [ls]", "not valid YAML"),
    ],
)
def test_bad_settings_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_settings_file(path)


def test_every_setting_states_its_meaning_and_its_default_is_allowed() -> None:
    import dataclasses

    defaults = dataclasses.asdict(Settings())
    assert resolve([("default", defaults)])[0] == Settings()
    assert all(f.metadata["help"] for f in dataclasses.fields(Settings))


def test_what_belongs_to_losses_of_labels_is_told_so() -> None:
    with pytest.raises(UsageError, match=r"^loss is a setting of models that classify, tag or localize"):
        resolve([("flag", {"loss": "focal"})])
    assert resolve([("flag", {"loss": "focal"})], model_fields={"loss"})[1] == {"loss": "focal"}


def test_settings_stand_in_groups_that_are_whole() -> None:
    groups = [field.metadata["group"] for field in dataclasses.fields(Settings)]
    assert list(dict.fromkeys(groups)) == ["run", "optimiser", "numerics", "data", "augmentation", "files"]
    assert groups == sorted(groups, key=list(dict.fromkeys(groups)).index)

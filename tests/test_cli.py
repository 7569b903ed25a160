"""The command line, as a user meets it: in a process of its own."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import mmlens
from mmlens import lab
from mmlens.cli import main

ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "120"}


def run(*arguments: str, cwd: Path | None = None, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mmlens", *arguments]
    environment = {**ENVIRONMENT, "PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )


def test_help_names_the_commands_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['mmlens', '--help']\n"
        "from mmlens.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'transformer_lens', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert "tour" in done.stdout
    assert "verify" in done.stdout
    assert done.stdout.rstrip().endswith("[]")


def test_the_version_is_that_of_the_package() -> None:
    done = run("--version")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == mmlens.__version__


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["tour", "--doses", "20,many"],
            "mmlens: --doses '20,many' must be whole numbers from 1 up, separated by commas",
        ),
        (["tour", "nowhere.png"], "mmlens: There is no picture at nowhere.png."),
        (["tour", "text.png"], "mmlens: text.png is not a picture that PIL can read."),
        (["tour", "."], "mmlens: . is a folder, not a picture."),
        (["tour", "picture.png", "--model", "nothing/here"], "mmlens: There is no checkpoint at nothing/here:"),
        (
            ["tour", "picture.png", "--model", "bert"],
            "mmlens: bert is a language model that sees no pictures (BertForMaskedLM",
        ),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "text.png").write_text("no picture")
    Image.new("RGB", (32, 32)).save(tmp_path / "picture.png")
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert", "architectures": ["BertForMaskedLM"]}')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["mmlens", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr().err
    assert end.value.code == 2
    assert said.startswith(message)
    assert said.count("\n") == 1
    assert not (tmp_path / "tour").exists()


def test_the_process_of_a_mistake_ends_with_code_2(tmp_path: Path) -> None:
    done = run("tour", "nowhere.png", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "mmlens: There is no picture at nowhere.png.\n"


def test_the_tour_of_a_drawn_scene_ends_within_a_minute(tmp_path: Path) -> None:
    start = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = run("tour", "--out", str(tmp_path / "out"))
    seconds = (
        resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - start
    )  # of its own: others may keep the machine busy
    assert done.returncode == 0, done.stderr
    report = tmp_path / "out" / "tour.html"
    assert str(report) in done.stdout
    assert "Truth: " + lab.scene(seed=30).caption in report.read_text(encoding="utf-8")
    assert sorted(p.name for p in report.parent.iterdir()) == ["scene.json", "scene.png", "tour.html", "tour.json"]
    # what the patches around a thing carry is known in the lab: nothing else in the picture changes with it
    for noun in ("star", "moon", "house"):
        assert f"{noun}: written by its neurons: yes" in done.stdout
    assert done.stdout.count("carried: yes") == 3
    assert seconds < 60


def test_the_tour_of_ones_own_jpeg_is_patched_from_its_blur(tmp_path: Path) -> None:
    lab.scene(seed=11).image.resize((200, 150)).save(tmp_path / "mine.jpg")
    done = run("tour", "mine.jpg", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "tour" / "tour.html").read_text(encoding="utf-8")
    assert "the blurred picture" in text
    # the lab model has never seen a photograph
    assert "The embedded lab model knows its drawn scenes only" in text
    assert "The embedded lab model knows its drawn scenes only" in done.stdout

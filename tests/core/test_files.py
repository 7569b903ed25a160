"""Files are written whole or not at all."""

import os
import signal
import warnings
from pathlib import Path

import pytest

from mmlens.core.errors import InputError
from mmlens.core.files import clear_unfinished, made_folder, require_file, whole_file


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    with whole_file(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask  # as any other new file, not the temporary one's 0600


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "result.json"
    path.write_text("old")

    def write() -> None:
        with whole_file(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_what_a_killed_writer_left_is_found_and_removed(tmp_path: Path) -> None:
    """Also the halves that a library makes beside the file that it is told to write, under names of its own."""
    kept = tmp_path / "result.json"
    kept.write_text("old")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        with whole_file(kept) as temporary:
            temporary.with_name(".tmpAbCdEf").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    assert len(list(tmp_path.iterdir())) == 2
    clear_unfinished(tmp_path)
    assert list(tmp_path.iterdir()) == [kept]
    assert kept.read_text() == "old"


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^There is no edit at .*nothing\.$"):
        require_file(tmp_path / "nothing", "edit")
    with pytest.raises(InputError, match=r"is a folder, not a picture\.$"):
        require_file(tmp_path, "picture")
    with (
        pytest.raises(InputError, match=r"the folder .*missing does not exist; create it first\.$"),
        whole_file(tmp_path / "missing" / "a"),
    ):
        pass


def test_a_file_and_a_folder_do_not_take_each_others_place(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("here")
    with pytest.raises(InputError, match="is a folder; name a file in it"), whole_file(tmp_path):
        pass
    for path in (tmp_path / "a", tmp_path / "a" / "b"):
        with pytest.raises(InputError, match="a file stands there"):
            made_folder(path)
    assert made_folder(tmp_path / "b" / "c").is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_only_files_are_replaced_and_links_lead_to_theirs(tmp_path: Path) -> None:
    """A pipe stands for devices: whoever may do everything would lose them."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder" / "file")
    for text in ("first", "second"):
        with whole_file(tmp_path / "link") as temporary:
            temporary.write_text(text)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "folder" / "file").read_text() == text
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with (
            pytest.raises(InputError, match="is a device or a pipe, and would be replaced"),
            whole_file(tmp_path / "pipe"),
        ):
            raise AssertionError
        with pytest.raises(InputError, match="is a device or a pipe, not an edit"):
            require_file(tmp_path / "pipe", "edit")


def test_what_the_system_refuses_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with whole_file(tmp_path / ("x" * 250)) as temporary:
        temporary.write_text("whole")
    assert (tmp_path / ("x" * 250)).read_text() == "whole"
    with (
        pytest.raises(InputError, match=r"Cannot write .*too long; name another file"),
        whole_file(tmp_path / ("x" * 300)),
    ):
        raise AssertionError
    (tmp_path / "a").write_text("a")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match="may not be read by this user"):
        require_file(tmp_path / "a", "edit")

    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "mkdir", refused)  # in a folder that is read-only
    with (
        pytest.raises(InputError, match=r"Cannot write .*: Permission denied in .*; name another folder"),
        whole_file(tmp_path / "a"),
    ):
        raise AssertionError

"""Files are written whole or not at all."""

import io
import os

import pytest

from tfmot_sws.whole_file import (
    check_writable,
    name_of,
    read_beginning_with,
    replacing,
    write_whole,
)


@pytest.fixture
def target(tmp_path):
    path = tmp_path / "model.keras"
    path.write_bytes(b"old")
    return path


def test_new_file_takes_the_place_of_the_old_one(target):
    with replacing(target) as temporary:
        assert temporary.name == target.name
        temporary.write_bytes(b"new")
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_failure_leaves_the_old_file_and_nothing_else(error, target):
    def write_half():
        with replacing(target) as temporary:
            temporary.write_bytes(b"half")
            raise error

    with pytest.raises(error):
        write_half()
    assert target.read_bytes() == b"old"
    assert list(target.parent.iterdir()) == [target]


def test_full_disk_leaves_the_old_file(target, monkeypatch):
    def full(_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"), replacing(str(target)) as temporary:
        temporary.write_bytes(b"new")
    assert target.read_bytes() == b"old"
    assert list(target.parent.iterdir()) == [target]


def test_block_that_writes_nothing_is_an_error(target):
    with pytest.raises(FileNotFoundError), replacing(target):
        pass
    assert target.read_bytes() == b"old"


def test_missing_folder_is_an_error(tmp_path):
    with (
        pytest.raises(FileNotFoundError, match=r"no such folder: .*/no'"),
        replacing(tmp_path / "no" / "model.keras"),
    ):
        pass


@pytest.mark.parametrize("name", ["", ".", "..", "folder", "folder/", "new/", b"folder"])
def test_what_is_no_file_is_an_error_and_leaves_nothing(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError, match=r"not a folder|is empty"), replacing(name):
        pytest.fail("the block ran")
    assert [path.name for path in tmp_path.rglob("*")] == ["folder"]


def test_a_device_is_not_replaced():
    with pytest.raises(OSError, match="not a device"), replacing(os.devnull):
        pytest.fail("the block ran")


@pytest.mark.parametrize("path", [None, 3, ["a"]])
def test_a_path_is_text_or_bytes(path):
    with pytest.raises(TypeError, match="Expected a path"), replacing(path):
        pytest.fail("the block ran")


def test_path_of_bytes(tmp_path):
    with replacing(os.fsencode(tmp_path / "file")) as temporary:
        temporary.write_bytes(b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_symbolic_link_stays_one(target, tmp_path):
    (tmp_path / "other").mkdir()
    link = tmp_path / "other" / "link.keras"
    link.symlink_to(os.path.join("..", target.name))
    with replacing(link) as temporary:
        temporary.write_bytes(b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert list(link.parent.iterdir()) == [link]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755])
def test_mode_of_the_old_file_stays(mode, target):
    target.chmod(mode)
    with replacing(target) as temporary:
        temporary.write_bytes(b"new")
    assert target.stat().st_mode & 0o777 == mode


def test_errors_name_the_file_that_was_asked_for(target, monkeypatch):
    monkeypatch.chdir(target.parent)
    with pytest.raises(FileNotFoundError) as caught, replacing(target.name):
        pass
    assert caught.value.filename == target.name
    monkeypatch.setattr(os, "replace", lambda source, _: os.open(source / "x", os.O_RDONLY))
    with pytest.raises(NotADirectoryError) as caught, replacing(target) as temporary:
        temporary.write_bytes(b"new")
    assert caught.value.filename == str(target)
    other = target.parent / "other"
    with pytest.raises(FileNotFoundError) as caught, replacing(target):
        other.read_bytes()
    assert caught.value.filename == str(other)


@pytest.mark.parametrize("name", ["model.keras", b"model.keras"])
def test_writes_and_reads_paths_and_files(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = io.BytesIO()
    for place in (name, file):
        check_writable(place)
        write_whole(place, [b"SWS", b"rest"])
    file.seek(0)
    for place in (name, file):
        assert read_beginning_with(place, b"SWS") == b"SWSrest"
    assert read_beginning_with(name, b"XYZ") == b"SWS"
    assert name_of(name) == "model.keras"
    assert name_of(file) == "BytesIO"


@pytest.mark.parametrize("place", [None, 3, io.StringIO(), object()])
def test_what_is_neither_path_nor_binary_file_is_an_error(place):
    with pytest.raises(TypeError, match=r"Expected a path|opened as text"):
        check_writable(place)
    with pytest.raises(TypeError, match=r"Expected a path|opened as text"):
        read_beginning_with(place, b"")


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_mode_is_that_of_the_umask(mask, tmp_path):
    before = os.umask(mask)
    try:
        with replacing(tmp_path / "file") as temporary:
            temporary.write_bytes(b"")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~mask

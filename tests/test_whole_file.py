"""Files are written whole or not at all."""

import os

import pytest

from tfmot_sws.whole_file import replacing


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
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "no" / "model.keras"):
        pass


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_mode_is_that_of_the_umask(mask, tmp_path):
    before = os.umask(mask)
    try:
        with replacing(tmp_path / "file") as temporary:
            temporary.write_bytes(b"")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~mask

"""A lock on a file keeps what is in it, and follows no link that somebody has put there."""

import os

import pytest

from nbkit.course.lessons import LessonError
from nbkit.course.run.folder_lock import hold_folder
from nbkit.course.run.locks import lock_file


@pytest.fixture
def victim(tmp_path):
    path = tmp_path / "victim.txt"
    path.write_text("precious")
    yield path
    assert path.read_text() == "precious"


def symbolic(file, victim):
    file.symlink_to(victim)


def dangling(file, victim):
    file.symlink_to(victim.with_name("nowhere"))


def hard(file, victim):
    os.link(victim, file)


def pipe(file, victim):
    os.mkfifo(file)


@pytest.mark.parametrize("make", [symbolic, dangling, hard, pipe])
def test_a_link_in_the_place_of_the_run_s_file_is_refused(tmp_path, victim, make):
    out = tmp_path / "out"
    out.mkdir()
    make(out / ".run", victim)
    with (
        pytest.raises(LessonError, match="should be a plain file, but it is a link"),
        hold_folder(out),
    ):
        pass
    assert os.path.lexists(out / ".run") and not (tmp_path / "nowhere").exists()


def test_somebody_s_file_of_that_name_is_kept(tmp_path):
    (tmp_path / ".run").write_text("make all")
    with (
        pytest.raises(LessonError, match="was not written by a run and would be lost"),
        hold_folder(tmp_path),
    ):
        pass
    assert (tmp_path / ".run").read_text() == "make all"


@pytest.mark.parametrize("left", [b"", bytes(32), b"0123456789abcdef" * 2])
def test_what_a_killed_run_has_left_is_taken_over(tmp_path, left):
    (tmp_path / ".run").write_bytes(left)
    with hold_folder(tmp_path) as (file, text):
        assert file.read_text() == text
    assert not file.exists()


def test_a_shared_lock_is_shared_and_keeps_out_the_others(tmp_path):
    path = tmp_path / "lock"
    with lock_file(path, shared=True) as first, lock_file(path, shared=True) as second:
        assert first is not None and second is not None
        with lock_file(path) as alone:
            assert alone is None
    with lock_file(path) as alone:
        assert alone is not None

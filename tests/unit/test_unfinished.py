"""Names of files: claimed, never shared, never overwritten."""

import threading
from pathlib import Path

import pytest
from async_frame_pipeline.pipeline.sinks.unfinished import Numbered, Unfinished


def series(folder: Path, extension: str = "mp4", **changes) -> Numbered:
    return Numbered(folder, "clip", 1, extension, **changes)


def fill(file: Unfinished, text: str) -> None:
    file.create()
    (file.path / "1.png" if file.path.is_dir() else file.path).write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@pytest.mark.parametrize("extension", ["mp4", ""])
def test_writers_in_one_folder_get_names_of_their_own(tmp_path, extension):
    """Eight threads that look for a name at the same time, as two servers with one output folder do."""
    together = threading.Barrier(8)
    published = []

    def write(number: int) -> None:
        file = Unfinished(series(tmp_path, extension))
        together.wait()
        fill(file, str(number))
        together.wait()
        published.append((number, file.publish()))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ending = f".{extension}" if extension else ""
    assert names(tmp_path) == [f"clip_{i:05}_{ending}" for i in range(1, 9)]
    for number, path in published:
        assert (path if extension else path / "1.png").read_text() == str(number)


@pytest.mark.parametrize("extension", ["mp4", ""])
def test_a_name_taken_meanwhile_is_left_alone(tmp_path, extension):
    """ComfyUI's own saver knows nothing of claims."""
    file = Unfinished(series(tmp_path, extension))
    fill(file, "ours")
    theirs = series(tmp_path, extension).path(1)
    if extension:
        theirs.write_text("theirs")
    else:
        theirs.mkdir()
        (theirs / "1.png").write_text("theirs")
    path = file.publish()
    assert path == series(tmp_path, extension).path(2)
    assert (theirs if extension else theirs / "1.png").read_text() == "theirs"
    assert (path if extension else path / "1.png").read_text() == "ours"
    assert len(names(tmp_path)) == 2


def test_a_file_that_stands_beside_takes_its_number_too(tmp_path):
    (tmp_path / "clip_00001_.png").write_text("of another video")
    file = Unfinished(series(tmp_path, "mkv", beside=("png",)))
    fill(file, "ours")
    assert file.publish().name == "clip_00002_.mkv"


def test_a_plain_path_is_replaced(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_text("old")
    file = Unfinished(path)
    fill(file, "new")
    assert path.read_text() == "old"
    file.publish()
    assert path.read_text() == "new" and names(tmp_path) == ["clip.mp4"]


@pytest.mark.parametrize("extension", ["mp4", ""])
@pytest.mark.parametrize("keep", [False, True])
def test_what_is_given_up_goes_or_stays_as_asked(tmp_path, extension, keep):
    file = Unfinished(series(tmp_path, extension), keep)
    fill(file, "half")
    assert names(tmp_path)[0].startswith("." if not keep else "clip_00001_.unfinished")
    file.give_up(any_frames=True)
    file.give_up(any_frames=True)  # twice does no harm
    assert names(tmp_path) == (["clip_00001_.unfinished" + (".mp4" if extension else "")] if keep else [])
    again = Unfinished(series(tmp_path, extension), keep)
    fill(again, "whole")
    # The kept one may be all there is of hours of work.
    assert again.publish().name == f"clip_{2 if keep else 1:05}_" + (".mp4" if extension else "")


@pytest.mark.parametrize("extension", ["mp4", ""])
def test_what_a_later_run_of_the_same_made_whole_is_not_kept(tmp_path, extension):
    file = Unfinished(series(tmp_path, extension), keep=True)
    fill(file, "half")
    file.give_up(any_frames=True)
    fill(file, "less")
    file.give_up(any_frames=True)
    assert sorted(path.name for path in file.kept) == names(tmp_path) and len(file.kept) == 2
    fill(file, "whole")
    path = file.publish()
    assert (names(tmp_path), file.kept) == ([path.name], [])


def test_nothing_is_kept_of_a_run_without_frames(tmp_path):
    file = Unfinished(series(tmp_path), keep=True)
    file.create()
    file.give_up(any_frames=False)
    assert names(tmp_path) == []


def test_what_cannot_be_made_is_named(tmp_path):
    with pytest.raises(OSError, match=r"cannot write .*gone/clip_00001_\.mp4: No such file"):
        Unfinished(series(tmp_path / "gone")).create()

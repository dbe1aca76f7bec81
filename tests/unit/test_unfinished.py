"""Names of files: claimed, never shared, never overwritten, and never of half a file."""

import errno
import os
import shutil
import threading
from pathlib import Path

import pytest
from async_frame_pipeline.pipeline.sinks import unfinished
from async_frame_pipeline.pipeline.sinks.unfinished import Numbered, Unfinished
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


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


# -- a final name stands for a whole file --------------------------------------------------------------


@pytest.fixture
def refuse(monkeypatch):
    """Makes a function of `os` fail as some disks let it."""

    def refuse(name: str, number: int) -> None:
        def refusing(path, *args, **kwargs):
            raise OSError(number, os.strerror(number), str(path))

        monkeypatch.setattr(os, name, refusing)

    return refuse


def test_at_no_moment_does_an_empty_file_stand_under_the_final_name(tmp_path, monkeypatch):
    """Looked at before and after each call that could change a name, as somebody who watches the folder sees it."""
    file, sizes = Unfinished(series(tmp_path)), []
    final = series(tmp_path).path(1)

    def look():
        if final.exists():
            sizes.append(final.stat().st_size)

    def looking(real):
        def call(*args, **kwargs):
            look()
            result = real(*args, **kwargs)
            look()
            return result

        return call

    fill(file, "whole")
    for name in ("open", "link", "rename", "replace", "unlink", "close"):
        monkeypatch.setattr(os, name, looking(getattr(os, name)))
    assert file.publish() == final
    monkeypatch.undo()
    assert set(sizes) == {len("whole")}
    assert names(tmp_path) == [final.name]


@pytest.mark.parametrize("taken", [False, True])
def test_a_disk_without_hard_links_gives_names_too(tmp_path, refuse, taken):
    file = Unfinished(series(tmp_path))
    fill(file, "ours")
    if taken:
        series(tmp_path).path(1).write_text("theirs")
    refuse("link", errno.EPERM)
    assert file.publish() == series(tmp_path).path(2 if taken else 1)
    assert file.final.read_text() == "ours" and len(names(tmp_path)) == 1 + taken


def test_a_name_that_cannot_be_given_leaves_nothing_under_it(tmp_path, refuse):
    file = Unfinished(series(tmp_path))
    fill(file, "whole")
    refuse("link", errno.EPERM)
    refuse("replace", errno.EIO)
    with pytest.raises(OSError):
        file.publish()
    assert names(tmp_path) == [file.path.name]
    file.give_up(any_frames=True)
    assert names(tmp_path) == []


def test_the_error_of_a_name_that_cannot_be_given_says_which(tmp_path, refuse):
    file = Unfinished(series(tmp_path))
    fill(file, "whole")
    refuse("link", errno.EIO)
    refuse("open", errno.EIO)
    with pytest.raises(OSError, match=r"cannot write .*clip_00001_\.mp4: Input/output error") as failed:
        file.publish()
    assert failed.value.errno == errno.EIO


# -- what stands beside it -----------------------------------------------------------------------------


def beside(folder: Path, data: bytes = b"picture") -> Unfinished:
    file = Unfinished(series(folder, "mkv", beside=("png",)))
    fill(file, "ours")
    file.write_beside("png", data)
    return file


def test_what_stands_beside_appears_with_it(tmp_path):
    file = beside(tmp_path)
    assert all(name.startswith(".") for name in names(tmp_path))
    file.publish()
    assert names(tmp_path) == ["clip_00001_.mkv", "clip_00001_.png"]
    assert (tmp_path / "clip_00001_.png").read_bytes() == b"picture"


@pytest.mark.parametrize("taken", ["mkv", "png"])
def test_both_take_the_next_number_where_one_is_taken_meanwhile(tmp_path, taken):
    file = beside(tmp_path)
    (tmp_path / f"clip_00001_.{taken}").write_text("theirs")
    file.publish()
    assert names(tmp_path) == sorted([f"clip_00001_.{taken}", "clip_00002_.mkv", "clip_00002_.png"])
    assert (tmp_path / f"clip_00001_.{taken}").read_text() == "theirs"


def test_what_stands_beside_and_is_lost_costs_no_file(tmp_path, caplog):
    file = beside(tmp_path)
    [hidden] = [path for path in tmp_path.iterdir() if ".png" in path.name]
    hidden.unlink()
    assert file.publish().read_text() == "ours"
    assert names(tmp_path) == ["clip_00001_.mkv"] and "clip_00001_.png is left out" in caplog.text


def test_both_go_when_it_is_given_up(tmp_path):
    beside(tmp_path).give_up(any_frames=True)
    assert names(tmp_path) == []


def test_what_cannot_be_written_beside_is_named(tmp_path, monkeypatch):
    file = Unfinished(series(tmp_path, "mkv"))
    fill(file, "ours")
    shutil.rmtree(tmp_path)
    with pytest.raises(OSError, match=r"cannot write .*clip_00001_\.png: No such file"):
        file.write_beside("png", b"picture")


def test_a_picture_of_somebody_elses_beside_a_plain_path_is_left_alone(tmp_path):
    (tmp_path / "clip.png").write_text("theirs")
    file = Unfinished(tmp_path / "clip.mkv")
    fill(file, "ours")
    with pytest.raises(OSError, match=r"cannot write .*clip\.png: there is one already"):
        file.write_beside("png", b"picture")
    file.publish()
    assert names(tmp_path) == ["clip.mkv", "clip.png"] and (tmp_path / "clip.png").read_text() == "theirs"


# -- giving up -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("extension", ["mp4", ""])
@pytest.mark.parametrize("keep", [False, True])
def test_giving_up_what_somebody_deleted_does_not_raise(tmp_path, extension, keep):
    file = Unfinished(series(tmp_path, extension), keep)
    fill(file, "half")
    shutil.rmtree(tmp_path)
    file.give_up(any_frames=True)
    assert file.kept == [] and file.path is None


@pytest.mark.parametrize("extension", ["mp4", ""])
@pytest.mark.parametrize("keep", [False, True])
def test_giving_up_on_a_share_that_went_away_does_not_raise(tmp_path, refuse, extension, keep):
    file = Unfinished(series(tmp_path, extension), keep)
    fill(file, "half")
    for name in ("stat", "lstat", "scandir", "listdir", "unlink", "rmdir"):
        refuse(name, errno.ESTALE)
    file.give_up(any_frames=True)
    assert file.kept == [] and file.path is None


def test_a_file_published_in_a_run_that_then_failed_is_taken_back(tmp_path):
    """Another sink could not be published."""
    file = beside(tmp_path)
    file.publish()
    file.give_up(any_frames=True)
    assert names(tmp_path) == []


def test_a_finished_file_is_not_given_up_by_the_next_run(tmp_path):
    file = Unfinished(series(tmp_path))
    for text in ("whole", "half"):
        fill(file, text)
        if text == "whole":
            file.publish()
    file.give_up(any_frames=True)
    assert names(tmp_path) == ["clip_00001_.mp4"]


def test_a_name_that_is_taken_costs_nobody_their_file(tmp_path):
    theirs = tmp_path / "video.unfinished.mp4"
    theirs.write_bytes(b"theirs")
    mine = Unfinished(tmp_path / "video.mp4", keep=True)
    with pytest.raises(FileExistsError, match=r"already .*video\.unfinished\.mp4"):
        mine.create()
    mine.give_up(False)
    assert theirs.read_bytes() == b"theirs"


def test_what_cannot_have_its_name_beside_the_file_is_removed(tmp_path, monkeypatch):
    real = unfinished._take

    def take(path, final):
        if final.suffix == ".png":
            raise PermissionError(13, "Permission denied")
        real(path, final)

    monkeypatch.setattr(unfinished, "_take", take)
    file = Unfinished(Numbered(tmp_path, "video", 1, "mkv", ("png",)))
    file.create().write_bytes(b"frames")
    file.write_beside("png", b"picture")
    file.publish()
    assert [path.name for path in tmp_path.iterdir()] == ["video_00001_.mkv"]


# -- long names ----------------------------------------------------------------------------------------

ENDING = len("_00001_.mp4")
LETTERS = ["x", "é", "名", "🎬"]
letters = st.sampled_from([*LETTERS, "a.b", ".", " ", "-"])
any_names = st.builds(
    lambda start, letter, size: ("".join(start) + letter * 260).encode()[:size].decode(errors="ignore"),
    st.lists(letters, max_size=12),
    st.sampled_from(LETTERS),
    st.one_of(st.integers(5, 260), st.integers(230, 256)),
)


def longest(letter: str, extension: str = "mp4") -> str:
    """A name of these that just fits with its number, in 255 bytes."""
    return letter * ((255 - ENDING + len(".mp4") - len(f".{extension}" * bool(extension))) // len(letter.encode()))


@pytest.mark.parametrize("letter", LETTERS)
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("extension", ["mp4", "webm", "mkv", ""])
@pytest.mark.parametrize("letters_less", [0, 1, 5, 6, 12, 39])
def test_a_name_that_fits_is_given_whatever_ours_beside_it_are(tmp_path, letter, keep, extension, letters_less):
    target = Numbered(tmp_path, longest(letter, extension)[letters_less:], 1, extension, ("png",) * bool(extension))
    for number in (1, 2):
        file = Unfinished(target, keep)
        fill(file, "whole")
        if extension in ("mp4", "mkv"):
            file.write_beside("png", b"picture")
        path = file.publish()
        assert path == target.path(number)
    assert len(names(tmp_path)) == (4 if extension in ("mp4", "mkv") else 2)
    assert not [name for name in names(tmp_path) if "part" in name or "unfinished" in name]


@pytest.mark.parametrize("extension", ["mp4", ""])
def test_a_name_that_is_too_long_is_refused_before_anything_is_written(tmp_path, extension):
    file = Unfinished(Numbered(tmp_path, longest("x", extension) + "x", 1, extension))
    with pytest.raises(OSError, match=r"cannot write .*x_00001_.*: File name too long"):
        file.create()
    assert names(tmp_path) == []


@settings(deadline=None, derandomize=True, max_examples=60, suppress_health_check=list(HealthCheck))
@given(name=any_names, keep=st.booleans(), plain=st.booleans())
def test_whatever_can_be_written_plainly_can_be_written_so(tmp_path_factory, name, keep, plain):
    folder = tmp_path_factory.mktemp("names")
    target = folder / f"{name}.mp4" if plain else Numbered(folder, name, 1, "mp4")
    final = target if plain else target.path(1)
    try:
        final.write_text("as the stock node writes it")
        final.unlink()
    except OSError:
        with pytest.raises(OSError, match="cannot write"):
            Unfinished(target, keep).create()
        assert names(folder) == []
        return
    file = Unfinished(target, keep)
    fill(file, "whole")
    assert len(os.fsencode(file.path.name)) <= max(unfinished.NAME_BYTES, len(os.fsencode(final.name)))
    file.write_beside("png", b"picture")
    assert file.publish() == final and names(folder) == sorted([final.name, final.stem + ".png"])


def test_long_names_that_begin_alike_are_claimed_apart(tmp_path):
    files = [Unfinished(Numbered(tmp_path, "x" * 240 + end, 1, "mp4")) for end in "ab"]
    for file in files:
        fill(file, "whole")
    assert [file.publish().name[240:] for file in files] == ["a_00001_.mp4", "b_00001_.mp4"]


def test_a_long_name_is_claimed_by_one(tmp_path):
    target = Numbered(tmp_path, "x" * 244, 1, "mp4")
    first, second = Unfinished(target), Unfinished(target)
    fill(first, "first")
    fill(second, "second")
    assert [file.publish().name[244:] for file in (first, second)] == ["_00001_.mp4", "_00002_.mp4"]


def test_what_follows_a_dot_in_the_name_of_a_folder_is_no_extension(tmp_path):
    file = Unfinished(Numbered(tmp_path, "take 1.5", 1, "", ("png",)), keep=True)
    fill(file, "half")
    assert names(tmp_path) == ["take 1.5_00001_.unfinished"]
    file.write_beside("png", b"picture")
    file.publish()
    assert names(tmp_path) == ["take 1.5_00001_", "take 1.5_00001_.png"]

"""A disk that is full before the video is: in mid-file, between pictures,
and at the end of a file that is put together last.

Once really, with a small file system as output folder, which takes a system that lets tests mount one; and once by a
limit on the size of the server's files, which any system has.
"""

import os
import sys
from pathlib import Path

import host
import pytest
from graph import Graph, Link, assert_clean, refusal, run
from resume import rescued_name
from test_failures import full_disk

sys.path.append(str(Path(__file__).resolve().parent.parent))

import ffmpeg
from small_disk import small_disk

LATENT_FRAMES, FRAMES = 6, 21
FORMATS = ["mp4 (h264)", "mkv (ffv1)", "png sequence", "gif", "webp (animated)"]


@pytest.fixture(scope="module")
def server(start_server):
    """A server of this file's own: one way to fill the disk limits its log too, which must be small by then."""
    with start_server() as server:
        yield server


def save(seed: int, format: str, latent_frames: int, size: int, **more) -> tuple[Graph, Link]:
    """Always the same pictures, which do not compress well; some seeds' have one colour.
    The test's seed is in the file's name.
    """
    graph = Graph()
    samples = graph("AFPTestLatent", batch=1, channels=16, latent_frames=latent_frames, height=size, width=size, seed=5)
    video = graph("AsyncVAEDecodeToVideo", samples=samples, vae=graph("AFPTestVAE", kind="wan 2.1", seed=1), fps=16)
    more = {"quality": "high", "speed": "fast"} | more
    return graph, graph("SaveVideoStreaming", video=video, filename_prefix=f"full{seed}", format=format, **more)


def free_bytes(folder: Path) -> int:
    told = os.statvfs(folder)
    return told.f_bavail * told.f_frsize


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("disk, cause", [("full", "No space left on device"), ("limited", "File too large")])
def test_full_disk(server, seed, disk, cause, format):
    """The error names file and cause, nothing stays behind, the latents are rescued, and the next video is saved."""
    graph, saver = save(seed, format, LATENT_FRAMES, 48, quality="very high")
    folder = server.output_dir
    limit = small_disk(folder, 65536) if disk == "full" else full_disk(server, 16384)
    with limit:
        free = free_bytes(folder)
        with pytest.raises(host.PromptFailed) as failed:
            server.run(graph.prompt)
        error = failed.value.error
        assert error["node_id"] == saver.node
        assert error["exception_message"].count(f"cannot write {folder / f'full{seed}_00001_'}") == 1
        assert cause in error["exception_message"]
        assert list(folder.iterdir()) == []
        assert disk == "limited" or free_bytes(folder) == free, "something holds what was written"
        if disk == "full":  # the input folder is on another one; the limit holds for all files
            assert (server.base / "input" / rescued_name(error["exception_message"])).exists()
        assert_clean(server)

        graph, saver = save(seed, format, 1, 4)
        [file] = run(server, graph).ui(saver)["images"]
        path = folder / file["subfolder"] / file["filename"]
        assert path.stat().st_size > 0
        for each in (path, path.parent) if path.parent != folder else (path, path.with_suffix(".png")):
            if each.is_file():
                each.unlink()
            elif each.is_dir():
                each.rmdir()


@pytest.mark.parametrize("keep", [False, True])
def test_disk_that_is_full_from_the_start(server, seed, keep):
    """Said before anything is decoded; nothing is made, and no file stays open, as it would in PyAV."""
    graph, _ = save(seed, "mp4 (h264)", LATENT_FRAMES, 48, keep_unfinished=keep)
    with small_disk(server.output_dir, 4096):
        (server.output_dir / "in the way").write_bytes(bytes(4096))
        assert f"cannot write {server.output_dir / f'full{seed}_00001_.mp4'}: No space left on device" in refusal(
            server, graph
        )
        assert [path.name for path in server.output_dir.iterdir()] == ["in the way"]
    assert_clean(server)


@pytest.mark.parametrize("format", ["mp4 (h264)", "mkv (h264)"])
@pytest.mark.parametrize("room", [0.75, 1.5])
def test_what_was_written_before_is_kept_where_asked(server, seed, format, room):
    """Also where the whole would fit once: an MP4 that is to be kept is copied at the end, for fast start."""
    folder = server.output_dir
    graph, saver = save(seed, format, LATENT_FRAMES, 32, quality="very high")
    run(server, graph)
    size = sum(path.stat().st_size for path in folder.iterdir())
    for path in folder.iterdir():
        path.unlink()
    graph.prompt[saver.node]["inputs"]["keep_unfinished"] = True
    with small_disk(folder, int(size * room)):
        try:
            [file] = run(server, graph).ui(saver)["images"]
            assert format.startswith("mkv") and room > 1
            path = folder / file["filename"]
        except host.PromptFailed as failed:
            assert "No space left on device" in failed.error["exception_message"]
            assert failed.error["exception_message"].count(f"cannot write {folder / f'full{seed}_0000'}") == 1
            [path] = folder.iterdir()
            assert path.stem == f"full{seed}_00001_.unfinished"
        shown = int(ffmpeg.probe(path)[0]["nb_read_frames"])
        assert shown == FRAMES if room > 1 else 0 < shown < FRAMES
    assert_clean(server)

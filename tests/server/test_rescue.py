"""A failed decode or save leaves the latents on disk, and the user knows where and what to do with them."""

import json
import os
import re
import signal
import time
from pathlib import Path

import host
import pytest
import safetensors
from graph import Graph, Link, assert_clean, linked, refusal, run
from mp4 import read
from resume import assert_rescued, assert_resumes, disarm, rescued_name

REPO = Path(__file__).resolve().parent.parent.parent
SHAPE = {"batch": 1, "channels": 16, "latent_frames": 3, "height": 4, "width": 4}
FRAMES = 9
TILES = {"tile_size": 512, "overlap": 64, "temporal_size": 8, "temporal_overlap": 4}
WORKFLOW = {"extra_pnginfo": {"workflow": {"nodes": [], "note": "ünïcode"}}}


def samples(seed: int) -> dict:
    return {**SHAPE, "seed": seed}


def rescues(server) -> list[Path]:
    return sorted((server.base / "input").glob("rescued_*.latent"))


def failing(
    seed: int, consumer: str = "SaveVideoStreaming", first: bool = False, tiled: bool = False, **faults: object
) -> tuple[Graph, Link]:
    """A prompt whose decode fails at the second chunk, in every way that there is; and the node where it does.

    `tiled`: a VIDEO is of the tiled node. The faults are in the VAE's own decoder, which the fast one never calls.
    """
    graph = Graph()
    vae = graph("AFPTestVAE", kind="wan 2.1", seed=seed, name=f"rescue {seed}", **(faults or {"fail_at": 2}))
    latent = graph("AFPTestLatent", **samples(seed))
    if consumer == "AsyncVAEDecodeVideo":
        node = graph("AsyncVAEDecodeVideo", samples=latent, vae=vae, decoder="exact")
        graph("PreviewAny", source=node)
        return graph, node
    if consumer == "AsyncVAEDecodeTiled":
        node = graph("AsyncVAEDecodeTiled", samples=latent, vae=vae, **TILES)
        graph("PreviewAny", source=node)
        return graph, node
    kind, how = ("AsyncVAEDecodeTiledToVideo", TILES) if tiled else ("AsyncVAEDecodeToVideo", {"decoder": "exact"})
    video = graph(kind, samples=latent, vae=vae, fps=16, save_latents_first=first, **how)
    if consumer == "GetVideoComponents":
        node = graph("GetVideoComponents", video=video)
        graph("PreviewAny", source=node)
        return graph, node
    how = (
        {"format": "mp4 (h264)", "quality": "lossless"}  # else x264 may make other pixels of the same ones next time
        if consumer == "SaveVideoStreaming"
        else {"format": "mp4", "codec": "h264"}
    )
    return graph, graph(consumer, video=video, filename_prefix=f"rescue_{seed}", **how)


@pytest.mark.parametrize(
    "consumer, tiled",
    [
        *[(each, False) for each in ("SaveVideoStreaming", "SaveVideo", "GetVideoComponents", "AsyncVAEDecodeVideo")],
        ("AsyncVAEDecodeTiled", True),
        ("SaveVideo", True),
    ],
)
def test_failed_decode_leaves_a_file_that_decodes_to_the_same_pixels(server, seed, consumer, tiled):
    graph, node = failing(seed, consumer, tiled=tiled)
    with pytest.raises(host.PromptFailed) as failed:
        server.run(graph.prompt, WORKFLOW)
    error = failed.value.error
    assert error["node_id"] == node.node
    assert error["exception_type"] == "RuntimeError"
    assert error["exception_message"].startswith("injected by the test")
    assert any("watch.py" in line for line in error["traceback"]), "the first error's own traceback is gone"
    assert_clean(server)
    name = rescued_name(error["exception_message"])
    [template] = re.findall(r"Templates > async-frame-pipeline > (.*?),", error["exception_message"])
    assert (REPO / "workflows" / f"{template}.json").is_file()
    assert str(server.base / "input") in error["exception_message"]

    [choices, *_] = server.get("/object_info/LoadLatent")["LoadLatent"]["input"]["required"]["latent"]
    assert name in choices, "LoadLatent must offer the file"
    with safetensors.safe_open(server.base / "input" / name, "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["prompt"]) == graph.prompt
    assert json.loads(metadata["workflow"]) == WORKFLOW["extra_pnginfo"]["workflow"]
    assert_rescued(server.base / "input" / name, samples(seed))
    if consumer == "SaveVideoStreaming":
        assert_resumes(server, name, samples(seed), seed, FRAMES)


def test_the_file_is_what_the_stock_node_writes(server, seed):
    """Byte by byte, but for the prompt, which is another one, and for our version beside it."""
    graph, _ = failing(seed)
    graph("SaveLatent", samples=Link("2"), filename_prefix=f"stock_{seed}")
    with pytest.raises(host.PromptFailed) as failed:
        server.run(graph.prompt, WORKFLOW)
    ours = server.base / "input" / rescued_name(failed.value.error["exception_message"])
    graph = Graph()
    graph("SaveLatent", samples=graph("AFPTestLatent", **samples(seed)), filename_prefix=f"stock_{seed}")
    server.run(graph.prompt, WORKFLOW)
    [*_, stock] = sorted(server.output_dir.glob(f"stock_{seed}*.latent"))
    with safetensors.safe_open(ours, "pt") as a, safetensors.safe_open(stock, "pt") as b:
        assert set(a.keys()) == set(b.keys())
        for key in a.keys():  # noqa: SIM118 - it is no dict
            assert a.get_tensor(key).equal(b.get_tensor(key)) and a.get_tensor(key).dtype == b.get_tensor(key).dtype
        assert set(a.metadata()) == set(b.metadata()) | {"async_frame_pipeline"}
        assert a.metadata()["workflow"] == b.metadata()["workflow"]
    for path in server.output_dir.glob(f"stock_{seed}*.latent"):
        path.unlink()


@pytest.mark.parametrize("format", ["mp4 (h264)", "mkv (h264)", "png sequence"])
@pytest.mark.parametrize("decoder", ["fails", "is out of memory once"])
def test_unfinished_file_is_named_by_the_error_and_gone_when_a_second_try_succeeds(server, seed, format, decoder):
    graph, node = failing(seed, **{"fail_at" if decoder == "fails" else "oom_at": 4})
    [latent] = [node for node in graph.prompt.values() if node["class_type"] == "AFPTestLatent"]
    latent["inputs"]["latent_frames"] = 6
    graph.prompt[node.node]["inputs"] |= {"format": format, "keep_unfinished": True}
    if decoder == "fails":
        message = refusal(server, graph)
        [path] = server.output_dir.glob(f"rescue_{seed}_*")
        assert "unfinished" in path.name and message.endswith(f"What was saved before that is kept as {path}.\n")
        assert (server.base / "input" / rescued_name(message)).exists()
    else:
        assert "the unfinished video is kept" in run(server, graph).log
        paths = [path for path in server.output_dir.glob(f"rescue_{seed}_*") if path.suffix != ".png"]
        assert ["unfinished" in path.name for path in paths] == [False]
    assert_clean(server)


def test_the_same_latents_are_written_once(server, seed):
    before = rescues(server)
    graph, _ = failing(seed)
    names = {rescued_name(refusal(server, graph)) for _ in range(3)}
    assert len(names) == 1
    assert len(set(rescues(server)) - set(before)) == 1


def test_save_that_fails_before_decoding_is_rescued_too(server, seed):
    graph, node = failing(seed, slow_at=0)
    # From another node, since one that is typed is refused before anything runs.
    graph.prompt[node.node]["inputs"]["filename_prefix"] = [linked(graph, "../outside").node, 0]
    message = refusal(server, graph)
    assert "output folder" in message
    assert (server.base / "input" / rescued_name(message)).exists()


def test_cancel_is_no_failure(server, seed):
    before = rescues(server)
    graph, _ = failing(seed, cancel_at=2)
    with pytest.raises(host.PromptFailed) as failed:
        server.run(graph.prompt)
    assert failed.value.interrupted
    assert rescues(server) == before
    assert_clean(server)


@pytest.mark.parametrize(
    "fault, stays",
    [
        ({"cancel_at": 2}, True),
        ({"fail_at": 2}, True),
        ({"slow_at": 1}, False),
        ({"fail_at": 2, "tiled": True}, True),
        ({"slow_at": 1, "tiled": True}, False),
    ],
)
def test_saved_first(server, seed, fault, stays):
    """Written before the decode; there after a failure or cancel, gone when the video is complete."""
    before = set(rescues(server))
    graph, _ = failing(seed, first=True, **fault)
    try:
        server.run(graph.prompt)
        assert not stays
    except host.PromptFailed:
        assert stays
    new = set(rescues(server)) - before
    assert len(new) == (1 if stays else 0)
    if stays:
        assert_rescued(new.pop(), samples(seed))
    assert_clean(server)


def test_saved_first_leaves_alone_a_file_that_was_there(server, seed):
    """Resuming from a rescued file, saved first again: success must not remove what LoadLatent has loaded."""
    graph, _ = failing(seed)
    name = rescued_name(refusal(server, graph))
    graph, _ = failing(seed, first=True, slow_at=0)
    run(server, graph)
    assert (server.base / "input" / name).exists()


def test_rescue_that_fails_does_not_hide_the_error(server, seed):
    """The folder is in the way of the file; the others are on a disk that is full."""
    graph, _ = failing(seed)
    graph.prompt["99"] = {"class_type": "AFPTestBlockRescue", "inputs": {"samples": ["2", 0]}}
    graph.prompt["3"]["inputs"]["samples"] = ["99", 0]
    message = refusal(server, graph)
    disarm(server)
    assert message.startswith("injected by the test")
    assert "could not be saved either" in message and "MiB are free" in message
    assert_clean(server)


def test_old_rescues_are_pruned_and_nothing_else(server, seed):
    folder = server.base / "input"
    for path in rescues(server):
        path.unlink()
    for i in range(60):
        path = folder / f"rescued_20250101-000000_{i:012x}.latent"
        path.write_bytes(b"old")
        os.utime(path, (1e9 + i, 1e9 + i))
    half = folder / ".rescued_20250101-000000_ffffffffffff.latent.part"
    half.write_bytes(b"half")
    os.utime(half, (1e9, 1e9))
    mine = folder / "my.latent"
    mine.write_bytes(b"mine")
    os.utime(mine, (1e9, 1e9))
    graph, _ = failing(seed)
    name = rescued_name(refusal(server, graph))
    left = [path.name for path in rescues(server)]
    assert len(left) == 50 and name in left
    assert "rescued_20250101-000000_00000000003b.latent" in left, "the newest stay"
    assert mine.exists() and not half.exists()
    for path in [mine, *rescues(server)]:
        path.unlink()


def test_disable_metadata(fp16_server, seed):
    graph, _ = failing(seed)
    name = rescued_name(refusal(fp16_server, graph))
    with safetensors.safe_open(fp16_server.base / "input" / name, "pt") as file:
        assert file.metadata() is None


def held(server, seed: int, **more: object) -> str:
    """Start a prompt that stops in the middle of its decode, and wait until it is there; returns its id."""
    graph, _ = failing(seed, hold_at=2, **more)
    prompt_id = server.submit(graph.prompt)
    reached = server.base / f"hold-rescue {seed}.reached"
    deadline = time.monotonic() + 120
    while not reached.exists():
        assert time.monotonic() < deadline, "the decode never got there"
        time.sleep(0.02)
    return prompt_id


def api_form_of_resume(name: str, seed: int, saver: str) -> dict:
    """The bundled workflow, with the file chosen, a VAE that is on this machine, and the decoder of `failing`."""
    prompt = json.loads((REPO / "workflows" / "api" / "resume.json").read_text())
    [load] = [node for node in prompt.values() if node["class_type"] == "LoadLatent"]
    load["inputs"]["latent"] = name
    [(vae_id, vae)] = [(key, node) for key, node in prompt.items() if node["class_type"] == "VAELoader"]
    prompt[vae_id] = {"class_type": "AFPTestVAE", "inputs": {"kind": "wan 2.1", "seed": seed, "name": "resumed"}}
    [decode] = [node for node in prompt.values() if node["class_type"] == "AsyncVAEDecodeToVideo"]
    decode["inputs"]["decoder"] = "exact"
    [save] = [node for node in prompt.values() if node["class_type"] == "SaveVideoStreaming"]
    save["inputs"] |= {"filename_prefix": saver, "quality": "lossless"}
    return prompt


def test_latents_are_there_in_mid_decode_and_resume_gives_the_same_video(server, seed):
    """So they are after a power cut; test_killed.py has a server that is killed."""
    before = set(rescues(server))
    prompt_id = held(server, seed, first=True)
    [path] = set(rescues(server)) - before
    assert_rescued(path, samples(seed))
    server.interrupt()
    (server.base / f"hold-rescue {seed}.go").touch()
    server.wait(prompt_id)

    resumed = server.run(api_form_of_resume(path.name, seed, f"resumed_{seed}"))
    [file] = [output["images"][0] for output in resumed["outputs"].values() if "images" in output]
    graph, node = failing(seed, slow_at=0)
    expected = run(server, graph).ui(node)["images"][0]
    a, b = (read(server.output_dir / f["subfolder"] / f["filename"]) for f in (file, expected))
    assert a.frames_equal(b) and len(a.pts) == FRAMES


def test_stopped_server_leaves_the_latents_and_no_debris(start_server):
    """Ctrl-C in the middle of a decode, with nothing asked for."""
    with start_server() as server:
        held(server, 8)
        assert rescues(server) == []
        os.kill(server.process.pid, signal.SIGINT)
        (server.base / "hold-rescue 8.go").touch()
        server.process.wait(60)
        [path] = rescues(server)
        assert_rescued(path, samples(8))
        assert server.log_text().count(path.name) == 1
        assert [p.name for p in server.output_dir.rglob("*") if p.is_file()] == []
        assert list((server.base / "input").glob(".*")) == []
        assert not re.search(r"Segmentation|Fatal Python", server.log_text())

"""Every lane, at its first, middle and last chunk and at the close, with every fault it can meet.

What the engine itself makes of them is in tests/unit/test_engine_faults.py, so of each lane's moments one fault is met
here before a merge, and all of them at night. Each cell says what the user is to see: the error in the node that caused
it and a file to resume from; or, where the pack can go on by another way, the video. In every cell nothing of the lanes
stays behind, and the next prompt works.
"""

import dataclasses
import os
import signal
import time

import host
import pytest
from graph import Graph, assert_clean, run
from mp4 import read
from resume import assert_rescued, disarm, rescued_name

SAMPLES = {"batch": 1, "channels": 16, "latent_frames": 5, "height": 4, "width": 4}
FRAMES = 17
# The VAE's own decoder takes two latents at a time; the lanes get a frame from the fast one, and then four at a time.
DECODER_CALLS, CHUNKS, PACKETS = 3, 5, FRAMES
MOMENTS = {
    "decode": {"first": 1, "middle": 2, "last": DECODER_CALLS},
    "convert": {"first": 1, "middle": CHUNKS // 2, "last": CHUNKS},
    "copy": {"first": 1, "middle": CHUNKS // 2, "last": CHUNKS},
    "wait": {"first": 1, "middle": CHUNKS // 2, "last": CHUNKS},
    "open": {"open": 1},
    "mux": {"first": 1, "middle": PACKETS // 2, "last": PACKETS, "close": PACKETS + 1},
    "close": {"close": 1},
}
# What a lane can meet. The decoder and the conversions use the GPU's memory; only the file has a disk and an encoder.
FAULTS = {
    "decode": ["exception", "out of memory", "cancel", "slow"],
    "convert": ["exception", "out of memory", "cancel", "slow"],
    "copy": ["exception", "cancel", "slow"],
    "wait": ["exception", "cancel", "slow"],
    "open": ["exception", "disk full", "encoder death"],
    "mux": ["exception", "cancel", "slow", "disk full", "encoder death"],
    "close": ["exception", "cancel", "slow", "disk full", "encoder death"],
}
# One for each lane and moment, each kind of fault among them.
BEFORE_A_MERGE = {
    "decode": {"first": "out of memory", "middle": "exception", "last": "cancel"},
    "convert": {"first": "exception", "middle": "slow", "last": "out of memory"},
    "copy": {"first": "cancel", "middle": "exception", "last": "slow"},
    "wait": {"first": "slow", "middle": "cancel", "last": "exception"},
    "open": {"open": "disk full"},
    "mux": {"first": "exception", "middle": "encoder death", "last": "cancel", "close": "disk full"},
    "close": {"close": "encoder death"},
}
# Widgets of the tiled node: tiles one after the other, each of two latents in time; and two beside each other.
TILES = {
    "in time": {"tile_size": 512, "overlap": 64, "temporal_size": 8, "temporal_overlap": 4},
    "side by side": {"tile_size": 64, "overlap": 0, "temporal_size": 4096, "temporal_overlap": 4},
}
# The calls are those of all tiles.
IN_TILES = [
    ("in time", "decode", "first", 1, "out of memory"),
    ("in time", "mux", "middle", PACKETS // 2, "disk full"),
    ("side by side", "decode", "middle", 3, "exception"),
    ("side by side", "decode", "last", 6, "cancel"),
    ("side by side", "convert", "middle", 2, "exception"),
]
MESSAGES = {
    "exception": "injected by the test",
    "out of memory": "injected by the test",
    "disk full": "No space left on device",
    "encoder death": "injected by the test",
}


@dataclasses.dataclass(frozen=True)
class Cell:
    lane: str
    moment: str
    at: int
    fault: str
    tiles: str = ""

    def __str__(self):
        where = f"tiles {self.tiles}-" if self.tiles else ""
        return f"{where}{self.lane}-{self.moment}-{self.fault}"

    @property
    def samples(self) -> dict:
        """Wide enough for two tiles."""
        return {**SAMPLES, "width": 12} if self.tiles else SAMPLES

    @property
    def message(self) -> str:
        """What the error says; where tiles run out of memory, in all sizes, that is what is said."""
        if self.tiles and self.fault == "out of memory":
            return "Memory does not suffice for VAE Decode (Tiled)"
        return MESSAGES[self.fault]

    @property
    def times(self) -> int:
        """An error of the decoder's own is met again by the stock way that follows, or there would be none to see."""
        return 1000 if self.fault in ("exception", "out of memory") else 1


CELLS = [
    pytest.param(
        cell := Cell(lane, moment, at, fault),
        id=str(cell),
        marks=[] if BEFORE_A_MERGE[lane][moment] == fault else pytest.mark.nightly,
    )
    for lane, moments in MOMENTS.items()
    for moment, at in moments.items()
    for fault in FAULTS[lane]
]
CELLS += [
    pytest.param(cell := Cell(lane, moment, at, fault, tiles), id=str(cell))
    for tiles, lane, moment, at, fault in IN_TILES
]


@pytest.fixture(autouse=True)
def disarmed(server):
    yield
    disarm(server)


def save(cell: Cell | None, seed: int, name: str) -> tuple[Graph, str]:
    """A prompt that saves a video, with the cell's fault in it; and the id of its saver."""
    graph = Graph()
    latent = graph("AFPTestLatent", **(cell.samples if cell else SAMPLES), seed=seed)
    in_decoder, decoder = {}, "auto"
    if cell is not None and cell.lane == "decode":
        argument = {
            "exception": "fail_at",
            "out of memory": "oom_at",
            "cancel": "cancel_at",
            "slow": "slow_at",
            "hold": "hold_at",
        }[cell.fault]
        in_decoder = {argument: cell.at, "oom_times": cell.times}
        decoder = "exact"  # the fast one never calls the VAE's own: test_fast_decoder.py
    elif cell is not None:
        latent = graph(
            "AFPTestFault", samples=latent, lane=cell.lane, at=cell.at, fault=cell.fault, times=cell.times, seed=seed
        )
    vae = graph("AFPTestVAE", kind="wan 2.1", seed=seed, name=name, **in_decoder)
    if cell is not None and cell.tiles:
        video = graph("AsyncVAEDecodeTiledToVideo", samples=latent, vae=vae, fps=16, **TILES[cell.tiles])
    else:
        video = graph("AsyncVAEDecodeToVideo", samples=latent, vae=vae, fps=16, decoder=decoder)
    saver = graph("SaveVideoStreaming", video=video, filename_prefix=name, format="mp4 (h264)", quality="high")
    return graph, saver.node


@pytest.mark.parametrize("cell", CELLS)
def test_cell(server, seed, cell):
    name = f"cell_{seed}"
    graph, saver = save(cell, seed, name)
    before = set((server.base / "input").iterdir())

    if cell.fault == "slow":
        entry = server.run(graph.prompt)
        [file] = entry["outputs"][saver]["images"]
        assert len(read(server.output_dir / file["subfolder"] / file["filename"]).pts) == FRAMES
        assert_clean(server)
        return

    with pytest.raises(host.PromptFailed) as failed:
        server.run(graph.prompt)
    error = failed.value.error
    assert error["node_id"] == saver
    assert failed.value.interrupted == (cell.fault == "cancel")
    assert_clean(server)
    assert list(server.output_dir.rglob(f"*{name}*")) == [], "nothing is published, and nothing hidden left"
    new = set((server.base / "input").iterdir()) - before
    if cell.fault == "cancel":
        assert new == set()
        graph, _ = save(None, seed, f"again_{seed}")
        run(server, graph)
    else:
        assert cell.message in error["exception_message"]
        [path] = new
        assert rescued_name(error["exception_message"]) == path.name
        assert_rescued(path, {**cell.samples, "seed": seed})
    assert_clean(server)


# A stop in the decode is in test_rescue.py too.
@pytest.mark.parametrize(
    "cell, number",
    [
        pytest.param(
            Cell(lane, moment, at, "hold"),
            number,
            id=f"{lane}-{moment}-{number.name}",
            marks=[] if (lane, number) == ("close", signal.SIGTERM) else pytest.mark.nightly,
        )
        for lane in ("decode", "close")
        for moment, at in MOMENTS[lane].items()
        for number in (signal.SIGINT, signal.SIGTERM)
    ],
)
def test_server_is_stopped(start_server, seed, cell, number):
    """The interpreter ends while a lane is at work: the latents are saved, and the process is gone."""
    name = f"stopped_{seed}"
    graph, _ = save(cell, seed, name)
    with start_server() as stopped:
        hold = stopped.base / f"hold-{name if cell.lane == 'decode' else 'fault'}"
        stopped.submit(graph.prompt)
        wait_for(lambda: hold.with_suffix(".reached").exists(), "the lane never got there")
        os.kill(stopped.process.pid, number)
        wait_for(lambda: list((stopped.base / "input").glob("*.latent")), "the latents were not saved")
        hold.with_suffix(".go").touch()
        stopped.process.wait(60)
        assert "Fatal Python" not in stopped.log_text() and "Segmentation" not in stopped.log_text()
        [path] = (stopped.base / "input").glob("*.latent")
        assert list((stopped.base / "input").glob(".*")) == []
        # A file that was about to close may be complete: then it stays.
        left = [each for each in stopped.output_dir.rglob("*") if each.is_file()]
        assert all(len(read(each).pts) == FRAMES for each in left) and len(left) <= (cell.lane == "close")
        assert_rescued(path, {**SAMPLES, "seed": seed})


def wait_for(condition, otherwise: str) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.02)

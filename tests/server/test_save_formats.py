"""Every format, depth, chroma and alpha that is offered: written by one server, read by PyAV and by Debian's ffmpeg."""

import dataclasses
import functools
import importlib
import itertools
import json
import re
import sys
from fractions import Fraction
from pathlib import Path

import av
import host
import numpy as np
import pytest
from graph import COLOURS, Graph, Link, Outcome, run
from PIL import Image, ImageSequence

sys.path.append(str(Path(__file__).resolve().parent.parent))

import ffmpeg
from async_frame_pipeline.pipeline import VERSION

formats = importlib.import_module("async_frame_pipeline.pipeline.sinks.formats")
PYAV = int(av.__version__.partition(".")[0])
FRAMES, WIDTH, FPS, PATCH = 9, 80, 16, 16
# Flat patches, for exact codes; below them a smooth, moving picture, for what encoders do to pictures.
PATCHES, WAVES = 48, 48
HEIGHT = PATCHES + WAVES
SECONDS = Fraction(FRAMES, FPS)
SAVING = Path(__file__).resolve().parent.parent.parent / "docs" / "saving.md"
WORKFLOW = {"nodes": [{"id": 1, "type": 'Ünïcode "quoted" 日本語'}], "version": 0.4}


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    format: str
    chroma: str
    bits: int
    alpha: bool = False
    quality: str = "high"

    @property
    def kind(self) -> formats.Format:
        return formats.FORMATS[self.format]

    def __str__(self) -> str:
        return f"{self.format}-{self.chroma}-{self.bits}{'-alpha' if self.alpha else ''}-{self.quality}".replace(
            " ", "_"
        )


def cases() -> list[Case]:
    found = []
    for name, each in formats.FORMATS.items():
        if "nvenc" in name:
            continue  # only where a card has it; what becomes of it elsewhere has its own test
        for chroma, depths in each.depths.items():
            for bits, alpha in itertools.product(depths, (False, True) if chroma in each.alpha else (False,)):
                found.append(Case(name, chroma, bits, alpha))
                if each.lossless and each.lossy:
                    found.append(Case(name, chroma, bits, alpha, "lossless"))
    return found


CASES = cases()
ENCODED_FIRST = {each.encoder.name: each.name for each in reversed(formats.FORMATS.values())}


def is_nightly(case: Case) -> bool:
    """Where an encoder has stood before, and everywhere in the oldest ComfyUI: all depths but one of each chroma.

    Of the chromas the first keeps its largest depth, the second the next smaller one, and so on in turn.
    """
    depths, chromas = case.kind.depths[case.chroma], list(case.kind.depths)
    repeats = host.VERSION == host.OLDEST or ENCODED_FIRST[case.kind.encoder.name] != case.format
    return repeats and case.bits != depths[-1 - chromas.index(case.chroma) % len(depths)]


def parameter(case: Case, *before: str):
    """The case, or a tuple that ends with it."""
    value = (*before, case) if before else case
    return pytest.param(value, marks=[pytest.mark.nightly] * is_nightly(case), id="-".join(map(str, (*before, case))))


def asked_for(request, name: str) -> list:
    """The values of this parameter in the tests that are about to run, none twice."""
    items = [item for item in request.session.items if item.path == request.path and hasattr(item, "callspec")]
    return list(dict.fromkeys(item.callspec.params[name] for item in items if name in item.callspec.params))


@pytest.fixture(scope="module")
def saved(server, request) -> dict[Case, tuple[Path, dict]]:
    """File, and the node's report to the user interface, of each case that is asked for: all from one prompt."""
    graph = Graph()
    sound = graph("AFPTestAudio", seconds=1.0)
    video = {
        alpha: graph(
            "CreateVideo",
            fps=FPS,
            audio=sound,
            images=graph("AFPTestPatches", frames=FRAMES, height=PATCHES, width=WIDTH, alpha=alpha, waves=WAVES),
        )
        for alpha in (False, True)
    }
    nodes = {
        case: graph(
            "SaveVideoStreaming",
            video=video[case.alpha],
            filename_prefix=f"formats/{i}",
            format=case.format,
            quality=case.quality,
            chroma=case.chroma,
            bit_depth=str(case.bits),
            speed="fast",
        )
        for i, case in enumerate(asked_for(request, "case") or CASES)
    }
    outcome = run(server, graph, {"extra_pnginfo": {"workflow": WORKFLOW}})
    return {case: (path_of(server, outcome, node), outcome.ui(node)) for case, node in nodes.items()}


def path_of(server, outcome: Outcome, node: Link) -> Path:
    file = outcome.ui(node)["images"][0]
    assert file["type"] == "output"
    return server.output_dir / file["subfolder"] / file["filename"]


def patch_numbers(frames: int = FRAMES) -> np.ndarray:
    """(T, rows, columns): which colour is where."""
    rows, columns = PATCHES // PATCH, WIDTH // PATCH
    return np.arange(rows * columns).reshape(rows, columns) + np.arange(frames)[:, None, None]


def expected_rgba(frames: int = FRAMES) -> np.ndarray:
    """(T, rows, columns, 4) in [0, 1]: red, green, blue and alpha of every patch."""
    numbers = patch_numbers(frames)
    return np.concatenate((COLOURS[numbers % len(COLOURS)], (numbers % 5)[..., None] / 4), axis=-1)


def centres(pictures: np.ndarray) -> np.ndarray:
    """The pixel in the middle of each patch."""
    return pictures[:, PATCH // 2 : PATCHES : PATCH, PATCH // 2 :: PATCH]


def expected_waves(frames: int = FRAMES) -> np.ndarray:
    """(T, WAVES, WIDTH, 4) in [0, 1]: the picture below the patches."""
    turn, down, across = np.ogrid[:frames, :WAVES, :WIDTH]
    turn, down, across = turn / 9, down / 48, across / 64
    waves = np.broadcast_arrays(across + turn, down + turn, across + down - turn, across - down + 0 * turn)
    red, green, blue, alpha = np.sin(2 * np.pi * np.stack(waves))
    return np.stack((0.5 + 0.4 * red, 0.5 + 0.4 * green, 0.5 + 0.4 * blue, 0.8 + 0.15 * alpha), axis=-1)


def psnr(pictures: np.ndarray) -> float:
    """Of the worst frame's waves, in dB; `pictures` (T, HEIGHT, WIDTH, 3 or 4) in [0, 1]."""
    border = 8  # where chroma runs into that of the patches
    error = (pictures[:, PATCHES:] - expected_waves()[..., : pictures.shape[-1]])[:, border:]
    return float(-10 * np.log10(np.square(error).mean(axis=(1, 2, 3)).max()))


def of_kind(*containers: str):
    return pytest.mark.parametrize(
        "case", [parameter(case) for case in CASES if case.kind.container.name in containers]
    )


def codec(case: Case) -> str:
    """FFmpeg's name of what the format's encoder makes."""
    return av.codec.Codec(case.kind.encoder.name, "w").canonical_name


def pixel_name(case: Case) -> str:
    """How ffmpeg names the pixels that a file of this case should have."""
    depth = f"{case.bits}le" if case.bits > 8 else ""
    if case.chroma != "rgb":
        return f"yuv{'a' if case.alpha else ''}{case.chroma.replace(':', '')}p{depth}"
    if case.bits == 8:
        return "bgra" if case.alpha else "bgr0"
    return f"gbr{'a' if case.alpha else ''}p{depth}"


@of_kind("mp4", "matroska", "webm", "mov")
def test_ffprobe_sees_what_was_asked_for(saved, case):
    video, audio, container = ffmpeg.probe(saved[case][0])
    assert video["codec_name"] == codec(case)
    wanted = pixel_name(case)
    if "vp9" in case.kind.encoder.name and case.alpha:
        assert video["tags"]["alpha_mode"] == "1"  # a second stream inside, which ffmpeg's own decoder does not read
        wanted = "yuv420p"
    elif case.format == "mov (prores)" and case.chroma == "4:4:4":
        wanted = wanted.replace("10le", "12le")  # how its decoder puts out 4444
    assert video["pix_fmt"] == wanted
    assert (video["width"], video["height"]) == (WIDTH, HEIGHT)
    assert int(video["nb_read_frames"]) == FRAMES
    assert Fraction(video["r_frame_rate"]) == FPS
    # Matroska counts milliseconds, and its length is that of the longer track.
    assert abs(ffmpeg.seconds(video, container) - SECONDS) <= (
        Fraction(25, 1000) if case.kind.extension in ("mkv", "webm") else 0
    )
    tags = [video.get(f"color_{name}") for name in ("range", "space", "primaries", "transfer")]
    expected = ["pc", "gbr", "bt709", "iec61966-2-1"] if case.chroma == "rgb" else ["tv", "bt709", "bt709", "bt709"]
    if case.kind.encoder.name == "prores_ks" and PYAV < 17:
        # Its frames cannot be told the last two; the container says them.
        assert b"nclc\x00\x01\x00\x01\x00\x01" in saved[case][0].read_bytes()
        expected[2:] = [None, None]
    assert tags == expected
    # Neither H.265 at 4:2:2 nor ProRes has a place for it.
    if case.chroma in ("4:2:0", "4:2:2") and (codec(case), case.chroma) not in (
        ("hevc", "4:2:2"),
        ("prores", "4:2:2"),
    ):
        assert video["chroma_location"] == "left"
    assert audio["codec_name"] == {"aac": "aac", "opus": "opus", "flac": "flac", "pcm": "pcm_s24le"}[case.kind.audio[0]]
    assert audio["channels"] == 2
    # To a codec frame: AAC's are 1024 samples, Opus's 960.
    assert abs(len(read(saved[case][0], case)[2]) - SECONDS * int(audio["sample_rate"])) <= 1024


@of_kind("mp4", "matroska", "webm", "mov")
def test_pyav_sees_the_same(saved, case):
    with av.open(str(saved[case][0])) as container:
        frames = list(container.decode(video=0))
        times = [frame.pts * frame.time_base for frame in frames]
        assert (
            all(abs(time - Fraction(i, FPS)) <= Fraction(1, 1000) for i, time in enumerate(times))
            and len(times) == FRAMES
        )
        assert abs(Fraction(container.duration, 1_000_000) - SECONDS) <= Fraction(25, 1000)
        metadata = {key.lower(): value for key, value in container.metadata.items()}
    first = frames[0]
    assert (first.width, first.height) == (WIDTH, HEIGHT)
    wanted = pixel_name(case)
    if "vp9" in case.kind.encoder.name and case.alpha:
        wanted = "yuv420p"
    elif case.format == "mov (prores)" and case.chroma == "4:4:4":
        wanted = wanted.replace("10le", "12le")
    assert first.format.name == wanted
    full, matrix, transfer = (2, 0, 13) if case.chroma == "rgb" else (1, 1, 1)
    assert (first.color_range, first.colorspace) == (full, matrix)
    if PYAV >= 17:  # older ones' frames do not tell the rest; ffprobe does
        assert (first.color_primaries, first.color_trc) == (1, transfer)
    assert json.loads(metadata["workflow"]) == WORKFLOW
    assert "SaveVideoStreaming" in {node["class_type"] for node in json.loads(metadata["prompt"]).values()}
    assert json.loads(metadata["async_frame_pipeline"]) == VERSION


def lossless(case: Case) -> bool:
    return case.quality == "lossless" or not case.kind.lossy


@functools.cache
def read(path: Path, case: Case) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """(pictures, stored codes where it is lossless, sound) as ffmpeg reads them: once for all tests."""
    # ffmpeg's own VP9 decoder knows of no alpha.
    decoder = "libvpx-vp9" if "vp9" in case.kind.encoder.name and case.alpha else None
    # ffmpeg 5 calls some of what is full range at 8 bits "yuvj420p", and would convert it to what is not.
    stored = ffmpeg.probe(path)[0]["pix_fmt"]
    pixels = stored if stored.startswith("yuvj") else pixel_name(case)
    return ffmpeg.read(path, case.alpha, pixels if lossless(case) else None, decoder)


def stated(case: Case) -> tuple[float, float]:
    """What docs/saving.md says of this format at "high": the largest error of a flat patch, and the lowest PSNR."""
    rows = re.findall(r"^\| (\S+) \| (\d+) \| (\d+) dB \|$", SAVING.read_text(), flags=re.MULTILINE)
    [(error, decibels)] = [row[1:] for row in rows if row[0].replace(".", "").lower() in case.format]
    return float(error), float(decibels)


# PSNR of what is lossless: rounded to 8 bits, and with chroma at half the size.
LOSSLESS_DB = {"4:2:0": 47, "4:2:2": 47, "4:4:4": 49, "rgb": 51}
# ffmpeg's conversions to RGB are up to one 8-bit code low themselves, even from RGB.
READER = 1.15


@of_kind("mp4", "matroska", "webm", "mov")
def test_flat_patches_come_back(saved, case):
    """Lossless: the stored codes are the standard's, rounded to nearest. Always: as RGB, within a stated bound."""
    path = saved[case][0]
    pictures = read(path, case)[0]
    got = centres(pictures)
    error = np.abs(got - expected_rgba()[..., : got.shape[-1]]).max() * 255
    if not lossless(case):
        largest, decibels = stated(case)
        assert error <= largest and psnr(pictures) >= decibels
        return
    # Half a code each of Y, Cb and Cr makes up to 1.64 codes of blue.
    assert error <= 1.64 / 2 ** (case.bits - 8) + READER and psnr(pictures) >= LOSSLESS_DB[case.chroma]
    for plane, reference in zip(stored_planes(path, case), reference_codes(case)):
        assert np.abs(plane - reference).max() <= 0.502


def stored_planes(path: Path, case: Case) -> list[np.ndarray]:
    """The middles of the patches in the planes of the file: Y, U, V or R, G, B, and perhaps alpha."""
    codes = read(path, case)[1].astype(int)
    if pixel_name(case).startswith("bgr"):
        blue, green, red, alpha = np.moveaxis(centres(codes.reshape(-1, HEIGHT, WIDTH, 4)), -1, 0)
        return [red, green, blue] + [alpha] * case.alpha
    across, down = {"4:2:0": (2, 2), "4:2:2": (2, 1)}.get(case.chroma, (1, 1))
    planes, start = [], 0
    for x, y in [(1, 1), (across, down), (across, down)] + [(1, 1)] * case.alpha:
        size = (HEIGHT // y) * (WIDTH // x)
        plane = codes[:, start : start + size].reshape(-1, HEIGHT // y, WIDTH // x)
        planes.append(plane[:, PATCH // y // 2 : PATCHES // y : PATCH // y, PATCH // x // 2 :: PATCH // x])
        start += size
    if case.chroma == "rgb":
        green, blue, red, *alpha = planes
        return [red, green, blue, *alpha]
    return planes


def reference_codes(
    case: Case, matrix: tuple[float, float] = (0.2126, 0.0722), full_range: bool = False
) -> list[np.ndarray]:
    """In float64, not rounded; RGB and alpha full range.

    Source: ITU-R BT.709-6, items 3.2 to 3.4, and BT.601-7, section 2.5; full range as in ITU-T H.273, section 8.3.
    """
    red, green, blue, alpha = np.moveaxis(expected_rgba(), -1, 0)
    full, step = 2**case.bits - 1, 2 ** (case.bits - 8)
    if case.chroma == "rgb":
        return [colour * full for colour in (red, green, blue, alpha)]
    of_red, of_blue = matrix
    luma = of_red * red + (1 - of_red - of_blue) * green + of_blue * blue
    chroma = [(colour - luma) / (2 - 2 * share) for colour, share in ((blue, of_blue), (red, of_red))]
    if full_range:
        return [luma * full, *(np.clip(each * full + 128 * step, 0, full) for each in chroma), alpha * full]
    return [(219 * luma + 16) * step, *((224 * each + 128) * step for each in chroma), alpha * full]


COLOURS_OTHER = {
    "BT.709 full range": ((0.2126, 0.0722), True, ("pc", "bt709")),
    "BT.601": ((0.299, 0.114), False, ("tv", "smpte170m")),
    "BT.601 full range": ((0.299, 0.114), True, ("pc", "smpte170m")),
}


# A lossless file of each codec in YUV, at each of its depths, with each colour there is beside BT.709.
COLOURED = [
    (color, Case(name, "4:2:0", bits, quality="lossless" if formats.FORMATS[name].lossy else "high"))
    for color in COLOURS_OTHER
    for name in ("mp4 (h264)", "mp4 (h265)", "mp4 (av1)", "mkv (ffv1)", "webm (vp9)")
    for bits in formats.FORMATS[name].depths["4:2:0"]
]


@pytest.fixture(scope="module")
def coloured(server, request) -> dict[tuple[str, Case], Path]:
    """The file of each of COLOURED that is asked for."""
    graph = Graph()
    images = graph("AFPTestPatches", frames=FRAMES, height=PATCHES, width=WIDTH, waves=WAVES)
    video = graph("CreateVideo", images=images, fps=FPS)
    nodes = {
        (color, case): graph(
            "SaveVideoStreaming",
            video=video,
            filename_prefix=f"coloured/{i}",
            format=case.format,
            color=color,
            quality=case.quality,
            chroma=case.chroma,
            bit_depth=str(case.bits),
            speed="fast",
        )
        for i, (color, case) in enumerate(asked_for(request, "coloured_case"))
    }
    outcome = run(server, graph)
    return {key: path_of(server, outcome, node) for key, node in nodes.items()}


@pytest.mark.parametrize("coloured_case", [parameter(case, color) for color, case in COLOURED])
def test_flat_patches_of_other_colours_come_back(coloured, coloured_case):
    """BT.601 and full range: the codes of the standard, rounded to nearest, in every lossless codec and depth."""
    path, (color, case) = coloured[coloured_case], coloured_case
    matrix, full_range, tags = COLOURS_OTHER[color]
    video, _, _ = ffmpeg.probe(path)
    assert (video["color_range"], video["color_space"]) == tags
    for plane, reference in zip(stored_planes(path, case), reference_codes(case, matrix, full_range)):
        assert np.abs(plane - reference).max() <= 0.502
    # A reader that goes by the tags sees the colours.
    error = np.abs(centres(read(path, case)[0]) - expected_rgba()[..., :3]).max() * 255
    assert error <= 1.64 / 2 ** (case.bits - 8) + READER


# The first format of each container with sounds of its own.
SOUNDING_FIRST = {(each.container.name, each.audio): each.name for each in reversed(formats.FORMATS.values())}
SOUNDS = [(name, codec) for name in SOUNDING_FIRST.values() for codec in formats.FORMATS[name].audio]


@pytest.fixture(scope="module")
def sounding(server) -> dict[tuple[str, str], Path]:
    """A file of each container with each codec of sound it has: three channels at 32 kHz, longer than the video."""
    graph = Graph()
    sound = graph("AFPTestAudio", seconds=1.0, sample_rate=32000, channels=3)
    images = graph("AFPTestPatches", frames=FRAMES, height=PATCHES, width=WIDTH)
    video = graph("CreateVideo", images=images, fps=FPS, audio=sound)
    nodes = {
        (name, codec): graph(
            "SaveVideoStreaming",
            video=video,
            filename_prefix=f"sounding/{i}",
            format=name,
            quality="low",
            speed="fastest",
            audio_codec=codec,
        )
        for i, (name, codec) in enumerate(SOUNDS)
    }
    outcome = run(server, graph)
    return {key: path_of(server, outcome, node) for key, node in nodes.items()}


@pytest.mark.parametrize("name, codec", SOUNDS)
def test_every_sound_in_every_container(sounding, name, codec):
    path = sounding[name, codec]
    _, audio, _ = ffmpeg.probe(path)
    rate = 48000 if codec == "opus" else 32000
    stored = {"aac": "aac", "opus": "opus", "flac": "flac", "pcm": "pcm_s24le"}[codec]
    assert (audio["codec_name"], int(audio["sample_rate"]), audio["channels"]) == (stored, rate, 3)
    got = ffmpeg.sound(path)
    wanted = 0.3 * np.sin(2 * np.pi * 220 * np.arange(1, 4) * np.arange(int(SECONDS * rate))[:, None] / rate)
    exact = codec in ("flac", "pcm")
    if name.startswith("mkv") and codec == "aac":
        # Matroska has no place for how much the encoder put before the sound: times below 0 tell it.
        got = got[round(-float(audio["start_time"]) * rate) :]
    assert abs(len(got) - len(wanted)) <= (0 if exact else 1024)
    # In step with the pictures; lossy encoders take a moment to settle.
    heard = slice(0 if exact else 8192, len(wanted) - (0 if exact else 2048))
    assert np.abs(got[heard] - wanted[heard]).max() <= (2**-22 if exact else 0.02)


@of_kind("png")
def test_png_sequence(saved, case):
    first = saved[case][0]
    files = sorted(first.parent.iterdir())
    assert [file.name for file in files] == [f"{i:05}.png" for i in range(1, FRAMES + 1)]
    video, _, _ = ffmpeg.probe(first)
    name = {(8, False): "rgb24", (8, True): "rgba", (16, False): "rgb48be", (16, True): "rgba64be"}[
        case.bits, case.alpha
    ]
    assert video["pix_fmt"] == name
    components, full = 4 if case.alpha else 3, 2**case.bits - 1
    codes = ffmpeg.codes(first.with_name("%05d.png"), name.replace("be", "le")).reshape(
        FRAMES, HEIGHT, WIDTH, components
    )
    assert np.abs(centres(codes) - expected_rgba()[..., :components] * full).max() <= 0.502
    # The waves are made in float32, which at 16 bits is a few hundredths of a code.
    assert np.abs(codes[:, PATCHES:] - expected_waves()[..., :components] * full).max() <= 0.54
    with av.open(str(first)) as container:
        assert next(container.decode(video=0)).format.name == name
    assert_restores(Image.open(first).text)
    assert not Image.open(files[1]).text, "one copy is enough"


@of_kind("exr")
def test_exr_sequence(saved, case):
    """Linear light in half floats, times alpha; the workflow in a picture beside."""
    first = saved[case][0]
    names = [f"{i:05}.exr" for i in range(1, FRAMES + 1)]
    assert sorted(file.name for file in first.parent.iterdir()) == [*names, "workflow.png"]
    planes = 4 if case.alpha else 3
    # As 16-bit halves of what are floats.
    codes = ffmpeg.codes(first.with_name("%05d.exr"), f"gbr{'a' * case.alpha}pf32le").reshape(FRAMES, -1)
    green, blue, red, *alpha = codes.copy().view(np.float32).reshape(FRAMES, planes, HEIGHT, WIDTH).swapaxes(0, 1)
    wanted = np.concatenate([np.repeat(np.repeat(expected_rgba(), PATCH, 1), PATCH, 2), expected_waves()], axis=1)
    light = np.where(wanted <= 0.04045, wanted / 12.92, ((wanted + 0.055) / 1.055) ** 2.4)
    light *= wanted[..., 3:] if case.alpha else 1
    for plane, colour in zip((red, green, blue), np.moveaxis(light, -1, 0)):
        assert np.abs(plane - colour).max() <= 2**-11
    assert not case.alpha or np.abs(alpha[0] - wanted[..., 3]).max() <= 2**-11
    assert_restores(Image.open(first.with_name("workflow.png")).text)


@of_kind("gif", "webp")
def test_animated_pictures(saved, case):
    path = saved[case][0]
    with Image.open(path) as picture:
        assert picture.size == (WIDTH, HEIGHT)
        assert picture.info["loop"] == 0, "for ever"
        exif = picture.getexif()
        frames, milliseconds = [], []
        for frame in ImageSequence.Iterator(picture):
            frames.append(np.asarray(frame.convert("RGBA")))
            milliseconds.append(frame.info["duration"])
    assert len(frames) == FRAMES
    # GIF counts in hundredths: 6 and 7 of them take turns, and none gets lost.
    assert abs(sum(milliseconds) - 1000 * SECONDS) <= 10
    pictures = np.stack(frames) / 255
    got, wanted = centres(pictures), expected_rgba()
    opaque = np.ones(wanted.shape[:3], bool) if not case.alpha else wanted[..., 3] >= 0.5
    bound, decibels = (0.51, 51) if case.quality == "lossless" else stated(case)
    assert np.abs(got - wanted)[opaque][:, :3].max() * 255 <= bound
    assert psnr(pictures[..., :3]) >= decibels
    if case.alpha:
        alpha = wanted[..., 3] >= 0.5 if case.format == "gif" else wanted[..., 3]
        assert np.abs(got[..., 3] - alpha).max() * 255 <= 0.51
    if case.format == "gif":
        assert_restores(Image.open(path.with_suffix(".png")).text)
        video, _, _ = ffmpeg.probe(path)
        assert int(video["nb_read_frames"]) == FRAMES
    else:
        assert_restores(
            {name: text for name, _, text in (exif[tag].partition(":") for tag in (0x010E, 0x010F, 0x0110))}
        )


@of_kind("matroska")
def test_a_picture_beside_it_restores_the_workflow(saved, case):
    """The frontend reads no MKV."""
    assert_restores(Image.open(saved[case][0].with_suffix(".png")).text)


def assert_restores(texts: dict[str, str]) -> None:
    assert json.loads(texts["workflow"]) == WORKFLOW
    assert "SaveVideoStreaming" in {node["class_type"] for node in json.loads(texts["prompt"]).values()}
    assert json.loads(texts["async_frame_pipeline"]) == VERSION


def test_nothing_else_is_left(saved):
    """One file for each case, with the pictures that belong to them; no temporaries."""
    folder = next(iter(saved.values()))[0].parent
    for entry in folder.iterdir():
        assert entry.name.split("_")[1] == "00001" and not entry.name.startswith("."), entry.name


@pytest.mark.parametrize("case", [parameter(case) for case in CASES])
def test_the_frontend_is_told_what_to_show(saved, case):
    ui = saved[case][1]
    files = ui["images"]
    assert len(files) == 1
    assert ui.get("animated") == (None if case.kind.container.name in ("gif", "webp", "png", "exr") else [True])

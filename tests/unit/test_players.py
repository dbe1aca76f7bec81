"""What players and editors ask of a file beyond what FFmpeg's own reader does: boxes and bytes, read by hand.

docs/saving.md, "What plays where", says who asks for it.
"""

import struct

import av
import pytest
from async_frame_pipeline.pipeline.sinks.containers import Writing
from async_frame_pipeline.pipeline.sinks.formats import FORMATS, Choice
from async_frame_pipeline.pipeline.sinks.picture_track import PictureTrack
from PIL import Image, ImageSequence

from .boxes import boxes, entry, hevc_arrays, nal_kinds, order
from .test_sinks import VIDEOS, Audio, Fraction, VideoOptions, choice_of, file_sink, moving, np, target, write

VPS, SPS, PPS = 32, 33, 34
KEPT = pytest.mark.parametrize("keep", [False, True], ids=["plain", "kept"])


def save(folder, name, keep=False, sound=None, frames=12, **more):
    """A clip of 96x64 in this format."""
    choice = choice_of(name, speed="fast", **more)
    sink = file_sink(target(folder, choice.format), VideoOptions(Fraction(16), choice, sound, keep_unfinished=keep))
    pictures = moving(frames, 64, 96)
    write(sink, frames, 64, 96, decode=lambda submit: submit(pictures))
    return sink.path


@KEPT
@pytest.mark.parametrize("bits", FORMATS["mp4 (h265)"].depths["4:2:0"])
def test_h265_is_as_apple_reads_it(tmp_path, bits, keep):
    """hvc1: the parameter sets are in the head, all of them, and nowhere else."""
    path = save(tmp_path, "mp4 (h265)", keep, bit_depth=bits)
    name, inside = entry(path, "vide")
    assert name == "hvc1"
    arrays = hevc_arrays(inside["hvcC"])
    assert {VPS, SPS, PPS} <= set(arrays) and all(arrays[kind] for kind in (VPS, SPS, PPS))
    with av.open(str(path)) as container:
        kinds = [kind for packet in container.demux(video=0) if packet.size for kind in nal_kinds(bytes(packet))]
    assert len(kinds) >= 12 and not {VPS, SPS, PPS} & set(kinds)


def test_a_kept_h265_is_as_apple_reads_it_while_it_grows(tmp_path):
    def decode(submit):
        submit(moving(100, 64, 96))
        raise RuntimeError("the decoder broke")

    sink = file_sink(
        target(tmp_path, FORMATS["mp4 (h265)"]),
        VideoOptions(Fraction(16), choice_of("mp4 (h265)", speed="fast"), keep_unfinished=True),
    )
    with pytest.raises(RuntimeError):
        write(sink, 200, 64, 96, decode=decode)
    name, inside = entry(sink.kept[0], "vide")
    assert name == "hvc1" and all(hevc_arrays(inside["hvcC"])[kind] for kind in (VPS, SPS, PPS))


@pytest.mark.parametrize("name", [name for name, each in FORMATS.items() if each.extension in ("mp4", "mov")])
def test_every_encoder_of_h265_is_named_so(tmp_path, name):
    """Those too that this machine cannot open."""
    each = FORMATS[name]
    try:
        codec = av.codec.Codec(each.encoder.name, "w")
    except ValueError:
        pytest.skip(f"this PyAV has no {each.encoder.name}")
    clock = each.container.clock(Fraction(16))
    options = each.container.options(Writing(clock, 1))
    with av.open(str(tmp_path / "clip"), "w", format=each.container.name, options=options) as container:
        PictureTrack(container, Choice(each, bit_depth=each.depths[each.default_chroma][0]), clock, 64, 96, 1)
        tag = container.streams.video[0].codec_context.codec_tag
    assert tag == ("hvc1" if codec.canonical_name == "hevc" else "\0\0\0\0")


# Every container and codec of pictures that is not an animated one or a folder, once.
ONE_OF_EACH = list(
    {(each.container.name, each.encoder.name): name for name, each in FORMATS.items() if name in VIDEOS}.values()
)
BOXED = [name for name in ONE_OF_EACH if FORMATS[name].container.in_fragments]


@KEPT
@pytest.mark.parametrize("name", BOXED)
def test_the_head_comes_first_and_says_what_the_pictures_are(tmp_path, name, keep):
    """Players start before they have the whole file; editors guess neither colours nor fields."""
    sound = Audio(np.full((2, 96000), 0.1, np.float32), 48000)
    path = save(tmp_path, name, keep, sound, full_range=FORMATS[name].extension == "mp4")
    names = order(path)
    assert names.index("moov") < names.index("mdat") and not {"moof", "mfra"} & set(names)
    kind, inside = entry(path, "vide")
    if FORMATS[name].extension == "mov":
        assert inside["colr"] == b"nclc" + bytes([0, 1, 0, 1, 0, 1])
    else:
        assert inside["colr"] == b"nclx" + bytes([0, 1, 0, 1, 0, 1, 0x80]), "full range"
    # H.264 has its own place for it.
    assert kind == "avc1" or inside["fiel"] == bytes([1, 0]), "progressive"
    _, sounding = entry(path, "soun")
    if kind[:2] == "ap":
        assert b"enda" + bytes([0, 1]) in sounding["wave"] and "chan" in sounding, "which end comes first, and for whom"
    else:
        # What the AAC encoder puts before the sound is not played.
        [*_, edit] = boxes(path)["moov/trak/edts/elst"]
        assert int.from_bytes(edit[12:16], "big") == 1024


@pytest.mark.parametrize("name", [name for name in ONE_OF_EACH if name not in BOXED])
def test_matroska_says_that_pictures_are_progressive(tmp_path, name):
    """FlagInterlaced, 0x9A, of one byte: 2."""
    assert b"\x9a\x81\x02" in save(tmp_path, name).read_bytes()[:4096]


@pytest.mark.parametrize(("name", "fastest", "shortest"), [("webp (animated)", 90, 11), ("gif", 50, 20)])
def test_no_frame_is_shown_for_ten_times_as_long(tmp_path, name, fastest, shortest):
    """Browsers make 100 ms of what says 10 ms or less; seen in Chromium: a WebP of 100 frames a second plays at 10."""
    each = FORMATS[name]
    options = VideoOptions(Fraction(fastest), choice_of(name))
    sink = file_sink(target(tmp_path, each), options)
    pictures = moving(20, 16, 16)
    write(sink, 20, 16, 16, decode=lambda submit: submit(pictures))
    with Image.open(sink.path) as picture:
        milliseconds = [frame.load() and frame.info["duration"] for frame in ImageSequence.Iterator(picture)]
    assert len(milliseconds) == 20 and min(milliseconds) >= shortest
    sink = file_sink(target(tmp_path, each), VideoOptions(Fraction(fastest + 1), choice_of(name)))
    with pytest.raises(ValueError, match=f"plays at most {fastest} frames a second, got {fastest + 1}"):
        write(sink, 20, 16, 16, decode=lambda submit: pytest.fail("decoded"))


@pytest.mark.parametrize("bits", FORMATS["png sequence"].depths["rgb"])
def test_pixels_of_a_png_are_square_and_srgb(tmp_path, bits):
    folder = save(tmp_path, "png sequence", bit_depth=bits)
    chunks = {}
    data = sorted(folder.iterdir())[1].read_bytes()
    position = 8
    while position < len(data):
        [size] = struct.unpack(">I", data[position : position + 4])
        chunks[data[position + 4 : position + 8]] = data[position + 8 : position + 8 + size]
        position += 12 + size
    assert struct.unpack(">IIB", chunks[b"pHYs"]) == (1, 1, 0)
    if int(av.__version__.split(".")[0]) >= 17:  # older ones' frames cannot be told; PNG is sRGB where nothing is said
        assert b"sRGB" in chunks and struct.unpack(">I", chunks[b"gAMA"]) == (45455,)


@pytest.mark.parametrize(("rate", "stored"), [(96000, 48000), (64000, 48000), (44100, 44100), (7350, 48000)])
def test_aac_is_of_a_rate_that_windows_decodes(tmp_path, rate, stored):
    path = save(tmp_path, "mp4 (h264)", sound=Audio(np.full((2, rate), 0.1, np.float32), rate))
    with av.open(str(path)) as container:
        assert next(container.decode(audio=0)).sample_rate == stored


def test_what_is_before_opus_is_said_wherever_it_is(tmp_path):
    """312 samples at 48 kHz: left out by the edit list in MP4, by CodecDelay in Matroska and WebM."""
    sound = Audio(np.full((2, 24000), 0.1, np.float32), 48000)
    each = FORMATS["mp4 (h264)"]
    sink = file_sink(target(tmp_path, each), VideoOptions(Fraction(16), choice_of(each.name), sound, "opus"))
    pictures = moving(8, 64, 96)
    write(sink, 8, 64, 96, decode=lambda submit: submit(pictures))
    name, inside = entry(sink.path, "soun")
    # Version 0, two channels, then the pre-skip; ISO/IEC 14496-12's way for Opus has them big-endian.
    assert name == "Opus" and inside["dOps"][:4] == bytes([0, 2]) + struct.pack(">H", 312)
    [*_, edit] = boxes(sink.path)["moov/trak/edts/elst"]
    assert int.from_bytes(edit[12:16], "big") == 312
    for format in ("mkv (h264)", "webm (vp9)"):
        data = save(tmp_path, format, sound=sound).read_bytes()
        # In nanoseconds: the delay, and 80 ms that a decoder needs after a jump.
        assert b"\x56\xaa\x83" + (6_500_000).to_bytes(3, "big") in data, format
        assert b"\x56\xbb\x84" + (80_000_000).to_bytes(4, "big") in data, format


@pytest.mark.parametrize("bits", FORMATS["mp4 (av1)"].depths["4:2:0"])
def test_av1_says_what_it_needs_of_a_decoder(tmp_path, bits):
    """av1C: profile Main, bits, 4:2:0, and the sequence header itself."""
    name, inside = entry(save(tmp_path, "mp4 (av1)", bit_depth=bits), "vide")
    config = inside["av1C"]
    assert name == "av01" and config[0] == 0x81 and config[1] >> 5 == 0
    assert config[2] >> 6 & 1 == (bits == 10) and config[2] >> 2 & 3 == 3
    assert config[4] >> 3 & 0xF == 1, "an OBU with a sequence header"


@pytest.mark.parametrize("chroma", FORMATS["mov (prores)"].depths)
def test_a_prores_frame_says_what_it_is(tmp_path, chroma):
    """SMPTE RDD 36, section 5.1: made as Apple's, progressive, in the colours that the container says."""
    path = save(tmp_path, "mov (prores)", chroma=chroma)
    with av.open(str(path)) as container:
        frame = bytes(next(container.demux(video=0)))
    assert (frame[4:8], frame[12:16]) == (b"icpf", b"apl0")
    assert struct.unpack(">HH", frame[16:20]) == (96, 64)
    assert frame[20] >> 6 == {"4:2:2": 2, "4:4:4": 3}[chroma] and frame[20] >> 2 & 3 == 0
    if int(av.__version__.split(".")[0]) >= 17:  # older ones' frames cannot be told
        assert tuple(frame[22:25]) == (1, 1, 1)

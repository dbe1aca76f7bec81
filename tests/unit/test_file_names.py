"""Prefixes that lead out of the output folder, by whatever way, are refused; all others are let be."""

import importlib.util
import ntpath
import types
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ..conftest import ROOT

# By its file: the package around it needs a ComfyUI.
spec = importlib.util.spec_from_file_location("file_names", ROOT / "nodes" / "file_names.py")
file_names = importlib.util.module_from_spec(spec)
spec.loader.exec_module(file_names)


@pytest.mark.parametrize(
    "prefix",
    [
        "../x",
        "a/../../x",
        "a/../x",
        "/tmp/x",
        "//host/share/x",
        "C:x",
        "c:/x",
        "C:\\x",
        "\\\\host\\share\\x",
        "..\\x",
        "a\\..\\..\\x",
        "\\x",
        "\\\\?\\C:\\x",
        "a\0b",
        "a\nb",
        "a\x1b[2Jb",
        "half\ud800",
        "..",
        "../",
        "/",
        "\\",
    ],
)
def test_refused(prefix, tmp_path):
    with pytest.raises(ValueError, match="output folder") as refused:
        file_names.check_prefix(prefix, str(tmp_path))
    str(refused.value).encode()  # can be shown and logged


@pytest.mark.parametrize(
    "prefix",
    [
        "x",
        "video/ComfyUI",
        "",
        "a b/c",
        "日本語/動画",
        "e\u0301",
        "．．／x",
        "..x",
        "x..",
        "a/...",
        "~",
        "~root/x",
        "$HOME/x",
        "%date:hh:mm%",
        "a;rm -rf b",
        "x" * 300,
        "-x",
        "con",
    ],
)
def test_let_be(prefix, tmp_path):
    file_names.check_prefix(prefix, str(tmp_path))


@pytest.mark.parametrize("prefix", ["link/x", "link/deeper/x", "folder/link/x"])
def test_a_link_that_leads_out(prefix, tmp_path):
    root, outside = tmp_path / "output", tmp_path / "outside"
    (root / "folder").mkdir(parents=True)
    outside.mkdir()
    (root / "link").symlink_to(outside)
    (root / "folder" / "link").symlink_to("../../outside")
    with pytest.raises(ValueError, match="link"):
        file_names.check_prefix(prefix, str(root))


def test_a_link_that_stays_inside_and_an_output_folder_that_is_a_link(tmp_path):
    real, root = tmp_path / "disk", tmp_path / "output"
    (real / "folder").mkdir(parents=True)
    (real / "link").symlink_to("folder")
    root.symlink_to(real)
    file_names.check_prefix("link/x", str(root))


@given(st.text(alphabet=st.sampled_from("./\\:abC~\0 \ud800é"), max_size=12))
def test_whatever_is_let_be_stays_inside(tmp_path_factory, prefix):
    root = tmp_path_factory.getbasetemp()
    try:
        file_names.check_prefix(prefix, str(root))
    except ValueError:
        return
    assert (root / f"{prefix}_00001_.mp4").resolve().is_relative_to(Path(root).resolve())


def test_a_link_to_another_drive(monkeypatch):
    """As on Windows, where two drives have no path in common."""
    real = {"C:\\output": "C:\\output", "C:\\output\\link": "D:\\elsewhere"}
    path = types.SimpleNamespace(**vars(ntpath) | {"realpath": real.get})
    monkeypatch.setattr(file_names, "os", types.SimpleNamespace(path=path))
    with pytest.raises(ValueError, match="a link in it leads to D:"):
        file_names.check_prefix("link/x", "C:\\output")

"""Prefixes that lead out of the output folder, by whatever way, are refused; all others are taken, dates filled in."""

import importlib.util
import ntpath
import os
import re
import types
from datetime import datetime
from pathlib import Path, PureWindowsPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ..conftest import ROOT

ALIKE = settings(deadline=None, derandomize=True)

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
        file_names.checked_prefix(prefix, str(tmp_path), within)
    str(refused.value).encode()  # can be shown and logged


@pytest.mark.parametrize("prefix", ["C:x", "a:b/c", "c:/x", "C:\\x"])
def test_a_colon_after_one_letter_is_said_to_be_a_drive(prefix, tmp_path):
    with pytest.raises(ValueError, match=rf": it begins with '{prefix[:2]}', which is a drive on Windows\. Use"):
        file_names.checked_prefix(prefix, str(tmp_path), within)


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
        "a;rm -rf b",
        "x" * 300,
        "-x",
        "con",
    ],
)
def test_let_be(prefix, tmp_path):
    assert file_names.checked_prefix(prefix, str(tmp_path), within) == prefix


def within(directory: str, target: str) -> bool:
    """As ComfyUI 0.30.0 looks at links; 0.18.2 does not."""
    return Path(os.path.realpath(target)).is_relative_to(os.path.realpath(directory))


@pytest.fixture
def output(tmp_path) -> str:
    """An output folder with links out of it."""
    root, outside = tmp_path / "output", tmp_path / "outside"
    (root / "folder").mkdir(parents=True)
    outside.mkdir()
    (root / "link").symlink_to(outside)
    (root / "folder" / "link").symlink_to("../../outside")
    return str(root)


@pytest.mark.parametrize("prefix", ["link/x", "link/deeper/x", "folder/link/x"])
def test_a_link_that_leads_out_is_followed_where_comfyui_follows_it(prefix, output):
    """A link to another drive is the user's own."""
    assert file_names.checked_prefix(prefix, output) == prefix
    assert file_names.checked_prefix(f"{output}/{prefix}", output) == prefix
    for given_as in (prefix, f"{output}/{prefix}"):
        with pytest.raises(ValueError, match="a link in it leads to .*outside.*, and this ComfyUI follows no links"):
            file_names.checked_prefix(given_as, output, within)


def test_a_link_that_stays_inside_and_an_output_folder_that_is_a_link(tmp_path):
    real, root = tmp_path / "disk", tmp_path / "output"
    (real / "folder").mkdir(parents=True)
    (real / "link").symlink_to("folder")
    root.symlink_to(real)
    for prefix in ("link/x", f"{root}/link/x", f"{real}/link/x"):
        assert file_names.checked_prefix(prefix, str(root), within) == "link/x"


@pytest.mark.parametrize("prefix", ["x", "video/x", "a b/名/x", "video/"])
def test_an_absolute_path_in_the_output_folder_is_a_place_in_it(prefix, tmp_path):
    """As for ComfyUI's own savers."""
    relative = file_names.checked_prefix(f"{tmp_path}/{prefix}", str(tmp_path), within)
    assert os.path.normpath(relative) == os.path.normpath(prefix)


@pytest.mark.parametrize("prefix", ["", "/", "/../x", "/a/../../x", "2/x", "/a/../x", "/C:/../x"])
def test_an_absolute_path_that_only_begins_like_the_output_folder_is_refused(prefix, tmp_path):
    with pytest.raises(ValueError, match="it is an absolute path that is not in|it holds '..'"):
        file_names.checked_prefix(f"{tmp_path}{prefix}", str(tmp_path), within)


MOMENT = datetime(2031, 2, 3, 4, 5, 6)


@pytest.mark.parametrize(
    "prefix, filled",
    [
        ("%date:yyyy-MM-dd%/x", "2031-02-03/x"),
        ("x_%date:yyMMdd%_%date:hhmmss%", "x_310203_040506"),
        ("%date:d.M.yyyy h-m-s%", "3.2.2031 4-5-6"),
        ("%date:yyyy/MM/dd%/x", "2031/02/03/x"),
        ("%date:yyy y HH ddd%", "yyy y HH 033"),
        ("%date:%", "%date:%"),
        ("%date:yyyy", "%date:yyyy"),
        ("%year%%date:yyyy%%width%", "%year%2031%width%"),
        ("date:yyyy", "date:yyyy"),
        ("%Load VAE.vae_name%", "%Load VAE.vae_name%"),
    ],
)
def test_a_date_is_filled_in_as_the_editor_does(prefix, filled):
    assert file_names.with_date(prefix, MOMENT) == filled


@pytest.mark.parametrize("prefix", ["%date:../..%/x", "%date:/%x", "%date:C:%\\x", "%date:\0%"])
def test_a_date_leads_nowhere_else(prefix, tmp_path):
    with pytest.raises(ValueError, match="output folder"):
        file_names.checked_prefix(prefix, str(tmp_path), within)


def test_of_the_date_that_is_now(tmp_path):
    assert re.fullmatch(r"20\d\d/x", file_names.checked_prefix("%date:yyyy%/x", str(tmp_path)))


@ALIKE
@given(st.text(alphabet=st.sampled_from("./\\:abC~\0 \ud800é%d"), max_size=12), st.booleans(), st.booleans())
def test_whatever_is_let_be_stays_inside(tmp_path_factory, rest, absolute, date):
    root = tmp_path_factory.getbasetemp()
    rest = f"%date:{rest}%" if date else rest
    prefix = f"{root}{rest}" if absolute else rest
    try:
        relative = file_names.checked_prefix(prefix, str(root), within)
    except ValueError:
        return
    assert (root / f"{relative}_00001_.mp4").resolve().is_relative_to(Path(root).resolve())


def test_on_windows(monkeypatch):
    """Two drives have no path in common there, and some characters are in no name."""
    real = {"C:\\output": "C:\\output", "C:\\output\\link": "D:\\elsewhere"}
    path = types.SimpleNamespace(**vars(ntpath) | {"realpath": real.get})
    monkeypatch.setattr(file_names, "os", types.SimpleNamespace(path=path, name="nt"))
    monkeypatch.setattr(file_names, "PurePath", PureWindowsPath)
    with pytest.raises(ValueError, match="a link in it leads to D:"):
        file_names.checked_prefix("link/x", "C:\\output", lambda *paths: False)
    assert file_names.checked_prefix("link/x", "C:\\output") == "link/x"
    assert file_names.checked_prefix("c:\\Output\\video\\x", "C:\\output") == "video\\x"
    for prefix in ("C:\\outputs\\x", "D:\\output\\x", "C:output\\x", "C:\\output\\..\\x"):
        with pytest.raises(ValueError, match="output folder"):
            file_names.checked_prefix(prefix, "C:\\output")
    for prefix in ("12:30", "a/b?c", "%date:hh:mm%", 'a"b', "a|b", "a*", "<a>"):
        with pytest.raises(ValueError, match="Windows takes none of"):
            file_names.checked_prefix(prefix, "C:\\output")

"""Where a prefix leads to in ComfyUI's own folders."""

import pytest

from . import in_comfyui  # noqa: F401

import folder_paths
from async_frame_pipeline.nodes.comfyui import server


@pytest.fixture
def output(tmp_path, monkeypatch):
    """ComfyUI's output folder, with a link to another drive."""
    root, drive = tmp_path / "output", tmp_path / "drive"
    for folder in (root, drive):
        folder.mkdir()
    (root / "drive").symlink_to(drive)
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(root))
    return root


def test_an_absolute_prefix_and_a_date_become_a_subfolder(output):
    folder, name, number, subfolder = server.output_names(
        f"{output}/%date:yyyy%/%width%", 48, 32, server.output_folder()
    )
    assert (folder, name, number) == (f"{output}/{subfolder}", "48", 1) and len(subfolder) == 4


def stock_follows(prefix: str) -> bool:
    try:
        folder_paths.get_save_image_path(prefix, folder_paths.get_output_directory())
        return True
    except Exception:
        return False


def test_links_are_followed_where_the_stock_savers_follow_them(output):
    if stock_follows("drive/x"):
        assert server.output_names("drive/x", 48, 32, server.output_folder())[3] == "drive"
    else:
        with pytest.raises(ValueError, match="this ComfyUI follows no links"):
            server.check_prefix("drive/x")  # when it is queued
        with pytest.raises(ValueError, match="this ComfyUI follows no links"):
            server.output_names("drive/x", 48, 32, server.output_folder())


def test_an_older_comfyui_that_follows_links(output, monkeypatch):
    monkeypatch.delattr(folder_paths, "is_within_directory", raising=False)
    assert server.check_prefix("drive/x") == "drive/x"


@pytest.mark.parametrize("prefix", ["{}/../x", "{}2/x", "{}", "/x"])
def test_absolute_prefixes_elsewhere_are_refused(output, prefix):
    with pytest.raises(ValueError, match="does not name a place inside the output folder"):
        server.output_names(prefix.format(output), 48, 32, server.output_folder())

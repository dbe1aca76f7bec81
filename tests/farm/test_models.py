"""VAEs on this machine: those that came over the network, and those in folders of models."""

import os
from pathlib import Path

from ...farm.blobs import sha256_of
from ...farm.models import Models


def came(folder, data: bytes):
    """A file that was fetched, and its hash."""
    path = folder / "fetched"
    path.write_bytes(data)
    return sha256_of(path), path


def test_what_came_once_is_found_by_all_workers(tmp_path):
    sha256, path = came(tmp_path, b"weights")
    kept = Models([], tmp_path / "home").keep(sha256, path)
    assert not path.exists() and kept.read_bytes() == b"weights"
    assert Models([], tmp_path / "home")(sha256, 7) == kept


def test_what_was_damaged_since_is_not_used(tmp_path):
    sha256, path = came(tmp_path, b"weights")
    models = Models([], tmp_path / "home")
    kept = models.keep(sha256, path)
    kept.write_bytes(b"weighty")
    assert models(sha256, 7) is None and not kept.exists()


def test_those_used_last_stay(tmp_path):
    models, kept = Models([], tmp_path / "home", most_kept_bytes=20), []
    for time, data in enumerate((b"1" * 8, b"2" * 8)):
        kept.append(models.keep(*came(tmp_path, data)))
        os.utime(kept[-1], (time, time))
    assert models(kept[0].name, 8) == kept[0]  # used now
    kept.append(models.keep(*came(tmp_path, b"3" * 8)))
    assert [path.exists() for path in kept] == [True, False, True]


def test_one_that_cannot_be_deleted_stays_and_another_one_goes(tmp_path, monkeypatch):
    """As on Windows, where another worker has it mapped."""
    models, kept = Models([], tmp_path / "home", most_kept_bytes=20), []
    for time, data in enumerate((b"1" * 8, b"2" * 8)):
        kept.append(models.keep(*came(tmp_path, data)))
        os.utime(kept[-1], (time, time))
    unlink = Path.unlink

    def refuse_the_oldest(path, missing_ok=False):
        if path == kept[0]:
            raise PermissionError("it is used by another process")
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse_the_oldest)
    kept.append(models.keep(*came(tmp_path, b"3" * 8)))
    assert [path.exists() for path in kept] == [True, False, True]


def test_one_that_is_too_large_for_all_is_used_all_the_same(tmp_path):
    models = Models([], tmp_path / "home", most_kept_bytes=4)
    assert models.keep(*came(tmp_path, b"weights")).read_bytes() == b"weights"


def test_where_nothing_can_be_kept_it_is_used_where_it_is(tmp_path):
    (tmp_path / "home").write_bytes(b"a file")
    sha256, path = came(tmp_path, b"weights")
    assert Models([], tmp_path / "home").keep(sha256, path) == path and path.exists()


def test_a_folder_of_models_is_looked_through_by_size_then_hash(tmp_path):
    folder, home = tmp_path / "models", tmp_path / "home"
    (folder / "vae").mkdir(parents=True)
    home.mkdir()
    path = folder / "vae" / "wan.safetensors"
    path.write_bytes(b"weights")
    (folder / "other.safetensors").write_bytes(b"another")
    sha256, models = sha256_of(path), Models([folder], home)
    assert models(sha256, 7) == path and models(sha256, 8) is None and models("0" * 64, 7) is None
    path.write_bytes(b"changed")
    os.utime(path, (1, 1))
    assert models(sha256, 7) is None

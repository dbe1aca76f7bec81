"""The words that people type into the node search."""

from __future__ import annotations

import pytest

from .conftest import Editor

# What the search shows without scrolling, and all that it lists.
SHOWN, LISTED = 8, 64
# Many nodes of ComfyUI have these in their names, which count for more than search words.
COMMON = {"images to video", "first frame", "last frame"}
# As people call the models.
VAES = ["wan vae", "wan decode", "ltx vae", "hunyuan vae", "minimax vae", "cogvideox vae", "seedvr2 vae", "taehv"]
WANTED = {
    "AsyncVAEDecodeVideo": ["async vae decode", "video vae decode", *VAES],
    "AsyncVAEDecodeToVideo": ["latent to video", "vae decode video", *VAES],
    "AsyncSaveVideoElsewhere": ["decode elsewhere", "remote vae", "second gpu"],
    "AsyncDecodeElsewhere": ["decode elsewhere", "remote decode", "offload decode"],
    "AsyncCollectVideo": ["collect video", "fetch video", "decode elsewhere"],
    "AsyncVAEDecodeTiled": ["vae decode tiled", "tiled vae", "ltx decode"],
    "AsyncVAEDecodeTiledToVideo": ["vae decode tiled", "tiled vae", "ltx decode", "latent to video"],
    "SaveVideoStreaming": [
        "save video",
        "mp4",
        "save mp4",
        "webm",
        "save webm",
        "gif",
        "animated webp",
        "video combine",
        "vhs",
        "ffmpeg",
        "encode video",
        "export video",
        "images to video",
        "image sequence",
        "exr",
        "preview video",
        "first frame",
        "last frame",
        "prores",
        "hevc",
        "nvenc",
    ],
}
# As the search box of either renderer and the node library do.
SEARCH = """words => {
    const { $pinia } = document.getElementById('vue-app').__vue_app__.config.globalProperties
    return $pinia._s.get('nodeDef').nodeSearchService.searchNode(words).map(node => node.name)
}"""


@pytest.mark.parametrize("node_id", WANTED)
def test_a_node_is_found_by_the_words_that_people_use(editor: Editor, node_id: str):
    found = {words: editor.page.evaluate(SEARCH, words) for words in WANTED[node_id]}
    seen = {words: names[: LISTED if words in COMMON else SHOWN] for words, names in found.items()}
    assert [words for words, names in seen.items() if node_id not in names] == []

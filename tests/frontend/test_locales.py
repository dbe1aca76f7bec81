"""Translations: complete in every language that the frontend speaks, and shown by it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator

import pytest
from async_frame_pipeline.automation.rules import REASONS, TILES_COME_BACK, WON
from playwright.sync_api import expect

from ..unit.test_report import every_verdict
from ..unit.test_text import templates
from .conftest import REPO, Editor, Server
from .test_node_help import NODES, definition, input_options

LOCALES = sorted(path.name for path in (REPO / "locales").iterdir())
TRANSLATED = [locale for locale in LOCALES if locale != "en"]


def load(locale: str, name: str) -> dict:
    return json.loads((REPO / "locales" / locale / f"{name}.json").read_text(encoding="utf-8"))


def whole(locale: str) -> dict:
    """All files of a language, as the server puts them together."""
    return load(locale, "main") | {name: load(locale, name) for name in ("nodeDefs", "commands", "settings")}


def strings(tree: dict, path: str = "") -> dict[str, str]:
    """Every text of a language, by its place."""
    found = {}
    for key, value in tree.items():
        found |= strings(value, f"{path}{key} > ") if isinstance(value, dict) else {f"{path}{key}": value}
    return found


def english(server: Server) -> dict:
    """nodeDefs as the nodes themselves have it."""
    return {node_id: _english(definition(server, node_id)) for node_id in NODES}


def _english(node: dict) -> dict:
    outputs = {}
    for i, (name, kind, tooltip) in enumerate(zip(node["output_name"], node["output"], node["output_tooltips"])):
        # The frontend translates the type itself where that is the output's name.
        outputs[str(i)] = ({"name": name} if name != kind else {}) | {"tooltip": tooltip}
    inputs = {name: {"name": name, "tooltip": options["tooltip"]} for name, options in input_options(node).items()}
    # The version, at the end of a description, is not for translators.
    description = node["description"].rpartition(" (")[0]
    texts = {"display_name": node["display_name"], "description": description}
    return texts | ({"inputs": inputs} if inputs else {}) | {"outputs": outputs}


def test_english_says_what_the_nodes_say(server: Server):
    # The frontend prefers these files to the nodes' own texts: an old sentence here would hide the new one.
    assert load("en", "nodeDefs") == english(server)


@pytest.mark.parametrize("locale", TRANSLATED)
def test_a_language_has_every_text_and_no_other(locale: str):
    assert set(strings(whole(locale))) == set(strings(whole("en")))


@pytest.mark.parametrize("locale", TRANSLATED)
def test_a_language_is_translated(locale: str):
    theirs, ours = strings(whole(locale)), strings(whole("en"))
    # Single words such as "video" may be the same, and units.
    names = re.compile(r"> (name|label)$|^asyncFramePipelineChoices|> %count% (s|min|fps|bit|kB|MB|GB)$|> %text%\.$")
    assert [place for place in ours if theirs[place] == ours[place] and not names.search(place)] == []
    assert [place for place, text in theirs.items() if not text.strip()] == []


@pytest.mark.parametrize("locale", LOCALES)
def test_no_text_holds_what_the_frontend_reads_as_syntax(locale: str):
    assert [text for text in strings(whole(locale)).values() if re.search(r"[{}@|\\]", text)] == []


@pytest.mark.parametrize("locale", TRANSLATED)
def test_placeholders_and_facts_survive_translation(locale: str):
    theirs, ours = strings(whole(locale)), strings(whole("en"))
    # Among them all names of models, such as Wan 2.2 and TAEHV.
    names = r"\b[A-Z]\w+ \d\.\d\b|\b[A-Z][A-Z0-9-]{2,}\b"
    facts = re.compile(rf"%[^% ][^%]*%|\bBT\.709\b|\bCC BY 3\.0\b|\bBig Buck Bunny\b|\b480x272\b|{names}", re.ASCII)
    for place, text in ours.items():
        assert set(facts.findall(text)) <= set(facts.findall(theirs[place])), place


def test_the_server_hands_out_every_language(server: Server):
    handed_out = server.get("/i18n")
    assert {locale: handed_out.get(locale) for locale in LOCALES} == {locale: whole(locale) for locale in LOCALES}


# What the frontend shows of our nodes. It asks the server anew when the language changes, and may be done before the
# language is there; so we ask too.
SHOWN = """async types => {
    await app.extensionManager.command.execute('Comfy.RefreshNodeDefinitions')
    // Those that are named by their type are translated by the frontend itself.
    const names = slots => slots.filter(slot => slot.name !== slot.type)
        .map(slot => [slot.name, slot.localized_name]).sort()
    return Object.fromEntries(types.map(type => {
        const node = LiteGraph.createNode(type)
        const {display_name, description} = node.constructor.nodeData
        return [type, {display_name, description, inputs: names(node.inputs ?? []), outputs: names(node.outputs)}]
    }))
}"""


@pytest.fixture(scope="module")
def shown_in(open_editor: Callable[..., Editor], server: Server) -> Iterator[Callable[[str, dict], dict]]:
    """Switches an editor to a language,
    and returns what it shows of our nodes once that is as expected, or 20 s later.
    """
    editor = open_editor(server)
    # The choice stays in this page: other tests use the same server.
    kept_here = {"status": 200, "content_type": "application/json", "body": "null"}
    editor.page.route(
        re.compile(r"/settings(/|$)"),
        lambda route: route.continue_() if route.request.method == "GET" else route.fulfill(**kept_here),
    )

    spoken = languages(editor)

    def shown_in(locale: str, expected: dict) -> dict:
        page = editor.page
        if locale not in spoken:
            pytest.skip(f"this frontend does not speak '{locale}' yet")
        page.evaluate("locale => app.extensionManager.setting.set('Comfy.Locale', locale)", locale)
        for _ in range(40):
            shown = page.evaluate(SHOWN, list(expected))
            if shown == expected:
                break
            page.wait_for_timeout(500)
        return shown

    yield shown_in
    editor.page.context.close()


@pytest.mark.parametrize("locale", LOCALES)
def test_nodes_are_shown_in_the_language(shown_in: Callable[[str, dict], dict], server: Server, locale: str):
    expected = {}
    for node_id, texts in load(locale, "nodeDefs").items():
        outputs = {definition(server, node_id)["output_name"][int(i)]: output for i, output in texts["outputs"].items()}
        slots = {"inputs": texts.get("inputs", {}), "outputs": outputs}
        expected[node_id] = {name: texts[name] for name in ("display_name", "description")} | {
            kind: sorted([name, slot["name"]] for name, slot in named.items() if "name" in slot)
            for kind, named in slots.items()
        }
    assert shown_in(locale, expected) == expected


def languages(editor: Editor) -> list[str]:
    """Those that the frontend speaks."""
    return editor.page.evaluate(
        "() => app.extensionManager.setting.settings['Comfy.Locale'].options.map(option => option.value)"
    )


def test_every_language_of_the_frontend_has_a_translation(editor: Editor):
    assert set(languages(editor)) <= set(LOCALES)


def test_commands_and_settings_have_the_ids_of_the_extensions(editor: Editor):
    ids = editor.page.evaluate(
        """() => [app.extensionManager.command.commands.map(command => [command.id, {label: command.label}]),
            Object.values(app.extensionManager.setting.settings).map(({id, name, tooltip, type, options}) => [id,
                {name, tooltip, ...(type === 'combo' && id.startsWith('AsyncFramePipeline.') &&
                    {options: Object.fromEntries(options.map(({text}) => [text, text]))})}])]"""
    )
    for name, registered in zip(("commands", "settings"), ids):
        ours = {key.replace(".", "_"): texts for key, texts in registered if key.startswith("AsyncFramePipeline.")}
        assert load("en", name) == ours


def test_menus_have_the_words_of_the_extensions(editor: Editor):
    commands, items = editor.page.evaluate(
        """() => {
            app.rootGraph.clear()
            const types = ['VAEDecode', 'VAEDecodeTiled', 'CreateVideo', 'CreateVideo', 'AsyncVAEDecodeVideo']
            const [decode, tiled, video, another, ours, saver] = [...types, 'SaveVideoStreaming'].map(type => {
                const node = LiteGraph.createNode(type)
                app.rootGraph.add(node)
                return node
            })
            decode.connect(0, video, video.findInputSlot('images'))
            tiled.connect(0, another, another.findInputSlot('images'))
            const collect = node => app.collectNodeMenuItems(node).map(item => item?.content)
            const items = [decode, tiled, ours, saver].flatMap(collect)
            saver.properties.async_frame_pipeline_hides_preview = true
            items.push(...collect(saver))
            const commands = app.extensionManager.command.commands
                .filter(command => command.id.startsWith('AsyncFramePipeline.'))
            return [commands.map(command => command.label), items.filter(item => item?.match(/Async|stock|preview/))]
        }"""
    )
    items += editor.page.evaluate(
        """() => {
            app.rootGraph.clear()
            const types = ['VAEDecode', 'SaveWEBM', 'VAEDecodeTiled', 'SaveWEBM', 'SaveVideoStreaming']
            const [decode, saver, tiled, another, ours] = types.map(type => {
                const node = LiteGraph.createNode(type)
                app.rootGraph.add(node)
                return node
            })
            // The editor may keep the values of nodes that had these ids before.
            const set = (node, values) => values.forEach((value, at) => (node.widgets[at].value = value))
            set(tiled, [512, 64, 64, 8])
            for (const node of [saver, another]) set(node, ['ComfyUI', 'vp9', 24, 32])
            decode.connect(0, saver, saver.findInputSlot('images'))
            tiled.connect(0, another, another.findInputSlot('images'))
            ours.properties.async_frame_pipeline = { saver: { type: 'SaveWEBM', inputs: [] } }
            const items = [decode, saver, tiled, ours].flatMap(node => app.collectNodeMenuItems(node))
            return items.map(item => item?.content).filter(item => item?.match(/saver|Save Video \\(/))
        }"""
    )
    items += editor.page.evaluate(
        """async () => {
            const { api } = await import('/scripts/api.js')
            app.rootGraph.clear()
            const node = LiteGraph.createNode('AsyncSaveVideoElsewhere')
            app.rootGraph.add(node)
            for (const job_id of ['1', '2'])
                api.dispatchCustomEvent('async_frame_pipeline.job', { job_id, state: 'queued', node_id: `${node.id}` })
            const items = app.collectNodeMenuItems(node).map(item => item?.content)
            for (const job_id of ['1', '2'])
                api.dispatchCustomEvent('async_frame_pipeline.job', { job_id, state: 'cancelled', node_id: '' })
            const types = ['AsyncVAEDecodeToVideo', 'SaveVideoStreaming']
            const [decode, saver] = types.map(type => LiteGraph.createNode(type))
            app.rootGraph.add(decode)
            app.rootGraph.add(saver)
            decode.connect(0, saver, saver.findInputSlot('video'))
            const was = { id: 1, type: 'x', inputs: [], outputs: [], pos: [0, 0] }
            node.properties.async_frame_pipeline = { elsewhere: { decode: was, saver: was, link: [], pos: [0, 0] } }
            items.push(...[decode, node].flatMap(each => app.collectNodeMenuItems(each)).map(item => item?.content))
            return items.filter(item => item?.match(/elsewhere|Elsewhere|was$/))
        }"""
    )
    main = load("en", "main")
    assert set(main["menuLabels"]) == set(commands)
    assert set(main["contextMenu"]) == set(items)


def test_messages_have_the_words_of_the_sources():
    main = load("en", "main")
    messages, reasons = main["asyncFramePipeline"], {*REASONS.values(), *WON.values(), TILES_COME_BACK}
    browser = {
        text for path in (REPO / "web" / "js").glob("*.js") for text in re.findall(r"'([^'\n]*)'", path.read_text())
    }
    server = templates() | {text.template for text in every_verdict()}
    assert reasons | server <= set(messages)
    assert [text for text in messages if text not in browser | server | reasons] == []
    for texts in (messages, main["contextMenu"], main["asyncFramePipelineChoices"]):
        assert [text for text, shown in texts.items() if text != shown] == []


def test_choices_are_those_of_the_nodes(server: Server):
    nodes = (input_options(definition(server, node_id)) for node_id in NODES)
    offered = {choice for options in nodes for each in options.values() for choice in each.get("options", [])}
    assert set(load("en", "main")["asyncFramePipelineChoices"]) <= offered


def test_chinese_in_the_menus_the_messages_and_the_settings(chinese_editor: Editor):
    editor, page, main = chinese_editor, chinese_editor.page, load("zh", "main")
    # When the language has arrived, the nodes' names stay until told.
    page.evaluate("() => app.extensionManager.command.execute('Comfy.RefreshNodeDefinitions')")

    editor.add("VAEDecode")
    # A node can be pointed at once it has been drawn.
    page.wait_for_function("() => app.canvas.visible_nodes.includes(app.rootGraph.nodes[0])")
    place = page.evaluate(
        "() => app.canvas.ds.convertOffsetToCanvas(app.rootGraph.nodes[0].pos.map((x, i) => x + [60, -15][i]))"
    )
    canvas = page.locator("#graph-canvas").bounding_box()
    page.mouse.click(canvas["x"] + place[0], canvas["y"] + place[1], button="right")
    page.get_by_text(main["contextMenu"]["Swap for Async VAE Decode (Video)"]).click()
    expect(page.get_by_text(f"{main['asyncFramePipeline']['Decodes swapped']}: 1", exact=True)).to_be_visible()
    names = [load("zh", "nodeDefs")["AsyncVAEDecodeVideo"]["display_name"], "VAE解码"]
    won = main["asyncFramePipeline"]["unknown VAE: what is won shows when it runs"]
    expect(page.get_by_text(f"{names[1]} → {names[0]} ({won})", exact=True)).to_be_visible()

    page.evaluate("() => app.extensionManager.command.execute('Comfy.ShowSettingsDialog')")
    dialog = page.get_by_role("dialog")
    dialog.locator("input").first.fill("Async Frame")
    for setting in load("zh", "settings").values():
        expect(dialog.get_by_text(setting["name"])).to_be_visible()
    chosen = load("zh", "settings")["AsyncFramePipeline_OtherModels"]["options"]["Auto"]
    expect(dialog.get_by_text(chosen, exact=True)).to_be_visible()

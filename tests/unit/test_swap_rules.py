"""The rules of the swap against the nodes that they are about."""

from . import in_comfyui  # noqa: F401  (first)

from async_frame_pipeline.automation.rules import OUR_SAVER, SAVERS
from async_frame_pipeline.automation.savers import rules_of
from async_frame_pipeline.nodes.save_video import SaveVideoStreaming


def test_our_saver_is_as_the_rules_have_it():
    """A workflow holds a node's widgets by their position."""
    schema = SaveVideoStreaming.define_schema()
    sockets = [entry for entry in schema.inputs if entry.io_type in ("VIDEO", "IMAGE", "AUDIO")]
    widgets = [entry for entry in schema.inputs if entry not in sockets]
    assert {entry.id: entry.io_type for entry in sockets} == OUR_SAVER["inputs"]
    assert [(entry.id, entry.default) for entry in widgets] == list(OUR_SAVER["widgets"].items())
    outputs = [(output.display_name or output.io_type, output.io_type) for output in schema.outputs]
    assert outputs == list(OUR_SAVER["outputs"].items())
    # What a link may bring in place of a value.
    types = {entry.id: entry.io_type for entry in widgets}
    forms = [(kind, saver["by"], form) for kind, saver in SAVERS.items() for form in saver["formats"]]
    for kind, by, form in forms:
        for rule in rules_of(kind, {by: form}).values():
            assert rule.get("link", types.get(rule.get("to"))) == types.get(rule.get("to")), rule

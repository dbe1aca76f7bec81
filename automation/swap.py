"""The swap as a function: of workflow files and of API prompts."""

from __future__ import annotations

import copy

from . import api_prompt, elsewhere_prompt, workflow_file
from . import elsewhere as elsewhere_file
from .elsewhere import both_steps_back
from .rules import Change, FormatError


def swap(
    workflow: dict,
    *,
    reverse: bool = False,
    tiles: str = "auto",
    everything: bool = False,
    savers: bool = False,
    elsewhere: bool = False,
) -> tuple[dict, list[Change]]:
    """Put this pack's nodes in the place of other ones, by the rules in web/swap/rules.json.

    Args:
        workflow: a workflow as the editor saves it, or a prompt in API format. It is not modified.
        reverse: put the stock nodes back. What was swapped becomes exactly what it was; links, titles and values that
            have been changed since stay as they are.
        tiles: what becomes of VAE Decode (Tiled): "same", the same tiles and pixels; "without", the pixels of VAE
            Decode, with its tile settings remembered for the reverse; "auto", without where its VAE is known to take no
            more memory then, else the same.
        everything: swap decodes too with which nothing is won.
        savers: swap savers too where nothing is won in time: those that more than a decode's own frames go into, and
            Save Video.
        elsewhere: make Save Video (Decode Elsewhere) of each decode that can go there and its saver.
    Returns:
        The new workflow, and one Change for each decode in it, those left alone included, and for savers.
    Raises:
        FormatError: it is neither, or damaged.
    """
    for format, there in ((workflow_file, elsewhere_file), (api_prompt, elsewhere_prompt)):  # noqa: B007
        if format.recognises(workflow):
            break
    else:
        raise FormatError(
            "this is no workflow: expected what ComfyUI saves (an object with 'nodes' and 'links') "
            "or what it exports for the API (node ids, each with 'class_type' and 'inputs')"
        )
    workflow = copy.deepcopy(workflow)
    try:
        if reverse:
            return workflow, both_steps_back(there.take_back(workflow), format.restore(workflow))
        changes = format.swap(workflow, tiles, everything, savers or elsewhere)
        return workflow, there.send(workflow, changes, savers) if elsewhere else changes
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise FormatError(f"this workflow is damaged: {type(error).__name__}: {error}") from error

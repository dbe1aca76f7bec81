"""A node's own check when a prompt is queued: of all its inputs, and each fault is one error, at the input it is of.

ComfyUI gives `validate_inputs` the values of the arguments that it names, and what it answers to every one of them: of
a check that knows seven inputs, one fault is listed seven times. What it does not name is looked up in its list or
range, one error each. So there is no plain way to see two inputs and blame one. Here nothing is named but what is at
fault; the values come from the prompt as it was posted, which the server shows to handlers before it validates it.
Names are for all nodes of a prompt: what is at fault in one is looked at here in the others too, as ComfyUI does not.
Where several nodes of a prompt have faults of different inputs, each is still listed once for each of these.

A prompt that comes in no request, where ComfyUI is used as a library, is not known here, and passes.
"""

from __future__ import annotations

import contextvars
import inspect
import types
from collections.abc import Callable, Mapping

from server import PromptServer

# (inputs, the node's id, the prompt) -> (the input at fault, what to say), or None.
Check = Callable[[Mapping[str, object], str, Mapping[str, dict]], tuple[str, str] | None]
# (an input, its typed value) -> what to say of it by itself, or None.
CheckAlone = Callable[[str, object], str | None]

# Of the request that is handled: every one has a context of its own, and several are under way at a time.
_posted: contextvars.ContextVar[dict | None] = contextvars.ContextVar("posted", default=None)


def see(posted: dict) -> dict:
    """Keep what a request posts for the checks to come; all of it, since other handlers may replace its prompt."""
    _posted.set(posted)
    return posted


if getattr(PromptServer, "instance", None) is not None:  # there is none where ComfyUI is used as a library
    PromptServer.instance.add_on_prompt_handler(see)


class CheckedWhenQueued:
    """Stands in a node's class as its `validate_inputs`.

    Args:
        node_type: the node's id.
        check: finds the fault of one such node. What ComfyUI sees by itself is none.
        check_alone: sees that, of one value, where ComfyUI leaves it to this.
        fallback: an input that is always given, to blame for one that is not: ComfyUI knows no error of that.
    """

    def __init__(self, node_type: str, check: Check, check_alone: CheckAlone, fallback: str):
        self._node_type, self._check, self._check_alone, self._fallback = node_type, check, check_alone, fallback

    def __get__(self, instance: object, node: type) -> types.MethodType:
        faults = self._faults()

        def validate_inputs(cls, **given: object) -> bool | str:
            if cls.hidden.unique_id in faults:
                return faults[cls.hidden.unique_id][1]
            # What comes by a link is None.
            found = (self._check_alone(name, value) for name, value in given.items() if value is not None)
            return next(filter(None, found), True)

        names = ["cls", *sorted({name for name, _ in faults.values()})]
        parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
        validate_inputs.__signature__ = inspect.Signature(parameters)
        return types.MethodType(validate_inputs, node)

    def _faults(self) -> dict[str, tuple[str, str]]:
        """By the nodes' ids."""
        prompt = (_posted.get() or {}).get("prompt")
        nodes = prompt.items() if isinstance(prompt, dict) else ()
        faults = {}
        for node_id, node in nodes:
            inputs = node.get("inputs") if isinstance(node, dict) else None
            if not isinstance(inputs, dict) or node.get("class_type") != self._node_type:
                continue
            fault = self._check(inputs, node_id, prompt)
            if fault is not None:
                name, message = fault
                faults[node_id] = (name if name in inputs else self._fallback, message)
        return faults

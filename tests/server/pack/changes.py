"""A Wan VAE after something that this pack does not know of: a later ComfyUI, another pack, another device."""

import functools

import torch


def another_class(vae) -> None:
    model = vae.first_stage_model
    model.__class__ = type("LaterWanVAE", (type(model),), {})


def another_decode(vae) -> None:
    model = vae.first_stage_model
    model.decode = functools.partial(type(model).decode, model)


def no_head(vae) -> None:
    """The layers at the end have another name."""
    decoder = vae.first_stage_model.decoder
    kind = type(decoder)

    def forward(self, *args, **kwargs):
        self.head = self.tail
        try:
            return kind.forward(self, *args, **kwargs)
        finally:
            del self.head

    decoder.tail = decoder.head
    del decoder.head
    decoder.__class__ = type("LaterDecoder", (kind,), {"forward": forward})


def more_frames(vae) -> None:
    """The last layer puts out one frame more than are kept."""
    decoder = vae.first_stage_model.decoder
    kind, layer = type(decoder), type(decoder.head[-1])

    def one_more(self, *args, **kwargs):
        output = layer.forward(self, *args, **kwargs)
        return torch.cat((output, output[:, :, -1:]), dim=2)

    def forward(self, *args, **kwargs):
        output = kind.forward(self, *args, **kwargs)
        return [piece[:, :, :-1] for piece in output] if isinstance(output, list) else output[:, :, :-1]

    decoder.head[-1].__class__ = type("LaterLayer", (layer,), {"forward": one_more})
    decoder.__class__ = type("LaterDecoder", (kind,), {"forward": forward})


def to_cpu(vae) -> None:
    """As packs do that let users choose the VAE's device: it stays there, whatever ComfyUI moves."""
    cpu = torch.device("cpu")
    vae.device = vae.patcher.load_device = vae.patcher.offload_device = cpu
    vae.first_stage_model.to(cpu)
    vae.first_stage_model.to = lambda *args, **kwargs: vae.first_stage_model


CHANGES = {change.__name__: change for change in (another_class, another_decode, no_head, more_frames, to_cpu)}


class Change:
    """Passes a VAE on that is changed: the same object, so give it to no other node."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"vae": ("VAE",), "change": (list(CHANGES),)}}

    RETURN_TYPES = ("VAE",)
    FUNCTION = "change"
    CATEGORY = "_tests"

    def change(self, vae, change):
        CHANGES[change](vae)
        return (vae,)

"""Wan's VAE as Diffusers has it, over weights by Wan's own names, and the other way round."""

import re

import torch

# Diffusers' beginnings of names, and those in Wan's checkpoints.
PLACES = {
    "post_quant_conv": "conv2",
    "decoder.conv_in": "decoder.conv1",
    "decoder.mid_block.resnets.0": "decoder.middle.0",
    "decoder.mid_block.attentions.0": "decoder.middle.1",
    "decoder.mid_block.resnets.1": "decoder.middle.2",
    "decoder.norm_out": "decoder.head.0",
    "decoder.conv_out": "decoder.head.2",
}
IN_A_BLOCK = {
    "norm1": "residual.0",
    "conv1": "residual.2",
    "norm2": "residual.3",
    "conv2": "residual.6",
    "conv_shortcut": "shortcut",
}
# Of a stage: after its residual blocks comes what upsamples. Wan 2.1 has all of them in one list.
IN_A_STAGE = 4
STAGE = re.compile(r"decoder\.up_blocks\.(\d+)\.(?:resnets\.(\d)|upsamplers?(?:\.0)?)\.(.+)")


def wan_names(names):
    """{Diffusers' name: Wan's} of all weights of a decoder, Wan 2.1's or 2.2's."""
    nested = any(".upsampler." in name for name in names)
    return {name: _wan_name(name, nested) for name in names if name.startswith(("decoder.", "post_quant_conv."))}


def _wan_name(name, nested):
    if found := STAGE.fullmatch(name):
        stage, block, rest = int(found[1]), int(found[2] or IN_A_STAGE - 1), found[3]
        place = f"{stage}.upsamples.{block}" if nested else f"{IN_A_STAGE * stage + block}"
        return f"decoder.upsamples.{place}.{_in_a_block(rest)}"
    [place] = [place for place in PLACES if name.startswith(place + ".")]
    return f"{PLACES[place]}.{_in_a_block(name.removeprefix(place + '.'))}"


def _in_a_block(rest):
    layer, dot, last = rest.partition(".")
    return IN_A_BLOCK.get(layer, layer) + dot + last


def wan_state(vae):
    """A decoder's weights by the names in Wan's checkpoints, as this pack reads them.

    Args:
        vae: Diffusers' AutoencoderKLWan.
    """
    state = vae.state_dict()
    return {wan: state[name] for name, wan in wan_names(state).items()}


def vae_of(state, device, dtype, **config):
    """Diffusers' AutoencoderKLWan over the decoder's weights of `state`, by Wan's names; the encoder has any."""
    from diffusers import AutoencoderKLWan  # a peer: only where it is installed

    with torch.device("meta"):
        vae = AutoencoderKLWan(**config)
    vae = torch.nn.Module.to(vae, dtype).to_empty(device=device).eval().requires_grad_(False)
    mine = vae.state_dict()
    for name, wan in wan_names(mine).items():
        mine[name].copy_(state[wan])
    return vae

"""All that this pack knows of ComfyUI's insides, by what it is about; no other module of it imports them.

vaes      what a VAE and a latent are, and the stock ways to decode
memory    models, and the memory that they and the lanes take
server    the queue, the browser that listens, settings, folders
late      what becomes known of a node after its prompt has ended
lanes     the engine with ComfyUI's progress, cancel, page-locked memory and live view

Facts about ComfyUI here were read from 0.18.2 and 0.30.0.
"""

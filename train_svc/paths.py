"""Scheduled drop-path (Zoph et al. 2018): branches are left out for some samples, more of them as training goes on.

A network names the values that end its branches in metadata_props["nasmesh.drop_path"], a JSON list.
"""

import torch
from torch import Tensor, fx, nn

_SCOPE = "_paths"


class DropPath(nn.Module):
    """Zeroes a value for some samples in training mode and scales it for the others; identity in evaluation."""

    def __init__(self, device: torch.device) -> None:
        """Begin with nothing dropped."""
        super().__init__()
        # A tensor, since a compiled network would be compiled anew for every other number.
        self.register_buffer("kept", torch.ones((), device=device), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return x [N, ...], each sample's whole or nothing."""
        if not self.training:
            return x
        kept = self.get_buffer("kept")
        drawn = torch.rand((x.shape[0],) + (1,) * (x.dim() - 1), device=x.device, dtype=torch.float32)
        return x * ((drawn < kept).to(x.dtype) / kept.to(x.dtype))


class Paths:
    """The drop-path marks of one network."""

    def __init__(self, drops: list[DropPath], largest: float) -> None:
        """Drop with a probability that ends at `largest`."""
        self._drops = drops
        self._largest = largest

    def at(self, share: float) -> None:
        """Set the probability for this share (0..1) of the training."""
        for drop in self._drops:
            drop.get_buffer("kept").fill_(1 - self._largest * share)


def insert_paths(module: fx.GraphModule, marks: list[str], largest: float, device: torch.device) -> Paths:
    """Put a DropPath behind each marked value of the graph; the values were checked by admission."""
    nodes = {node.name: node for node in module.graph.nodes}
    values: dict[str, str] = module.meta["values"]
    drops = []
    for number, mark in enumerate(marks):
        node = nodes[values[mark]]
        drop = DropPath(device)
        path = f"{_SCOPE}.d{number}"
        module.add_submodule(path, drop)
        with module.graph.inserting_after(node):
            call = module.graph.call_module(path, (node,))
        node.replace_all_uses_with(call, delete_user_cb=lambda user, call=call: user is not call)
        drops.append(drop)
    module.recompile()
    return Paths(drops, largest)

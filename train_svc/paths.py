"""Scheduled drop-path (Zoph et al. 2018): branches are left out for some samples, more of them as training goes on.

A network names the values that end its branches in metadata_props["nasmesh.drop_path"], a JSON list; each is that of a
Dropout of nothing.
"""

import torch
from torch import Tensor, fx, nn

from train_svc.hooks import Alone, Team

SCOPE = "_paths"


class DropPath(nn.Module):
    """Zeroes a value for some samples in training mode and scales it for the others; identity in evaluation."""

    def __init__(self, device: torch.device) -> None:
        """Begin with nothing dropped."""
        super().__init__()
        self.team: Team = Alone()
        # A tensor, since a compiled network would be compiled anew for every other number.
        self.register_buffer("kept", torch.ones((), device=device), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return x [N, ...], each sample's whole or nothing."""
        if not self.training:
            return x
        kept = self.get_buffer("kept")
        count, team = x.shape[0], self.team
        drawn = torch.rand((count * team.size,) + (1,) * (x.dim() - 1), device=x.device, dtype=torch.float32)
        if team.size > 1:  # all of them draw for the whole batch
            drawn = drawn[team.rank * count : (team.rank + 1) * count]
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


def marked_nodes(module: fx.GraphModule, marks: list[str]) -> list[fx.Node]:
    """Return the nodes of the marked values: dropouts of nothing, as admission has seen to."""
    nodes = {node.name: node for node in module.graph.nodes}
    values: dict[str, str] = module.meta["values"]
    return [nodes[values[mark]] for mark in marks if mark in values]  # a branch that nothing reads has none


def insert_paths(module: fx.GraphModule, marks: list[str], largest: float, device: torch.device) -> Paths | None:
    """Put a DropPath in the place of each mark; where nothing is to be dropped, take the marks out and return None."""
    drops, marked = [], marked_nodes(module, marks)
    for number, node in enumerate(marked):
        if largest:
            drop = DropPath(device)
            drops.append(drop)
            node.target = f"{SCOPE}.d{number}"
            module.add_submodule(node.target, drop)
        else:
            node.replace_all_uses_with(node.all_input_nodes[0])
            module.graph.erase_node(node)
    if marked:  # writing the code anew takes as long as an update of a small network
        module.recompile()
    return Paths(drops, largest) if drops else None

"""The networks of the latent solver: several members side by side, one per held-out fold.

Member ``e`` never sees the label of a row in fold ``e``; the members' average predicts new rows
and each member alone gives the held-out evidence of its fold. Members are stacked in one batched
matrix product, so that five small networks cost one pass, and one message, a step.
"""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

HIDDEN = 64
DROPOUT = 0.2


class MemberLinear(nn.Module):
    """One linear layer for each member: (members, rows, in) to (members, rows, out).

    Parameters
    ----------
    members, n_in, n_out : int
        Sizes.
    generator : torch.Generator
        Source of the initial weights.
    zero : bool, default=False
        Start with zero weights.
    """

    def __init__(
        self,
        members: int,
        n_in: int,
        n_out: int,
        generator: torch.Generator,
        zero: bool = False,
    ) -> None:
        super().__init__()
        bound = 0.0 if zero else 1.0 / math.sqrt(max(n_in, 1))
        weight = torch.empty(members, n_in, n_out)
        self.weight = nn.Parameter(weight.uniform_(-bound, bound, generator=generator))
        self.bias = nn.Parameter(torch.zeros(members, 1, n_out))

    def forward(self, x: Tensor) -> Tensor:
        """Apply each member's layer to its own rows."""
        return torch.baddbmm(self.bias, x, self.weight)


class MemberMLP(nn.Module):
    """A hidden layer beside a linear skip connection, for each member.

    Parameters
    ----------
    members, n_in, n_out : int
        Sizes.
    generator : torch.Generator
        Source of the initial weights.
    zero : bool, default=False
        Start as the zero function.
    """

    def __init__(
        self,
        members: int,
        n_in: int,
        n_out: int,
        generator: torch.Generator,
        zero: bool = False,
    ) -> None:
        super().__init__()
        self.skip = MemberLinear(members, n_in, n_out, generator, zero)
        self.hidden = MemberLinear(members, n_in, HIDDEN, generator)
        self.out = MemberLinear(members, HIDDEN, n_out, generator, zero)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Map (members, rows, n_in) to (members, rows, n_out); a generator means dropout."""
        hidden = functional.relu(self.hidden(x))
        if generator is not None:
            kept = torch.empty_like(hidden).bernoulli_(1.0 - DROPOUT, generator=generator)
            hidden = hidden * kept / (1.0 - DROPOUT)
        return torch.as_tensor(self.skip(x) + self.out(hidden))


class PartyEncoder(nn.Module):
    """One party's encoder into the latent space, and its decoder for local self-supervision.

    Parameters
    ----------
    members : int
        Number of networks side by side.
    n_in : int
        Width of the party's encoding, or of the output of `trunk`.
    n_components : int
        Width of the latent space.
    generator : torch.Generator
        Source of the initial weights.
    trunk : nn.Module, optional
        A pretrained network that is trained below the encoder; every member gets a copy.
    """

    def __init__(
        self,
        members: int,
        n_in: int,
        n_components: int,
        generator: torch.Generator,
        trunk: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.members = members
        copies = [] if trunk is None else [copy.deepcopy(trunk) for _ in range(members)]
        self.trunks = nn.ModuleList(copies)
        self.encoder = MemberMLP(members, n_in, n_components, generator)
        self.decoder = None if trunk else MemberLinear(members, n_components, n_in, generator)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Map rows (rows, n_in) to latents (members, rows, n_components)."""
        if not len(self.trunks):
            return torch.as_tensor(
                self.encoder(x.unsqueeze(0).expand(self.members, -1, -1), generator)
            )
        features = torch.stack([trunk(x).flatten(1) for trunk in self.trunks])
        return torch.as_tensor(self.encoder(features.to(self.encoder.skip.weight.dtype), generator))

    def reconstruction_loss(self, latents: Tensor, clean: Tensor) -> Tensor:
        """Return the mean squared error of rebuilding ``clean`` rows, summed over members."""
        if self.decoder is None:
            return latents.new_zeros(())
        return torch.as_tensor(((self.decoder(latents) - clean) ** 2).mean((1, 2)).sum())


def swap_noise(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Replace a random share of the cells by the same column's value in another row.

    Parameters
    ----------
    x : Tensor of shape (n_rows, width)
        Rows.
    share : float
        Share of the cells, from 0 to 1.
    generator : torch.Generator
        Source of the noise.

    Returns
    -------
    Tensor of shape (n_rows, width)
        Corrupted rows.

    References
    ----------
    M. Jahrer. Porto Seguro's safe driver prediction, winning solution, 2017.
    """
    swapped = torch.rand(x.shape, generator=generator) < share
    donors = x[torch.randint(0, len(x), (len(x),), generator=generator)]
    return torch.where(swapped, donors, x)


class Head(nn.Module):
    """The active party's head on the fused latents.

    Latents of the parties that know a row are added up; which parties know it is an input.

    Parameters
    ----------
    sizes : tuple of (int, int, int, int)
        Members, components, parties and outputs.
    generator : torch.Generator
        Source of the initial weights.
    """

    def __init__(self, sizes: tuple[int, int, int, int], generator: torch.Generator) -> None:
        super().__init__()
        members, n_components, n_parties, n_outputs = sizes
        self.mlp = MemberMLP(members, n_components + n_parties, n_outputs, generator)

    def forward(
        self, latents: Tensor, mask: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Fuse and map to logits.

        Parameters
        ----------
        latents : Tensor of shape (members, rows, n_parties, n_components)
            Latents of each party.
        mask : Tensor of shape (views, rows, n_parties)
            Which parties are looked at, for each view of the rows.
        generator : torch.Generator, optional
            Draws the dropout; none without it.

        Returns
        -------
        Tensor of shape (members, views, rows, n_outputs)
            Logits.
        """
        mask = mask.to(latents.dtype)
        fused = torch.einsum("erpk,vrp->evrk", latents, mask)
        members, views, rows, _ = fused.shape
        x = torch.cat([fused, mask.unsqueeze(0).expand(members, -1, -1, -1)], -1)
        out = self.mlp(x.reshape(members, views * rows, -1), generator)
        return torch.as_tensor(out.reshape(members, views, rows, -1))


def supervised_loss(logits: Tensor, target: Tensor, weight: Tensor, task: str) -> Tensor:
    """Return the weighted loss of each member and view, summed over both.

    Parameters
    ----------
    logits : Tensor of shape (members, views, rows, n_outputs)
        The output of the head.
    target : Tensor of shape (rows, n_outputs)
        Probability of the positive class, one-hot classes, or standardised real targets.
    weight : Tensor of shape (members, views, rows)
        Row weights, already normalised; zero where a row is held out from a member.
    task : {"binary", "multiclass", "regression"}
        Chooses the loss.

    Returns
    -------
    Tensor of shape ()
        The loss.
    """
    target = target.expand_as(logits)
    if task == "binary":
        rows = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")[..., 0]
    elif task == "multiclass":
        rows = -(target * functional.log_softmax(logits, -1)).sum(-1)
    else:
        rows = 0.5 * ((logits - target) ** 2).sum(-1)
    return (rows * weight).sum()


def on_target_scale(logits: Tensor, task: str) -> np.ndarray:
    """Return logits as probabilities, or as they are for regression, in float64."""
    if task == "binary":
        logits = torch.sigmoid(logits)
    elif task == "multiclass":
        logits = torch.softmax(logits, -1)
    return np.asarray(logits.detach().cpu().numpy(), dtype=np.float64)

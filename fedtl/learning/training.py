"""Training one party's encoder, on gradients from elsewhere and on its own rows."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from fedtl.learning.network import PartyEncoder, swap_noise

WEIGHT_DECAY = 0.05
SWAP_SHARE = 0.2
RECONSTRUCTION = 0.1


class Schedule:
    """AdamW with a short warm-up and a cosine decay to one hundredth.

    Parameters
    ----------
    groups : iterable of (iterable of nn.Parameter, float)
        What is trained and its highest learning rate.
    n_steps : int
        Length of the schedule.
    """

    def __init__(
        self, groups: Iterable[tuple[Iterable[nn.Parameter], float]], n_steps: int
    ) -> None:
        options = [
            {"params": [p for p in parameters if p.requires_grad], "lr": lr, "peak": lr}
            for parameters, lr in groups
        ]
        self.optimizer = torch.optim.AdamW(options, weight_decay=WEIGHT_DECAY)
        self.n_steps, self.done = n_steps, 0

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    def step(self) -> None:
        """Take one step down the gradients."""
        done = min(self.done / self.n_steps, 1.0)
        factor = min(1.0, 10.0 * done + 0.05) * (0.5 * (1.0 + math.cos(math.pi * done)) + 0.01)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        self.optimizer.step()
        self.done += 1


class EncoderTraining:
    """One party's encoder while it is trained.

    A batch has the rows that are asked for and, beside them, rows of the party's own choice; on
    both, the encoder also learns to rebuild its clean input from a corrupted one, which needs no
    label and no message.

    Parameters
    ----------
    encoder : PartyEncoder
        What is trained, in place.
    inputs : ndarray of shape (n_rows, width), dtype float32
        The party's rows.
    n_steps : int
        Steps in all.
    n_local_rows : int
        Rows of the party's own choice in a batch.
    lr, trunk_lr : float
        Highest learning rates of the encoder and of a pretrained network below it.
    seed : int
        Seed of noise, dropout and the party's own choice of rows.
    """

    def __init__(
        self,
        encoder: PartyEncoder,
        inputs: np.ndarray,
        *,
        n_steps: int,
        n_local_rows: int,
        lr: float,
        trunk_lr: float,
        seed: int,
    ) -> None:
        self.encoder = encoder
        self.inputs = torch.from_numpy(inputs)
        self.n_local_rows = n_local_rows
        self.generator = torch.Generator().manual_seed(seed)
        trunk = list(encoder.trunks.parameters())
        below = {id(parameter) for parameter in trunk}
        above = [p for p in encoder.parameters() if id(p) not in below]
        self.schedule = Schedule([(above, lr), (trunk, trunk_lr)], n_steps)

    def latents(self, rows: Tensor) -> Tensor:
        """Encode a batch for training, and remember the reconstruction loss.

        Parameters
        ----------
        rows : Tensor of shape (n_rows,), dtype int64
            Positions in the party's inputs.

        Returns
        -------
        Tensor of shape (members, n_rows, n_components)
            Latents with their graph.
        """
        batch = rows
        if self.n_local_rows:
            own = torch.randint(len(self.inputs), (self.n_local_rows,), generator=self.generator)
            batch = torch.cat([rows, own])
        clean = self.inputs[batch]
        if self.encoder.decoder is None:
            z = self._with_trunk(clean)
            self.auxiliary = z.new_zeros(())
        else:
            z = self.encoder(swap_noise(clean, SWAP_SHARE, self.generator), self.generator)
            self.auxiliary = RECONSTRUCTION * self.encoder.reconstruction_loss(z, clean)
        return torch.as_tensor(z[:, : len(rows)])

    def learn(self, rows: Tensor, latents: Tensor, gradient: Tensor, n_updates: int) -> None:
        """Take steps down a gradient that came from elsewhere.

        Parameters
        ----------
        rows : Tensor of shape (n_rows,), dtype int64
            The batch that the gradient belongs to.
        latents : Tensor of shape (members, n_rows, n_components)
            What :meth:`latents` gave for it.
        gradient : Tensor of shape (members, n_rows, n_components)
            Gradient of the joint loss with respect to these latents.
        n_updates : int
            Steps to take; from the second on the gradient is stale [1]_.

        References
        ----------
        .. [1] Y. Liu et al. FedBCD: a communication-efficient collaborative learning framework
           for distributed features. IEEE Transactions on Signal Processing, 2022.
        """
        for update in range(n_updates):
            if update:
                latents = self.latents(rows)
            self.schedule.zero_grad()
            torch.autograd.backward((latents * gradient).sum() + self.auxiliary)
            self.schedule.step()

    def _with_trunk(self, clean: Tensor) -> Tensor:
        """Run a pretrained network, whose own dropout draws from torch's global generator."""
        trunk = self.encoder.trunks
        dtype = next(trunk.parameters()).dtype
        set_training_mode(trunk)
        with torch.random.fork_rng(devices=[]):
            seed = int(torch.randint(2**62, (1,), generator=self.generator))
            torch.manual_seed(seed)
            return torch.as_tensor(self.encoder(clean.to(dtype), self.generator))


def set_training_mode(module: nn.Module) -> None:
    """Put modules that have something to train into training mode, frozen ones out of it.

    A frozen batch normalisation keeps its pretrained statistics.

    Parameters
    ----------
    module : nn.Module
        Changed in place.
    """
    for part in module.modules():
        own = list(part.parameters())
        part.training = not own or any(p.requires_grad for p in own)


def encode(encoder: PartyEncoder, inputs: np.ndarray, chunk: int = 8192) -> np.ndarray:
    """Encode rows with a trained encoder.

    Parameters
    ----------
    encoder : PartyEncoder
        A trained encoder.
    inputs : ndarray of shape (n_rows, width), dtype float32
        Rows.
    chunk : int, default=8192
        Rows at a time.

    Returns
    -------
    ndarray of shape (members, n_rows, n_components), dtype float64
        Latents.
    """
    encoder.eval()
    trunk = next(encoder.trunks.parameters(), None)
    dtype = encoder.encoder.skip.weight.dtype if trunk is None else trunk.dtype
    parts = [np.empty((encoder.members, 0, encoder.encoder.skip.weight.shape[2]))]
    with torch.no_grad():
        for start in range(0, len(inputs), chunk):
            x = torch.as_tensor(inputs[start : start + chunk]).to(dtype)
            parts.append(encoder(x).double().numpy())
    return np.concatenate(parts, axis=1)

"""How the numbers of many rows lie in Paillier ciphertexts: outputs side by side, then rows."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedtl.privacy.paillier import Noise, PublicKey, Slots
from fedtl.privacy.paillier_sums import join

SLOT_BITS = 64
_WORTH_JOINING = 900
"""Squarings of a ciphertext: about as many products as decrypting and randomising one takes."""


@dataclass(frozen=True)
class Layout:
    """Places of signed 64-bit numbers: `together` outputs of an item, `at_once` items.

    An item that has more outputs than a ciphertext has slots takes several ciphertexts, its parts.

    Parameters
    ----------
    slots : Slots
        Of the key.
    n_outputs : int
        Numbers of each item.
    """

    slots: Slots
    n_outputs: int

    @classmethod
    def of_key(cls, public: PublicKey, n_outputs: int) -> Layout:
        """Return the layout for a key."""
        return cls(Slots.of_key(public.bits, SLOT_BITS), n_outputs)

    @property
    def together(self) -> int:
        """Outputs of one item in a ciphertext."""
        return min(self.n_outputs, self.slots.count)

    @property
    def n_parts(self) -> int:
        """Ciphertexts that the outputs of an item take."""
        return -(-self.n_outputs // self.together)

    @property
    def at_once(self) -> int:
        """Items in a ciphertext; one, where adding another takes longer than decrypting it."""
        if self.together * self.slots.bits > _WORTH_JOINING:
            return 1
        return self.slots.count // self.together

    def n_groups(self, n_items: int) -> int:
        """Return how many ciphertexts a part of so many items takes."""
        return -(-n_items // self.at_once)

    def encrypt(self, public: PublicKey, integers: np.ndarray, noise: Noise) -> list[Any]:
        """Encrypt items, each in ciphertexts of its own.

        Parameters
        ----------
        public : PublicKey
            The key.
        integers : ndarray of shape (n_items, n_outputs), dtype int64
            Their numbers.
        noise : Noise
            Of this key.

        Returns
        -------
        list of mpz
            The parts of the first item, then those of the next.
        """
        fresh, step = noise.take(len(integers) * self.n_parts), self.together
        return [
            public.encrypt(self.slots.pack(row[part * step : (part + 1) * step]), fresh.pop())
            for row in integers.tolist()
            for part in range(self.n_parts)
        ]

    def join(self, public: PublicKey, items: Sequence[Any]) -> list[Any]:
        """Put ciphertexts of one item each together."""
        if self.at_once == 1:
            return list(items)
        return join(public, items, self.together * self.slots.bits, self.at_once)

    def seal(self, groups: Sequence[Any], n_items: int, noise: Noise) -> list[Any]:
        """Randomise joined ciphertexts anew, with random numbers in slots that hold no item.

        Else whoever lies about what was encrypted could read more bits in the last of them.

        Parameters
        ----------
        groups : sequence of mpz
            A part of all items, joined.
        n_items : int
            Number of items.
        noise : Noise
            Of their key.

        Returns
        -------
        list of mpz
            As many ciphertexts.
        """
        public, largest = noise.public, 1 << (self.slots.bits - 1)
        sealed = []
        for i, (group, fresh) in enumerate(zip(groups, noise.take(len(groups)), strict=True)):
            used = self.together * min(self.at_once, n_items - i * self.at_once)
            rest = [
                secrets.randbelow(2 * largest - 1) - largest + 1
                for _ in range(self.slots.count - used)
            ]
            hidden = public.encrypt(self.slots.pack(rest, used), fresh)
            sealed.append(group * hidden % public.square)
        return sealed

    def read(self, numbers: Sequence[int], n_items: int) -> np.ndarray:
        """Take numbers out.

        Parameters
        ----------
        numbers : sequence of int
            What joined ciphertexts hold, part by part.
        n_items : int
            Number of items.

        Returns
        -------
        ndarray of shape (n_items, n_outputs), dtype int64
            Their numbers.

        Raises
        ------
        CryptoError
            If there is more than the slots can hold.
        """
        if not n_items:
            return np.empty((0, self.n_outputs), dtype=np.int64)
        found = np.array([self.slots.unpack(n) for n in numbers], dtype=np.int64)
        found = found[:, : self.at_once * self.together]
        by_part = found.reshape(self.n_parts, -1, self.together)[:, :n_items]
        return by_part.transpose(1, 0, 2).reshape(n_items, -1)[:, : self.n_outputs]

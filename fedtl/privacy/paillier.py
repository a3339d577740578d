"""Paillier encryption, packed: many small signed numbers in the slots of one ciphertext.

The scheme is Paillier's [1]_ with the noise of Damgård, Jurik and Nielsen [2]_: powers with short
exponents of a base that whoever encrypts draws anew, from a table of that base's powers.
Decryption uses the Chinese remainder theorem and gmpy2's `powmod_sec`. *Unaudited*: the rest of
gmpy2's arithmetic is not constant-time, so that timing may tell about what is encrypted to an
observer of the process. Needs the extra ``fedtl[paillier]``.

References
----------
.. [1] P. Paillier. Public-key cryptosystems based on composite degree residuosity classes.
   EUROCRYPT 1999.
.. [2] I. Damgård, M. Jurik, J. B. Nielsen. A generalization of Paillier's public-key system with
   applications to electronic voting. International Journal of Information Security 9, 2010.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from fedtl.privacy._work import decrypted, noises
from fedtl.privacy._workers import in_processes, n_workers
from fedtl.privacy.keys import CryptoError

KEY_BITS = (2048, 3072, 4096)
_SMALL_FACTORS = 10_000


def need_gmpy2() -> Any:
    """Return the module gmpy2, or say how to install it."""
    try:
        import gmpy2
    except ImportError as error:
        raise ImportError(
            "Paillier encryption needs gmpy2: pip install 'fedtl[paillier]'"
        ) from error
    return gmpy2


class PublicKey:
    """A Paillier modulus.

    Parameters
    ----------
    n : int
        The modulus.
    """

    def __init__(self, n: int) -> None:
        self.n = need_gmpy2().mpz(n)
        self.square = self.n * self.n

    @property
    def bits(self) -> int:
        """Bits of the modulus."""
        return int(self.n.bit_length())

    @property
    def ciphertext_bytes(self) -> int:
        """Bytes of a ciphertext."""
        return self.bits // 4

    def to_bytes(self) -> bytes:
        """Return the modulus, big-endian."""
        return int(self.n).to_bytes(self.bits // 8, "big")

    @classmethod
    def from_bytes(cls, data: bytes) -> PublicKey:
        """Read a modulus that came from elsewhere, after checks.

        Parameters
        ----------
        data : bytes
            The modulus, big-endian.

        Returns
        -------
        PublicKey
            The key.

        Raises
        ------
        CryptoError
            If it has not 2,048, 3,072 or 4,096 bits, is even, a prime or a power, or has a small
            factor. That it is a product of two large primes cannot be seen.
        """
        gmpy2 = need_gmpy2()
        n = gmpy2.mpz(int.from_bytes(data, "big"))
        if 8 * len(data) not in KEY_BITS or n.bit_length() != 8 * len(data):
            raise CryptoError(
                f"a Paillier modulus has {n.bit_length()} bits in {len(data)} bytes; exactly 2048, "
                "3072 or 4096 are accepted"
            )
        if gmpy2.gcd(n, gmpy2.primorial(_SMALL_FACTORS)) != 1:
            raise CryptoError(f"a Paillier modulus has a factor below {_SMALL_FACTORS}")
        if gmpy2.is_power(n) or gmpy2.is_prime(n):
            raise CryptoError("a Paillier modulus is a prime or a power")
        return cls(n)

    def encrypt(self, number: int, noise: Any) -> Any:
        """Encrypt an integer.

        Parameters
        ----------
        number : int
            At most half the modulus in absolute value.
        noise : mpz
            From :class:`Noise`, used for nothing else.

        Returns
        -------
        mpz
            The ciphertext.

        Raises
        ------
        CryptoError
            If the number does not fit.
        """
        if 2 * abs(number) >= self.n:
            raise CryptoError(f"a number of {abs(number).bit_length()} bits does not fit the key")
        return (1 + number * self.n) * noise % self.square

    def pack_ciphertexts(self, ciphertexts: Sequence[Any]) -> np.ndarray:
        """Return ciphertexts as bytes: (n, ciphertext_bytes), uint8, little-endian."""
        width = self.ciphertext_bytes
        data = b"".join(int(c).to_bytes(width, "little") for c in ciphertexts)
        return np.frombuffer(data, dtype=np.uint8).reshape(len(ciphertexts), width)

    def unpack_ciphertexts(self, data: np.ndarray) -> list[Any]:
        """Read ciphertexts that came from elsewhere, after checks.

        Parameters
        ----------
        data : ndarray of shape (n, n_bytes), dtype uint8
            From :meth:`pack_ciphertexts`.

        Returns
        -------
        list of mpz
            Ciphertexts.

        Raises
        ------
        CryptoError
            If one has another length, is out of range or shares a factor with the modulus.
        """
        gmpy2 = need_gmpy2()
        if data.ndim != 2 or data.shape[1] != self.ciphertext_bytes:
            raise CryptoError(
                f"ciphertexts of this key have {self.ciphertext_bytes} bytes, got {data.shape}"
            )
        ciphertexts = [gmpy2.from_binary(b"\x01\x01" + row.tobytes()) for row in data]
        together = gmpy2.mpz(1)
        for c in ciphertexts:
            if not 0 < c < self.square:
                raise CryptoError("a ciphertext is out of range; it is of another key")
            together = together * c % self.n
        if gmpy2.gcd(together, self.n) != 1:
            raise CryptoError("a ciphertext shares a factor with the modulus")
        return ciphertexts


class PrivateKey:
    """A Paillier key pair.

    Parameters
    ----------
    p, q : int
        Primes, both 3 modulo 4, of the same length, with ``gcd(p - 1, q - 1) == 2``.
    """

    def __init__(self, p: int, q: int) -> None:
        gmpy2 = need_gmpy2()
        self._p, self._q = gmpy2.mpz(p), gmpy2.mpz(q)
        if not good_primes(self._p, self._q):
            raise CryptoError(
                "p and q must be different primes of the same length, 3 modulo 4, with "
                "gcd(p - 1, q - 1) = 2"
            )
        self.public = PublicKey(self._p * self._q)
        self._halves = [self._half(f) for f in (self._p, self._q)]
        self._q_inverse = gmpy2.invert(self._q, self._p)

    @property
    def primes(self) -> tuple[bytes, bytes]:
        """The secret, big-endian."""
        p, q = (int(f).to_bytes(self.public.bits // 16, "big") for f in (self._p, self._q))
        return p, q

    @classmethod
    def from_primes(cls, primes: tuple[bytes, bytes]) -> PrivateKey:
        """Return the pair of :attr:`primes`."""
        p, q = (int.from_bytes(prime, "big") for prime in primes)
        return cls(p, q)

    @classmethod
    def generate(cls, bits: int = 3072) -> PrivateKey:
        """Make a key pair from secret randomness.

        Parameters
        ----------
        bits : {2048, 3072, 4096}, default=3072
            Bits of the modulus.

        Returns
        -------
        PrivateKey
            A new pair.

        Raises
        ------
        CryptoError
            If the length is another.
        """
        if bits not in KEY_BITS:
            raise CryptoError(f"a key has 2048, 3072 or 4096 bits, not {bits}")
        while True:
            p, q = _prime(bits // 2), _prime(bits // 2)
            if good_primes(p, q):
                return cls(p, q)

    def decrypt(self, ciphertexts: Sequence[Any]) -> list[int]:
        """Decrypt, in several processes of this machine if there is much to do.

        Parameters
        ----------
        ciphertexts : sequence of mpz
            Of this key, checked.

        Returns
        -------
        list of int
            Numbers between minus and plus half the modulus.
        """
        work = len(ciphertexts) * self.public.bits // 4
        edges = np.linspace(0, len(ciphertexts), n_workers(work) + 1).astype(int).tolist()
        calls = [(self._halves, list(ciphertexts[a:b])) for a, b in pairwise(edges)]
        numbers = []
        for p, q in in_processes(decrypted, calls):
            number = q + self._q * ((p - q) * self._q_inverse % self._p)
            numbers.append(int(number - self.public.n if 2 * number > self.public.n else number))
        return numbers

    def noise(self) -> Noise:
        """Return noise for this key, which its owner makes faster than others do."""
        gmpy2 = need_gmpy2()
        noise = Noise(self.public)
        squares = [self._p**2, self._q**2]
        noise.split(squares, gmpy2.invert(squares[1], squares[0]))
        return noise

    def _half(self, factor: Any) -> tuple[Any, Any, Any]:
        gmpy2 = need_gmpy2()
        square = factor * factor
        power = gmpy2.powmod_sec(1 + self.public.n, factor - 1, square)
        return factor, square, gmpy2.invert((power - 1) // factor, factor)

    def __repr__(self) -> str:
        return f"PrivateKey({self.public.bits} bits)"


def good_primes(p: Any, q: Any) -> bool:
    """Return whether two numbers make a key whose noise is as Damgård, Jurik and Nielsen need it.

    Parameters
    ----------
    p, q : mpz
        Candidates.

    Returns
    -------
    bool
        Whether both are primes and 3 modulo 4, differ, are of one length, and have no odd factor
        of ``p - 1`` and ``q - 1`` in common.
    """
    gmpy2 = need_gmpy2()
    return bool(
        p != q
        and p % 4 == q % 4 == 3
        and p.bit_length() == q.bit_length()
        and gmpy2.gcd(p - 1, q - 1) == 2
        and gmpy2.is_prime(p, 40)
        and gmpy2.is_prime(q, 40)
    )


def _prime(bits: int) -> Any:
    gmpy2 = need_gmpy2()
    while True:
        # The two highest bits are set, so that the product of two has all its bits.
        candidate = gmpy2.mpz(secrets.randbits(bits)) | (3 << (bits - 2)) | 3
        if gmpy2.is_prime(candidate, 40):
            return candidate


class Noise:
    """Noise for ciphertexts of one key, made ahead and used once.

    Parameters
    ----------
    public : PublicKey
        Whose ciphertexts it is for.
    """

    def __init__(self, public: PublicKey) -> None:
        gmpy2 = need_gmpy2()
        self.public = public
        # The base is drawn here and not taken from the key's owner, who could choose a bad one.
        root = gmpy2.mpz(secrets.randbits(public.bits + 64)) % public.n
        self._base = gmpy2.powmod(-root * root % public.n, public.n, public.square)
        self._moduli, self._inverse = [public.square], gmpy2.mpz(0)
        self._ready: list[Any] = []

    def __len__(self) -> int:
        return len(self._ready)

    def split(self, moduli: Sequence[Any], inverse: Any) -> None:
        """Compute modulo two factors of the square from here on, by the owner of the key.

        Parameters
        ----------
        moduli : sequence of mpz
            The squares of the two primes.
        inverse : mpz
            Inverse of the second modulo the first.
        """
        self._moduli, self._inverse = list(moduli), inverse

    def make(self, count: int) -> None:
        """Have at least `count` of them ready, made in several processes if they are many."""
        missing = max(count - len(self._ready), 0)
        n_bytes = self.public.bits // 16  # exponents of half the length of the modulus
        bases = [self._base % modulus for modulus in self._moduli]
        sizes = np.diff(np.linspace(0, missing, n_workers(missing * n_bytes) + 1).astype(int))
        calls = [(self._moduli, bases, n_bytes, size) for size in sizes.tolist() if size]
        if calls:
            self._ready += [self._joined(parts) for parts in in_processes(noises, calls)]

    def _joined(self, parts: Sequence[Any]) -> Any:
        """The noise modulo the square, by the Chinese remainder theorem."""
        if len(parts) == 1:
            return parts[0]
        first, second = self._moduli
        return parts[1] + second * ((parts[0] - parts[1]) * self._inverse % first)

    def take(self, count: int) -> list[Any]:
        """Return noises and forget them, making what is missing."""
        self.make(count)
        taken, self._ready = self._ready[:count], self._ready[count:]
        return taken

    def rerandomize(self, ciphertexts: Sequence[Any]) -> list[Any]:
        """Return ciphertexts of the same numbers that tell nothing of how they were computed."""
        noises = self.take(len(ciphertexts))
        return [c * r % self.public.square for c, r in zip(ciphertexts, noises, strict=True)]


@dataclass(frozen=True)
class Slots:
    """How signed integers lie side by side in one number.

    Parameters
    ----------
    bits : int
        Bits of a slot: each number, and each sum, is below ``2**(bits - 1)`` in absolute value.
    count : int
        Number of slots.

    Examples
    --------
    >>> from fedtl.privacy.paillier import Slots
    >>> slots = Slots(bits=8, count=3)
    >>> slots.unpack(slots.pack([1, -2, 3]) * 5)
    [5, -10, 15]
    """

    bits: int
    count: int

    @classmethod
    def of_key(cls, key_bits: int, bits: int) -> Slots:
        """Return as many slots as fit into numbers of a key, a guard bit above them."""
        return cls(bits, (key_bits - 2) // bits)

    def pack(self, numbers: Sequence[int], first: int = 0) -> int:
        """Put numbers into slots.

        Parameters
        ----------
        numbers : sequence of int
            At most as many as slots.
        first : int, default=0
            The slot of the first number; slots that are left out hold zero.

        Returns
        -------
        int
            One number.

        Raises
        ------
        CryptoError
            If there are too many, or one does not fit.
        """
        if first + len(numbers) > self.count:
            raise CryptoError(f"{first + len(numbers)} numbers do not fit into {self.count} slots")
        packed = 0
        for number in reversed(numbers):
            if abs(number) >= 1 << (self.bits - 1):
                raise CryptoError(
                    f"a number of {abs(number).bit_length()} bits does not fit into a slot of "
                    f"{self.bits}"
                )
            packed = (packed << self.bits) + number
        return packed << (first * self.bits)

    def unpack(self, packed: int) -> list[int]:
        """Take numbers out of their slots.

        Parameters
        ----------
        packed : int
            A sum of products of packed numbers with integers.

        Returns
        -------
        list of int
            One number for each slot.

        Raises
        ------
        CryptoError
            If there is more than the slots can hold.
        """
        shifted = packed + self._halves
        if not 0 <= shifted < 1 << (self.bits * self.count):
            raise CryptoError("a decrypted number has more than its slots can hold")
        mask, half = (1 << self.bits) - 1, 1 << (self.bits - 1)
        return [((shifted >> (i * self.bits)) & mask) - half for i in range(self.count)]

    @cached_property
    def _halves(self) -> int:
        return sum(1 << (i * self.bits + self.bits - 1) for i in range(self.count))

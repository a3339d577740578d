"""A party far away: a network namespace behind a line that delays and loses packets.

The line is made of two TUN devices and a process that carries packets between them, each after a
delay, some never: what ``tc netem`` does where the kernel has it. TCP itself finds out what was
lost, and sends it again. It needs root, ``ip`` and ``/dev/net/tun``.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import multiprocessing
import os
import random
import select
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.remote import Setting
from benchmarks.speed import ratio, seconds

_DELAY, _LOSS = 0.05, 0.01
_HERE, _THERE = "10.213.91.1", "10.213.91.2"
_SPACE, _DEVICES = "fedtl-far", ("fedtl0", "fedtl1")
_ROWS, _STEPS = 2000, 30
_SET_NAME, _TUN = 0x400454CA, 0x1001  # TUNSETIFF; IFF_TUN | IFF_NO_PI


class Line:
    """A network namespace that is reached over a slow and lossy line.

    Parameters
    ----------
    delay : float
        Seconds each way.
    loss : float
        Share of packets that do not arrive.
    """

    def __init__(self, delay: float, loss: float) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):  # left by one that was killed
            _ip("netns", "delete", _SPACE, stderr=subprocess.DEVNULL)
        self._ends = [self._device(name) for name in _DEVICES]
        self._lost = multiprocessing.get_context("fork").Value("q", 0)
        self._carrier = multiprocessing.get_context("fork").Process(
            target=_carry, args=(self._ends, delay, loss, self._lost), daemon=True
        )
        _ip("netns", "add", _SPACE)
        _ip("link", "set", _DEVICES[1], "netns", _SPACE)
        _ip("address", "add", f"{_HERE}/30", "dev", _DEVICES[0])
        _ip("link", "set", _DEVICES[0], "up")
        _ip("-n", _SPACE, "address", "add", f"{_THERE}/30", "dev", _DEVICES[1])
        _ip("-n", _SPACE, "link", "set", _DEVICES[1], "up")
        self._carrier.start()

    @property
    def lost(self) -> int:
        """Packets that did not arrive so far."""
        return int(self._lost.value)

    @staticmethod
    def _device(name: str) -> int:
        end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(end, _SET_NAME, struct.pack("16sH22x", name.encode(), _TUN))
        return end

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *exception: object) -> None:
        self._carrier.kill()
        self._carrier.join()
        for end in self._ends:
            os.close(end)
        _ip("netns", "delete", _SPACE)


class FarParty:
    """``fedtl serve`` as a process in the namespace, with the shop's table of a setting.

    Parameters
    ----------
    setting : Setting
        Whose shop's table and identities are used.
    """

    def __init__(self, setting: Setting) -> None:
        folder = Path(setting.credentials).parent
        table = setting.X[setting.columns["shop"]].reset_index(names="id")
        table.to_parquet(folder / "table.parquet")
        (folder / "party.toml").write_text(
            f'name = "shop"\ncredentials = "shop"\nstate = "far"\nlisten = "{_THERE}:9443"\n'
            '[table]\npath = "table.parquet"\nkey = "id"\n[policy]\nmin_rows = 1\n'
        )
        command = ["ip", "netns", "exec", _SPACE, sys.executable, "-m", "fedtl.cli", "serve"]
        self._log = folder / "log"
        with self._log.open("w") as file:
            self._process = subprocess.Popen([*command, str(folder / "party.toml")], stderr=file)
        while "answers on" not in self._log.read_text():
            if self._process.poll() is not None:
                raise RuntimeError(self._log.read_text())
            time.sleep(0.1)

    def __enter__(self) -> FarParty:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.terminate()
        self._process.wait(120)  # its own grace is 30 seconds, and the machine may be busy


def distance(repeats: int) -> Iterator[str]:
    """Fits with a party that is 50 ms away, over a line that loses every hundredth packet."""
    if os.geteuid() or not Path("/dev/net/tun").exists():
        yield "distance: skipped, it needs root and /dev/net/tun"
        return
    for loss in (0.0, _LOSS):
        with Line(_DELAY, loss) as line, Setting(_ROWS) as setting, FarParty(setting):
            far = f"{_THERE}:9443"
            with setting.connect() as near, setting.connect(shop=far) as federation:
                for solver in ("moments", "latent"):
                    fits = [
                        setting.estimator(handle, solver).set_params(max_iter=_STEPS)
                        for handle in (near, federation)
                    ]
                    data = setting.X[setting.columns["bank"]], setting.y
                    yield from _compare(fits, data, line, repeats, f"{solver}, {loss:.0%} loss")


def _compare(
    fits: list[Any], data: tuple[Any, Any], line: Line, repeats: int, title: str
) -> Iterator[str]:
    """Compare a fit far away with its round trips and the same fit on loopback."""
    for clf in fits:
        clf.fit(*data)  # ids are matched once, and connections made
    trip = float(np.median([seconds(fits[1].federation.describe) for _ in range(5)]))
    took, foretold, lost = [], [], []
    for _ in range(repeats):
        computing, before = seconds(partial(fits[0].fit, *data)), line.lost
        took.append(seconds(partial(fits[1].fit, *data)))
        lost.append(line.lost - before)
        rows = fits[1].ledger_.rows()
        trips = sum(row["messages"] for row in rows if row["direction"] == "sent")
        foretold.append(computing + trips * 2 * _DELAY)
    same = np.array_equal(*[clf.predict_proba(data[0]) for clf in fits])
    shares = [mine / theirs for mine, theirs in zip(took, foretold, strict=True)]
    yield ratio(f"fit / (fit on loopback + {trips} round trips of 100 ms), {title}", shares, 2.0)
    yield (
        f"  {np.median(took):.1f} s over {np.median(foretold):.1f} s; a small message took "
        f"{1e3 * trip:.0f} ms; {np.mean(lost):.1f} packets lost a fit; the same model: {same}"
    )


def _carry(ends: list[int], delay: float, loss: float, lost: Any) -> None:
    """Carry packets between two devices."""
    under_way: list[tuple[float, int, bytes]] = []
    while True:
        wait = max(under_way[0][0] - time.monotonic(), 0.0) if under_way else None
        for end in select.select(ends, [], [], wait)[0]:
            with contextlib.suppress(BlockingIOError):
                packet = os.read(end, 65_536)
                if random.random() < loss:
                    lost.value += 1
                else:
                    other = ends[1 - ends.index(end)]
                    heapq.heappush(under_way, (time.monotonic() + delay, other, packet))
        while under_way and under_way[0][0] <= time.monotonic():
            _, end, packet = heapq.heappop(under_way)
            with contextlib.suppress(OSError):  # a device that is full loses it, as a router does
                os.write(end, packet)


def _ip(*arguments: str, **options: Any) -> None:
    subprocess.run(["ip", *arguments], check=True, **options)


BENCHMARKS: dict[str, Callable[[int], Iterator[str]]] = {"distance": distance}

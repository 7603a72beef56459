"""Sites with slow links between them, on one machine: Linux network namespaces.

A `Network` is one namespace for each site, one for scheduler and client (`HUB`), and one that
holds only a bridge, to which all others are joined. What a site sends out, its *uplink*, is limited
by a token bucket (``tc … tbf``). Nothing is added to the machine's own network, so deleting the
namespaces removes everything. Only root may do this, and ``ip`` and ``tc`` of iproute2 are needed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Self

PREFIX = "pools-bench"
HUB = "hub"  #: where scheduler and client run
SWITCH = "switch"  #: holds the bridge
SUBNET = "10.77.0"  #: seen only inside the namespaces
#: Bytes that may leave at once: some packets, as the kernel hands them over (up to 64 kB each).
BURST = "128kb"
#: Longest time that a packet waits for its turn; then it is dropped, and TCP slows down.
LATENCY = "200ms"
#: Seconds between SIGTERM and SIGKILL.
GRACE = 5.0


class NotPossibleHere(RuntimeError):
    """Network namespaces cannot be made, on this machine or by this user."""


def check_possible() -> None:
    """Raise `NotPossibleHere` with the reason, if network namespaces cannot be made."""
    missing = [program for program in ("ip", "tc") if shutil.which(program) is None]
    if missing:
        raise NotPossibleHere(
            f"Simulated sites need the programs 'ip' and 'tc', but {' and '.join(missing)} cannot "
            "be found. On Debian and Ubuntu: apt-get install iproute2"
        )
    if os.geteuid() != 0:
        raise NotPossibleHere(
            f"Simulated sites are network namespaces, which only root may make; this is user "
            f"{os.geteuid()}. Run it as root, for example: sudo make bench-sites"
        )


def run(*command: str) -> str:
    """Run a program and give what it printed; if it fails, raise with what it said."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip()
        raise NotPossibleHere(f"'{' '.join(command)}' failed with code {done.returncode}: {said}")
    return done.stdout


class Network:
    """Sites, the hub and the links between them; everything ends with the block.

    Parameters
    ----------
    sites : iterable of str
        Names of the sites.
    rate : float
        Mbit/s that each site may send.

    Examples
    --------
    ::

        with Network(["A", "B"], rate=50) as network:
            process = network.popen("A", ["ping", "-c1", network.address("B")])
    """

    def __init__(self, sites: Iterable[str], rate: float = 50.0) -> None:
        self.sites = list(sites)
        self.rate = rate
        self._numbers = {place: i for i, place in enumerate([HUB, *self.sites], start=1)}

    def namespace(self, place: str) -> str:
        """Name of a site's namespace; the number tells whose it is."""
        return f"{PREFIX}-{os.getpid()}-{place}"

    def address(self, place: str) -> str:
        """IP address of a site, or of the hub."""
        return f"{SUBNET}.{self._numbers[place]}"

    def __enter__(self) -> Self:
        check_possible()
        sweep()
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _build(self) -> None:
        switch = self.namespace(SWITCH)
        run("ip", "netns", "add", switch)
        run("ip", "-n", switch, "link", "add", "bridge", "type", "bridge")
        run("ip", "-n", switch, "link", "set", "bridge", "up")
        for place, number in self._numbers.items():
            own = self.namespace(place)
            port = f"port{number}"
            run("ip", "netns", "add", own)
            pair = ("type", "veth", "peer", "name", port, "netns", switch)
            run("ip", "link", "add", "uplink", "netns", own, *pair)
            run("ip", "-n", switch, "link", "set", port, "master", "bridge", "up")
            run("ip", "-n", own, "addr", "add", f"{self.address(place)}/24", "dev", "uplink")
            run("ip", "-n", own, "link", "set", "uplink", "up")
            run("ip", "-n", own, "link", "set", "lo", "up")
        for site in self.sites:
            bucket = ("tbf", "rate", f"{self.rate:g}mbit", "burst", BURST, "latency", LATENCY)
            run("tc", "-n", self.namespace(site), "qdisc", "add", "dev", "uplink", "root", *bucket)

    def popen(self, place: str, command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start a program at a site, or at the hub."""
        inside = ["ip", "netns", "exec", self.namespace(place), *command]
        return subprocess.Popen(inside, **options)

    def close(self) -> None:
        """End all that runs in the namespaces and delete them; safe to call twice."""
        _remove([self.namespace(place) for place in (SWITCH, *self._numbers)])


def namespaces() -> list[str]:
    """The namespaces that this module has made, also in other processes."""
    lines = run("ip", "netns", "list").splitlines()
    return [name for line in lines for name in line.split()[:1] if name.startswith(f"{PREFIX}-")]


def sweep() -> None:
    """Remove what a process left that was killed before it could."""
    found = {name: name.removeprefix(f"{PREFIX}-").partition("-")[0] for name in namespaces()}
    _remove([name for name, pid in found.items() if not os.path.exists(f"/proc/{pid}")])


def _remove(names: Iterable[str]) -> None:
    there = set(namespaces()).intersection(names)
    # Whatever runs in namespaces of our making was started there by us.
    _end([int(pid) for name in there for pid in run("ip", "netns", "pids", name).split()])
    for name in there:
        run("ip", "netns", "del", name)


def _end(pids: list[int]) -> None:
    """Send SIGTERM to all, and SIGKILL to those that are left after `GRACE` seconds."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sign)
        if wait_until(lambda: not any(map(alive, pids)), GRACE):
            return


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended, and only waits to be asked how, does not."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition: Callable[[], bool], timeout: float, interval: float = 0.05) -> bool:
    """Wait until `condition()` is true; False after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(interval)
    return True

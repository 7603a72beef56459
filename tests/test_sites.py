"""Simulated sites: what the benchmarks build of network namespaces, and that nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.network import (
    HUB,
    PREFIX,
    Network,
    NotPossibleHere,
    alive,
    check_possible,
    namespaces,
    run,
    sweep,
    wait_until,
)
from benchmarks.sites import main

ROOT = Path(__file__).parent.parent


def reason() -> str:
    """Why network namespaces cannot be made here; empty if they can."""
    try:
        check_possible()
        run("ip", "netns", "add", f"{PREFIX}-{os.getpid()}-try")
        run("ip", "netns", "del", f"{PREFIX}-{os.getpid()}-try")
    except NotPossibleHere as error:
        return str(error)
    return ""


WHY_NOT = reason()
needs_namespaces = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "possible")


def of_process(pid: int) -> list[str]:
    """The namespaces that a process made."""
    return [name for name in namespaces() if name.startswith(f"{PREFIX}-{pid}-")]


@pytest.fixture
def network() -> Iterator[Network]:
    """Two sites with 8 Mbit/s each."""
    with Network(["A", "B"], rate=8) as network:
        yield network


@needs_namespaces
def test_each_site_has_a_slow_uplink(network: Network) -> None:
    """The token bucket is on what a site sends, and on no other device."""
    limits = run("tc", "-n", network.namespace("A"), "qdisc", "show", "dev", "uplink")
    assert "tbf" in limits
    assert "rate 8Mbit" in limits
    assert "tbf" not in run("tc", "-n", network.namespace(HUB), "qdisc", "show", "dev", "uplink")
    assert "tbf" not in run("tc", "qdisc", "show")


@needs_namespaces
def test_sites_reach_each_other(network: Network) -> None:
    """A program at one site gets what one at the other sends."""
    serve = (
        "import socket; s = socket.create_server(('{}', 9)); c, _ = s.accept(); c.sendall(b'hi')"
    )
    ask = (
        "import socket, time\n"
        "for _ in range(200):\n"
        "    try: print(socket.create_connection(('{}', 9)).recv(2).decode()); break\n"
        "    except OSError: time.sleep(0.05)\n"
    )
    python = [sys.executable, "-c"]
    server = network.popen("B", [*python, serve.format(network.address("B"))])
    client = network.popen("A", [*python, ask.format(network.address("B"))], stdout=subprocess.PIPE)
    assert client.communicate(timeout=30)[0] == b"hi\n"
    assert server.wait(timeout=30) == 0


@needs_namespaces
def test_nothing_is_left_after_a_failure() -> None:
    """Namespaces and what runs in them end with the block, also by an exception."""
    sleepers = []

    def fail() -> None:
        with Network(["A"]) as network:
            sleepers.append(network.popen("A", ["sleep", "600"]))
            assert of_process(os.getpid())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert sleepers[0].wait(timeout=10) == -signal.SIGTERM
    assert of_process(os.getpid()) == []


@needs_namespaces
def test_what_a_killed_process_left_is_swept_up() -> None:
    """Namespaces whose maker is gone are removed; those of a living process are not."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    left, alive = f"{PREFIX}-{gone.pid}-A", f"{PREFIX}-{os.getpid()}-A"
    run("ip", "netns", "add", left)
    run("ip", "netns", "add", alive)
    try:
        sweep()
        assert left not in namespaces()
        assert alive in namespaces()
    finally:
        run("ip", "netns", "del", alive)


@needs_namespaces
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_interrupted_cleans_up(tmp_path: Path, sign: signal.Signals) -> None:
    """Ctrl-C or a termination in the middle of a run ends all its processes and namespaces."""
    command = [sys.executable, "-m", "benchmarks.sites", "--no-docs", "--output"]
    # What runs in the background of a shell ignores Ctrl-C, and its children inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        started = subprocess.Popen(
            [*command, str(tmp_path / "results.json"), "readme"],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    pids: list[int] = []

    def workers_run() -> bool:
        made = of_process(started.pid)
        pids[:] = [int(pid) for name in made for pid in run("ip", "netns", "pids", name).split()]
        return len(pids) >= 5

    try:
        assert wait_until(workers_run, timeout=60)
        started.send_signal(sign)
        assert started.wait(timeout=60) != 0
    finally:
        started.kill()
    assert of_process(started.pid) == []
    # An orphan that has ended stands in /proc until init asks how.
    assert not [pid for pid in pids if alive(pid)]
    assert not (tmp_path / "results.json").exists()


def test_who_is_not_root_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without root, or without iproute2, the script says what is missing and starts nothing."""
    monkeypatch.setattr("shutil.which", lambda name: f"/sbin/{name}")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    result = CliRunner().invoke(main, [])
    assert result.exit_code == 1
    assert "only root may make" in result.output
    monkeypatch.setattr("shutil.which", lambda name: None)
    result = CliRunner().invoke(main, [])
    assert "'ip' and 'tc', but ip and tc cannot be found" in result.output.replace("\n", " ")


def test_unknown_workloads_are_refused() -> None:
    """A name that is no workload is an error that lists them."""
    result = CliRunner().invoke(main, ["no_such_workload"])
    assert result.exit_code == 2
    assert "'forecast'" in result.output

"""A real Ray cluster on one machine: a head without cores and nodes that come and go, with token authentication."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

TOKEN = "a-token-that-only-this-test-knows-0123456789"
_HEALTH = (
    # Sooner than Ray's own, but not so soon that a raylet is given up that only waits for one of two cores.
    '{"health_check_initial_delay_ms": 0, "health_check_period_ms": 500,'
    ' "health_check_timeout_ms": 5000, "health_check_failure_threshold": 3}'
)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@dataclass
class Raylets:
    """Processes of one cluster; every node is a process group of its own."""

    folder: Path
    port: int = field(default_factory=free_port)
    dashboard_port: int = field(default_factory=free_port)
    nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.dashboard_port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to speak to this cluster, and nothing of another one."""
        plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        return plain | {
            # Where an entrypoint finds its python, as in an image.
            "PATH": f"{Path(sys.executable).parent}:{plain.get('PATH', '')}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": TOKEN,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_prestart_worker_first_driver": "0",
            "RAY_grpc_server_num_threads": "2",
            "RAY_worker_niceness": "0",
        }

    def start_head(self, num_cpus: int = 0) -> None:
        """Start the head, and wait until its HTTP answers."""
        self._ray(
            "--head",
            f"--port={self.port}",
            f"--dashboard-port={self.dashboard_port}",
            "--dashboard-host=127.0.0.1",
            f"--temp-dir={self.folder}",
            f"--num-cpus={num_cpus}",
            f"--system-config={_HEALTH}",
        )
        give_up_at = time.monotonic() + 60
        while not self._answers():
            assert time.monotonic() < give_up_at, self.said()
            assert self.nodes[0].poll() is None, self.said()
            time.sleep(0.1)

    def add_node(self, num_cpus: int = 1) -> int:
        """Start a node and wait until it has joined; returns its number.

        Nodes of one machine that start at the same moment would choose the same names for their sockets.
        """
        number = self._ray(f"--address=127.0.0.1:{self.port}", f"--num-cpus={num_cpus}")
        give_up_at = time.monotonic() + 60
        while "Ray runtime started" not in (self.folder / f"node{number}.log").read_text(errors="replace"):
            assert time.monotonic() < give_up_at, self.said()
            assert self.nodes[number].poll() is None, self.said()
            time.sleep(0.1)
        return number

    def remove(self, number: int) -> None:
        """Take a node away without grace: everything of it dies at once."""
        node = self.nodes[number]
        with contextlib.suppress(ProcessLookupError):
            os.killpg(node.pid, signal.SIGKILL)
        node.wait()

    @property
    def standing(self) -> list[int]:
        """Numbers of the nodes, without the head, that run."""
        return [number for number, node in enumerate(self.nodes) if number and node.poll() is None]

    def drain(self, number: int, notice_s: float) -> None:
        """Tell the cluster that a node will be taken away, as the notice of a spot machine does."""
        reason = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot notice"]
        deadline = ["--deadline-remaining-seconds", str(notice_s)]
        command = ["drain-node", "--address", f"127.0.0.1:{self.port}", "--node-id", self._node_id(number)]
        words = [sys.executable, "-m", "ray.scripts.scripts", *command, *reason, *deadline]
        subprocess.run(words, env=self.environment, check=True, capture_output=True, timeout=60)

    def _node_id(self, number: int) -> str:
        """Return Ray's name of a node: its raylet is told of it."""
        for process in psutil.Process(self.nodes[number].pid).children(recursive=True):
            for word in process.cmdline():
                if process.name() == "raylet" and word.startswith("--node_id="):
                    return word.partition("=")[2]
        raise RuntimeError(f"node {number} has no raylet")

    def workers(self, number: int) -> list[psutil.Process]:
        """Return the processes of batchrec's workers on a node."""
        descendants = psutil.Process(self.nodes[number].pid).children(recursive=True)
        return [process for process in descendants if "_WorkerActor" in " ".join(process.cmdline())]

    def close(self) -> None:
        for number in reversed(range(len(self.nodes))):
            self.remove(number)

    def said(self) -> str:
        return "\n".join(path.read_text(errors="replace")[-2000:] for path in sorted(self.folder.glob("node*.log")))

    def _ray(self, *arguments: str) -> int:
        number = len(self.nodes)
        with (self.folder / f"node{number}.log").open("wb") as log:
            command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
            node = subprocess.Popen(
                [
                    *command,
                    f"--object-store-memory={80 * 2**20}",
                    f"--dashboard-agent-listen-port={free_port()}",
                    # Several nodes of one machine must not choose from the same range.
                    "--min-worker-port=0",
                    "--max-worker-port=0",
                    *arguments,
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment,
                start_new_session=True,
            )
        self.nodes.append(node)
        return number

    def _answers(self) -> bool:
        request = urllib.request.Request(f"{self.url}/api/version", headers={"Authorization": f"Bearer {TOKEN}"})
        try:
            with urllib.request.urlopen(request, timeout=2):
                return True
        except (urllib.error.URLError, OSError):
            return False


@contextlib.contextmanager
def raylets() -> Iterator[Raylets]:
    """A cluster whose processes are gone afterwards, whatever happened."""
    # Sockets lie below it, and their paths may not be long.
    with tempfile.TemporaryDirectory(prefix="rl", dir="/tmp", ignore_cleanup_errors=True) as folder:
        cluster = Raylets(Path(folder))
        try:
            yield cluster
        finally:
            cluster.close()

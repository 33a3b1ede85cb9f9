"""A real Ray head in processes of its own: token authentication, its own ports, folder and home."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sysconfig
import tempfile
import time
import urllib.request
import venv
from pathlib import Path
from typing import Self

import psutil

from batchrec.cluster.addresses import Address
from batchrec.cluster.dashboard import Dashboard
from batchrec.cluster.tokens import Token

MARK = "BATCHREC_TEST_HEAD"
TOKEN = "canary-token-0123456789abcdef0123456789abcdef"
REPOSITORY = Path(__file__).parent.parent.parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def own_ip() -> str:
    """An address of this machine that is not loopback, or loopback where it has no other."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("203.0.113.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


class RayHead:
    """A head node; starts on entering, ends for certain on leaving.

    Its Python has every dependency of batchrec, but not batchrec: a plain Ray cluster.
    """

    def __init__(self, *, num_cpus: int = 2, variables: dict[str, str] | None = None) -> None:
        # Sockets lie in it, and their paths are short.
        self.folder = Path(tempfile.mkdtemp(prefix="brc", dir="/tmp")).resolve()
        self.port, self.gcs_port = free_port(), free_port()
        self.token_path = self.folder / "token"
        self._num_cpus, self._variables = num_cpus, variables or {}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def address(self) -> Address:
        return Address(self.url, "test")

    def dashboard(self, address: Address | None = None) -> Dashboard:
        return Dashboard(address or self.address, Token(TOKEN, "test"))

    def __enter__(self) -> Self:
        self.token_path.write_text(TOKEN)
        python = self._plain_python()
        home = self.folder / "home"
        home.mkdir()
        ports = {
            "port": self.gcs_port,
            "dashboard-port": self.port,
            "dashboard-agent-listen-port": free_port(),
            "ray-client-server-port": free_port(),
            "min-worker-port": 0,
            "max-worker-port": 0,
        }
        command = [str(python), "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
        command += [f"--{name}={port}" for name, port in ports.items()]
        command += ["--dashboard-host=0.0.0.0", f"--num-cpus={self._num_cpus}", "--object-store-memory=100000000"]
        command += [f"--temp-dir={self.folder}/ray", "--include-log-monitor=False"]
        ours = ("RAY_", "BATCHREC_", "PYTHONPATH")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        environment |= {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_path),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_prestart_worker_first_driver": "0",
            "RAY_worker_niceness": "0",
            "HOME": str(home),
            "PATH": f"{python.parent}:{environment['PATH']}",
            "BATCHREC_CACHE": os.environ.get("BATCHREC_CACHE", str(self.folder / "cache")),
            MARK: str(self.folder),
            **self._variables,
        }
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, cwd=self.folder, start_new_session=True
            )
        self._wait()
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def kill(self) -> None:
        """End everything at once, like a power cut."""
        for _ in range(20):
            ours = list(self._processes())
            for process in ours:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            if self._process is not None:
                self._process.wait(10)
            if not ours:
                return
            psutil.wait_procs(ours, timeout=0.5)
        raise RuntimeError("processes of the test's Ray are left")

    def _processes(self) -> list[psutil.Process]:
        """Return what is ours: Ray overwrites the environment of many of its processes, but leaves where they run."""
        found = []
        for process in psutil.process_iter():
            try:
                ours = Path(process.cwd()).is_relative_to(self.folder) or process.environ().get(MARK) == str(
                    self.folder
                )
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found

    def _wait(self) -> None:
        request = urllib.request.Request(f"{self.url}/api/version", headers={"Authorization": f"Bearer {TOKEN}"})
        give_up_at = time.monotonic() + 180
        while time.monotonic() < give_up_at:
            assert self._process is not None
            if self._process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(request, timeout=1):
                    return
            except OSError:
                time.sleep(0.1)
        text = (self.folder / "log").read_text()
        self.__exit__()
        raise RuntimeError(f"the head did not start: {text[-2000:]}")

    def _plain_python(self) -> Path:
        """Make an interpreter that sees this one's packages but not the editable installation of batchrec."""
        folder = self.folder / "plain"
        venv.create(folder, symlinks=True)
        [site] = folder.glob("lib/python*/site-packages")
        places = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
        # Packages on a path named here are found; the .pth files among them, an editable batchrec's too, are not read.
        (site / "packages.pth").write_text("".join(f"{place}\n" for place in places))
        return folder / "bin" / "python"

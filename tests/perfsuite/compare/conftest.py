from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

Git = Callable[..., str]
MakeTree = Callable[[str], Path]

# As much of a runtime as the interface demands, and of torch, which would take seconds to import. A
# forward takes DELAY seconds on the device.
STAND_IN = {
    "torch.py": """
class Generator:
    def manual_seed(self, seed):
        return self


def randint(high, shape, generator):
    return [0] * shape[1]


def set_num_threads(threads):
    pass
""",
    "runtime/__init__.py": """
import time
from contextlib import contextmanager
from types import SimpleNamespace

DELAY = {"fused": 0.001, "bf16": 0.001}
STAGES = {name: SimpleNamespace(transport="shared-memory") for name in DELAY}


def load_checkpoint(source):
    return source


class SplitLlama:
    config = SimpleNamespace(vocab_size=8)

    def __init__(self, stage):
        self.stage = stage

    @classmethod
    @contextmanager
    def launch(cls, checkpoint, stage, device, *, endpoint):
        yield cls(stage)

    def forward(self, ids):
        time.sleep(DELAY[self.stage])

    @property
    def last_trace(self):
        seconds = {"rpc_count": 1, "device_s": DELAY[self.stage], "transport_s": 1e-4, "total_s": 1.0}
        return SimpleNamespace(totals=lambda: seconds)
""",
    "runtime/worker.py": """
import time
from pathlib import Path


def main(arguments):
    address = arguments[arguments.index("--endpoint") + 1].removeprefix("unix://")
    Path(address).touch()
    time.sleep(1000)
""",
}


@pytest.fixture(scope="session")
def git() -> Git:
    """Git in a folder, as somebody with a name."""

    def run(folder: Path, *arguments: str) -> str:
        identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        command = ["git", "-C", str(folder), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    return run


@pytest.fixture
def stand_in(tmp_path: Path) -> MakeTree:
    """Makes a tree with a stand-in for the runtime, of the given name, in a folder of its own."""

    def make(name: str) -> Path:
        folder = tmp_path / name
        (folder / "runtime").mkdir(parents=True)
        for file, text in STAND_IN.items():
            (folder / file).write_text(text)
        (folder / "pyproject.toml").write_text('[project]\ndependencies = ["torch"]\n')
        return folder

    return make


@pytest.fixture
def committed(stand_in: MakeTree, git: Git) -> Path:
    """A repository with one commit, the stand-in."""
    folder = stand_in("repository")
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "stand-in")
    return folder


@pytest.fixture
def real(tmp_path: Path, git: Git) -> Path:
    """A repository whose HEAD~1 is this runtime, and whose HEAD computes twice as long on the device."""
    folder = tmp_path / "repository"
    shutil.copytree(ROOT / "runtime", folder / "runtime")
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    (folder / ".gitignore").write_text("__pycache__/\n")
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "base")
    service = folder / "runtime" / "service.py"
    call = "        self._device.run(request.call, inputs, outputs)\n"
    text = service.read_text()
    assert text.count(call) == 1
    service.write_text(text.replace(call, call * 2))
    git(folder, "commit", "--quiet", "-a", "-m", "slower")
    return folder

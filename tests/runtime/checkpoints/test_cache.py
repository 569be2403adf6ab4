"""The cache: made once, whole or not at all, this user's alone, and opened without ``transformers``."""

from __future__ import annotations

import errno
import os
import pwd
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from filelock import FileLock

from runtime.checkpoints import load_checkpoint
from runtime.checkpoints.cache import Cache, require_space
from runtime.errors import CheckpointError

BUILD = """
import os, signal, sys, time
from pathlib import Path
from runtime.checkpoints.cache import Cache

root, log, kill = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:] == ["kill"]

def build(folder):
    with log.open("a") as file:
        file.write("built\\n")
    (folder / "half").write_text("x")
    time.sleep(0.5)
    if kill:
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / "whole").write_text("x")

Cache(root).obtain("thing", build)
"""


@pytest.fixture
def builder(tmp_path: Path) -> list[str]:
    """The command of a process that builds ``thing`` in half a second and logs it."""
    script = tmp_path / "build.py"
    script.write_text(BUILD)
    return [sys.executable, str(script), str(tmp_path / "cache"), str(tmp_path / "log")]


@pytest.fixture
def planted(tmp_path: Path) -> Cache:
    """A cache in which somebody has put a folder under a name that can be foreseen."""
    cache = Cache(tmp_path / "cache")
    cache.obtain("thing", lambda folder: (folder / "thing.so").touch())
    return cache


def never(folder: Path) -> None:
    raise AssertionError("it was there")


def test_what_another_user_has_put_into_the_cache_is_not_loaded(
    planted: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert planted.obtain("thing", never).name == "thing"
    planted.remember("key", "value")
    assert planted.recall("key") == "value"
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    if os.getuid() == 0:  # then what lies there is the system's, which is trusted
        for path in (planted.root / "thing", planted.root / "digests" / "key"):
            os.chown(path, 4243, -1)
    with pytest.raises(CheckpointError, match="belongs to the user"):
        planted.obtain("thing", never)
    assert planted.recall("key") is None


@pytest.mark.parametrize("name", ["", "thing.so"], ids=["folder", "file"])
def test_what_everybody_can_write_is_not_loaded(planted: Cache, name: str) -> None:
    (planted.root / "thing" / name).chmod(0o777)
    with pytest.raises(CheckpointError, match="can be written by everybody"):
        planted.obtain("thing", never)


def test_the_cache_is_this_users_alone(tmp_path: Path) -> None:
    mask = os.umask(0)
    try:
        cache = Cache(tmp_path / "cache")
        made = cache.obtain("thing", lambda folder: None)
        cache.remember("key", "value")
    finally:
        os.umask(mask)
    for folder in (cache.root, made, cache.root / "digests"):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert (cache.root / "thing.lock").stat().st_mode & 0o777 == 0o600


def test_a_lock_that_another_process_keeps_is_said_and_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("runtime.checkpoints.cache._PATIENCE_S", 0.05)
    monkeypatch.setattr("runtime.checkpoints.cache._LONGEST_BUILD_S", 0.2)
    cache = Cache(tmp_path)
    with (
        FileLock(tmp_path / "thing.lock"),
        pytest.raises(CheckpointError, match=r"another process has held .*thing\.lock"),
    ):
        cache.obtain("thing", never)
    assert capsys.readouterr().err.count("waiting for another process") == 1


def test_a_full_disk_leaves_no_half_written_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(tmp_path)

    def full(self: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    cache.remember("key", "value")
    assert list((tmp_path / "digests").iterdir()) == []


def fill(folder: Path) -> None:
    (folder / "whole").write_bytes(bytes(3_000_000))
    (folder / "small").write_text("content")


@pytest.mark.parametrize("name", ["whole", "small", "checksums.json"])
@pytest.mark.parametrize("change", ["removed", "cut", "changed", "changed, with its time"])
def test_what_is_no_longer_as_it_was_made_is_not_loaded(
    name: str, change: str, tmp_path: Path
) -> None:
    cache = Cache(tmp_path / "cache")
    file = cache.obtain("thing", fill) / name
    assert cache.obtain("thing", never) == cache.obtain("thing", never)
    then = file.stat()
    if change == "removed":
        file.unlink()
    elif change == "cut":
        os.truncate(file, 5)
    else:
        file.write_bytes(file.read_bytes()[:-1] + b"!")
    if "time" in change:
        os.utime(file, ns=(then.st_atime_ns, then.st_mtime_ns))
    if (name, change) == ("checksums.json", "removed"):
        cache.obtain("thing", never)  # as earlier versions made it
        return
    with pytest.raises(CheckpointError, match=rf"{name} is missing or damaged.*remove .*/thing"):
        cache.obtain("thing", never)


def test_a_model_whose_weights_were_cleaned_away_is_said_to_be_made_again(tmp_path: Path) -> None:
    made = load_checkpoint("tiny", cache_dir=tmp_path).directory
    (made / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=rf"model\.safetensors is missing.*remove {made}"):
        load_checkpoint("tiny", cache_dir=tmp_path)
    shutil.rmtree(made)
    load_checkpoint("tiny", cache_dir=tmp_path)


FULL = """
import sys, resource, runtime
from pathlib import Path
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    runtime.load_checkpoint(sys.argv[1], cache_dir=Path(sys.argv[2]))
except runtime.SplitError as error:
    print(error)
"""


def test_files_that_may_not_become_so_large_are_an_error_by_name(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", FULL, "tiny", str(tmp_path)]
    shown = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout
    assert re.search(r"cannot write .*model\.safetensors: .*File too large", shown)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny-v1.lock"]


def test_a_killed_build_leaves_nothing_that_counts(builder: list[str], tmp_path: Path) -> None:
    assert subprocess.run([*builder, "kill"], check=False).returncode == -9
    cache = Cache(tmp_path / "cache")
    assert (cache.root / "thing.partial" / "half").exists()
    assert "thing" not in cache

    folder = cache.obtain("thing", lambda folder: (folder / "whole").touch())
    assert sorted(path.name for path in folder.iterdir()) == ["checksums.json", "whole"]
    assert not (cache.root / "thing.partial").exists()


def test_of_two_processes_one_builds(builder: list[str], tmp_path: Path) -> None:
    racers = [subprocess.Popen(builder) for _ in range(2)]
    assert [racer.wait(60) for racer in racers] == [0, 0]
    assert (tmp_path / "log").read_text() == "built\n"
    assert (tmp_path / "cache" / "thing" / "whole").exists()


def test_of_two_threads_one_builds(tmp_path: Path) -> None:
    built: list[Path] = []
    threads = [
        threading.Thread(target=Cache(tmp_path).obtain, args=("thing", built.append))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1


def test_a_failed_build_is_cleaned_up(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise OSError(28, "No space left on device")

    with pytest.raises(CheckpointError, match=r"No space left on device.*SPLIT_LLAMA_CACHE"):
        Cache(tmp_path).obtain("thing", fail)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_a_folder_that_cannot_be_written_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"/dev/null/cache.*SPLIT_LLAMA_CACHE"):
        load_checkpoint("tiny", cache_dir=Path("/dev/null/cache"))


def test_too_little_space_is_said_beforehand(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="GB free"):
        require_space(tmp_path, 1 << 60)


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLIT_LLAMA_CACHE", str(tmp_path / "named"))
    assert Cache().root == tmp_path / "named"
    assert Cache(tmp_path / "given").root == tmp_path / "given"
    monkeypatch.delenv("SPLIT_LLAMA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert Cache().root == tmp_path / "xdg" / "split-llama"


CACHED_LOAD = """
import sys
from runtime.checkpoints import load_checkpoint
checkpoint = load_checkpoint("tiny")
checkpoint.tensor("lm_head.weight").sum()
checkpoint.digest
print(sorted({"transformers", "gguf", "rich", "accelerate"} & set(sys.modules)))
"""


def test_a_cached_checkpoint_opens_without_heavy_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPLIT_LLAMA_CACHE", str(tmp_path))
    load_checkpoint("tiny")
    output = subprocess.run(
        [sys.executable, "-c", CACHED_LOAD], check=True, capture_output=True, text=True
    )
    assert output.stdout.strip() == "[]"
    assert output.stderr == ""


def test_a_cache_of_nobody_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLIT_LLAMA_CACHE", "~no-such-user-at-all/cache")
    with pytest.raises(CheckpointError, match=r"no-such-user-at-all.*SPLIT_LLAMA_CACHE"):
        load_checkpoint("tiny")


def test_a_user_without_a_home_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "SPLIT_LLAMA_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def nobody(number: int) -> None:
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    with pytest.raises(CheckpointError, match="SPLIT_LLAMA_CACHE"):
        load_checkpoint("tiny")

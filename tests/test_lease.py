"""One writer per output: real processes that hold, lose, leave and race for it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from histogen.config import StageConfig
from histogen.errors import OutputInUseError
from histogen.files import TEMPORARY
from histogen.lease import BEAT_SECONDS, LEASE_NAME, PATIENCE_SECONDS, for_its_output, give_back, take
from histogen.pipelines.outputs import claim_output, only_writer, remove_leftovers
from histogen.store.tile_store import TileStore

HOLDER = """
import sys, time
from pathlib import Path
from histogen import lease
lease.BEAT_SECONDS = float(sys.argv[2])
lease.take(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start Python source in a process of its own that is killed with the test."""
    children: list[subprocess.Popen[str]] = []

    def run(source: str, *arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", source, *(str(argument) for argument in arguments)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        children.append(subprocess.Popen(command, text=True, **pipes))  # type: ignore[call-overload]
        return children[-1]

    yield run
    for child in children:
        child.kill()
        child.communicate()


def hold(start: Start, folder: Path, *, beat: float = BEAT_SECONDS) -> subprocess.Popen[str]:
    """Return a process that holds the lease of ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    child = start(HOLDER, folder, beat)
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    return child


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def grow_old(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_a_second_process_is_told_who_writes_and_touches_nothing(tmp_path: Path, start: Start) -> None:
    out = tmp_path / "run"
    claim_output(StageConfig(out=out), command="toy")
    give_back(out)
    holder = hold(start, out)
    before = everything(out)
    said = json.loads(before[LEASE_NAME])
    for how in ({"resume": True}, {"overwrite": True}):
        with pytest.raises(OutputInUseError) as refused:
            claim_output(StageConfig(out=out, **how), command="toy")
        sentence = str(refused.value)
        assert f"process {holder.pid} on {socket.gethostname()} since {said['since']}" in sentence
        assert str(out) in sentence
        assert refused.value.exit_code == 2
    assert everything(out) == before


def test_the_holder_may_take_it_again_and_hands_it_on(tmp_path: Path, start: Start) -> None:
    take(tmp_path)
    before = everything(tmp_path)
    take(tmp_path)
    assert everything(tmp_path) == before
    give_back(tmp_path)
    assert everything(tmp_path) == {}
    hold(start, tmp_path)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_what_a_killed_process_held_is_taken_over_and_said(
    tmp_path: Path, start: Start, end: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    holder = hold(start, tmp_path)
    holder.send_signal(end)
    holder.wait()
    assert (tmp_path / LEASE_NAME).exists()
    take(tmp_path)
    assert f"process {holder.pid} on {socket.gethostname()} since" in capfd.readouterr().err
    assert json.loads((tmp_path / LEASE_NAME).read_text())["pid"] == os.getpid()
    give_back(tmp_path)


def test_a_zombie_holds_nothing(tmp_path: Path, start: Start) -> None:
    holder = hold(start, tmp_path)
    holder.send_signal(signal.SIGKILL)  # and nobody waits for it
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
    take(tmp_path)
    give_back(tmp_path)


def test_another_process_with_the_number_of_the_owner_is_not_the_owner(tmp_path: Path, start: Start) -> None:
    hold(start, tmp_path)
    lease = tmp_path / LEASE_NAME
    said = json.loads(lease.read_text())
    lease.write_text(json.dumps(said | {"started": str(int(said["started"]) + 1)}))
    take(tmp_path)
    give_back(tmp_path)


def test_a_lease_of_another_machine_counts_by_its_last_beat(tmp_path: Path) -> None:
    lease = tmp_path / LEASE_NAME
    lease.write_text(json.dumps({"pid": 7, "host": "node3", "since": "noon", "machine": "node3 x", "started": "1"}))
    grow_old(lease, PATIENCE_SECONDS - 30)
    with pytest.raises(OutputInUseError, match="process 7 on node3 since noon"):
        take(tmp_path)
    grow_old(lease, PATIENCE_SECONDS + 30)
    take(tmp_path)
    give_back(tmp_path)


@pytest.mark.parametrize("torn", ["", '{"pid": 7, "ho', "[1, 2]", "\x00\x00"])
def test_a_torn_lease_is_respected_while_it_is_fresh(tmp_path: Path, torn: str) -> None:
    lease = tmp_path / LEASE_NAME
    lease.write_text(torn)
    with pytest.raises(OutputInUseError, match="has not said who it is"):
        take(tmp_path)
    assert lease.read_text() == torn
    grow_old(lease, PATIENCE_SECONDS + 30)
    take(tmp_path)
    give_back(tmp_path)


def test_one_of_many_that_find_a_dead_owner_takes_it_over(tmp_path: Path, start: Start) -> None:
    """Forty times: what two processes do to each other's leases shows in one of fourteen."""
    racer = """
import sys
from pathlib import Path
from histogen.errors import OutputInUseError
from histogen.lease import take
for line in sys.stdin:
    folder = Path(line.strip())
    while not folder.with_suffix(".gun").exists():
        pass
    try:
        take(folder)
    except OutputInUseError:
        print("refused", flush=True)
    else:
        print("held", flush=True)
"""
    dead = hold(start, tmp_path / "dead")
    dead.kill()
    dead.wait()
    racers = [start(racer) for _ in range(8)]
    for number in range(40):
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "dead", folder)
        for child in racers:
            child.stdin.write(f"{folder}\n")  # type: ignore[union-attr]
            child.stdin.flush()  # type: ignore[union-attr]
        time.sleep(0.02)
        folder.with_suffix(".gun").touch()
        told = [child.stdout.readline().strip() for child in racers]  # type: ignore[union-attr]
        assert sorted(told) == ["held"] + ["refused"] * 7
        winner = racers[told.index("held")]
        assert json.loads((folder / LEASE_NAME).read_text())["pid"] == winner.pid
        assert [path.name for path in folder.iterdir()] == [LEASE_NAME]


def test_a_lease_is_judged_by_one_process_at_a_time(tmp_path: Path, start: Start) -> None:
    holder = hold(start, tmp_path)
    locked = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(locked, fcntl.LOCK_EX)
    asking = start(
        "import sys; from pathlib import Path; from histogen.lease import take; take(Path(sys.argv[1]))", tmp_path
    )
    with pytest.raises(subprocess.TimeoutExpired):
        asking.wait(timeout=1)
    fcntl.flock(locked, fcntl.LOCK_UN)
    os.close(locked)
    _, errors = asking.communicate(timeout=30)
    assert f"process {holder.pid} on" in errors


def test_a_holder_keeps_touching_its_lease(tmp_path: Path, start: Start) -> None:
    hold(start, tmp_path, beat=0.05)
    grow_old(tmp_path / LEASE_NAME, PATIENCE_SECONDS + 30)
    deadline = time.monotonic() + 20
    while time.time() - (tmp_path / LEASE_NAME).stat().st_mtime > PATIENCE_SECONDS:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_process_whose_lease_was_taken_over_ends_at_once(tmp_path: Path, start: Start) -> None:
    sleeper = hold(start, tmp_path, beat=0.05)
    usurper = json.dumps({"pid": 7, "host": "node3", "since": "noon"})
    (tmp_path / LEASE_NAME).write_text(usurper)
    assert sleeper.wait(timeout=30) == 1
    assert sleeper.stderr is not None
    assert "was taken over by process 7 on node3 since noon" in sleeper.stderr.read()
    assert (tmp_path / LEASE_NAME).read_text() == usurper


@pytest.mark.parametrize(
    "end", ["", "raise SystemExit(3)", "raise RuntimeError", "os.kill(os.getpid(), signal.SIGINT)"]
)
def test_a_process_that_ends_leaves_no_lease(tmp_path: Path, start: Start, end: str) -> None:
    source = """
import os, signal, sys
from pathlib import Path
from histogen.lease import take
take(Path(sys.argv[1]))
print(len(os.listdir(sys.argv[1])))
"""
    child = start(source + end, tmp_path)
    printed, _ = child.communicate(timeout=60)
    assert printed == "1\n"
    assert list(tmp_path.iterdir()) == []


def test_a_forked_child_that_ends_is_not_the_writer(tmp_path: Path, start: Start) -> None:
    source = """
import os, sys
from pathlib import Path
from histogen import lease
lease.take(Path(sys.argv[1]))
if os.fork() == 0:
    lease.give_back_all()
    os._exit(0)
os.wait()
print(Path(sys.argv[1], lease.LEASE_NAME).exists())
"""
    printed, _ = start(source, tmp_path).communicate(timeout=60)
    assert printed == "True\n"


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_a_stage_gives_its_output_back_however_it_ends(tmp_path: Path, error: type[BaseException] | None) -> None:
    @for_its_output
    def stage(config: StageConfig) -> Path:
        out = claim_output(config, command="toy")
        assert (out / LEASE_NAME).exists()
        if error is not None:
            raise error
        return out

    config = StageConfig(out=tmp_path / "run")
    if error is None:
        stage(config)
    else:
        with pytest.raises(error):
            stage(config)
    assert sorted(everything(config.out)) == ["config.yaml", "run.json"]


def test_rows_of_a_store_have_one_writer_and_lose_what_a_killed_one_left(tmp_path: Path, start: Start) -> None:
    store = TileStore.create(
        tmp_path / "a.zarr", kind="slide", store_id="a", tile_px=16, mpp=0.5, num_tiles=3, provenance={}
    )
    rows, notes = "embeddings/toy", store.path / "ledger" / "embeddings" / "toy"
    holder = hold(start, notes)
    other = hold(start, store.path / "ledger" / "embeddings" / "else")
    with pytest.raises(OutputInUseError, match=f"process {holder.pid} on"), only_writer([store], rows):
        pass
    holder.kill()
    holder.wait()
    store.create_rows(rows, (3, 2), "float32")
    left = store.path / rows / "c" / f"0{TEMPORARY}7"
    left.parent.mkdir()
    left.touch()
    with only_writer([store], rows):
        assert not left.exists()
        assert json.loads((notes / LEASE_NAME).read_text())["pid"] == os.getpid()
        left.touch()  # as a worker leaves it that is killed while its client goes on
    assert list(notes.iterdir()) == []
    assert not left.exists()
    with only_writer([store], rows, anew=True):
        assert store.list_rows("embeddings") == []
        assert json.loads((notes / LEASE_NAME).read_text())["pid"] == os.getpid()
    assert list(notes.iterdir()) == []
    assert other.poll() is None


def test_what_a_killed_writer_left_in_a_store_that_has_all_rows_goes(tmp_path: Path, start: Start) -> None:
    """A writer of many stores was killed when it had done with this one."""
    store = TileStore.create(
        tmp_path / "a.zarr", kind="slide", store_id="a", tile_px=16, mpp=0.5, num_tiles=3, provenance={}
    )
    rows, notes = "embeddings/toy", store.path / "ledger" / "embeddings" / "toy"
    holder = hold(start, notes)
    left = notes / f"0{TEMPORARY}7.json"
    left.touch()
    remove_leftovers([store], rows)
    assert sorted(path.name for path in notes.iterdir()) == sorted((left.name, LEASE_NAME)), "somebody writes there"
    holder.kill()
    holder.wait()
    remove_leftovers([store], rows)
    assert list(notes.iterdir()) == []


def test_two_whole_commands_on_one_output(tmp_path: Path, start: Start) -> None:
    """`import-images` twice at once: one makes it, the other is refused before or after, never a mix of both."""
    command = "import sys; from cli.main import main; sys.argv[0] = 'histogen'; main()"
    folder = tmp_path / "images"
    for label in "ab":
        (folder / label).mkdir(parents=True)
    for number in range(8):
        Image.new("RGB", (32, 32), (number * 30, 80, 120)).save(folder / "ab"[number % 2] / f"{number}.png")
    out = tmp_path / "out.zarr"
    both = [start(command, "import-images", folder, "--out", out) for _ in range(2)]
    errors = [child.communicate(timeout=120)[1] for child in both]
    codes = [child.returncode for child in both]
    assert sorted(codes) == [0, 2], errors
    refusal = errors[codes.index(2)]
    assert "is being written by process" in refusal or "pass --resume" in refusal
    alone = tmp_path / "alone.zarr"
    assert start(command, "import-images", folder, "--out", alone).wait(timeout=120) == 0
    told_by_name = {"zarr.json", "ledger/config.yaml"}  # both say where the output is
    assert everything(out).keys() == everything(alone).keys() >= told_by_name
    for name, data in everything(alone).items():
        assert name in told_by_name or everything(out)[name] == data, name

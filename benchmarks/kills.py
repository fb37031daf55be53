"""Kills of every long command at random moments; what is resumed must end with the bytes of an undisturbed run.

    python benchmarks/kills.py [--kills 20] [--command NAME ...] [--seed 0]

Each command runs as a process of its own. A run is stopped at a random moment: a random number of its notes, journal
rows or files, and then a random part of the time until the next. It is stopped by SIGKILL, which goes to the command
(for trainings on two ranks: to `torchrun`), to one of its workers or to one rank; by SIGTERM; or by Ctrl-C, which goes
to the whole process group as from a terminal (two of each). It is run again with --resume, may be stopped again, and
when it gets through, every file that it has made is compared. Exit code 1 says that something differed, hung, left
processes behind, ended with another exit code than is promised, or showed a traceback.

Compared is the SHA-256 of every file. run.json, report.json and stages.json are compared without how long it took, and
the pages drawn from a report.json are left out for that.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import machine
from kills_cases import CASES, Case, write_inputs

TIMEOUT, NUM_SIGNALS, MOST_IN_A_ROW = 300, 2, 5
TIMED_FILES, TIMED_KEYS = ("run.json", "report.json", "stages.json"), ("seconds", "timed_steps", "tiles_per_second")
TIMED_WORDS = re.compile(r"[\d.,]+ s\b")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "GLOO_SOCKET_IFNAME": "lo"}
CODES = {"client": (-9,), "worker": (0,), "SIGTERM": (-15,), "Ctrl-C": (130, -2)}
"""What a command ends with. -2, which a shell shows as 130 too: Python had not begun yet, or was ending already."""
TORCHRUN_CODES = {"client": (-9,), "rank": (1,), "SIGTERM": (1, -15), "Ctrl-C": (1, -2)}
"""What `torchrun` ends with, once it has come to listen; it shows a traceback of its own."""
MARKS = {"worker": b"spawn_main", "rank": b"histogen"}
"""Words of the command lines of processes below the command."""
HEAD = "command | undisturbed | SIGKILL to client / worker / rank | SIGTERM | Ctrl-C"
HEAD += " | got through, with the same bytes | differing | exit codes"


@dataclass
class Undisturbed:
    """What a run makes when nothing stops it, and when: seconds at which each count of notes was reached."""

    contents: dict[str, str]
    seconds: float
    reached: dict[int, float]

    def pause(self, count: int) -> float:
        """Return the seconds from ``count`` notes to the next."""
        start = max((at for number, at in self.reached.items() if number <= count), default=0.0)
        return min((at for number, at in self.reached.items() if number > count), default=self.seconds) - start


@dataclass
class Tally:
    """What was seen of one command."""

    stopped: Counter[str] = field(default_factory=Counter)
    codes: Counter[tuple[str, int]] = field(default_factory=Counter)
    same: int = 0
    differing: int = 0
    problems: list[str] = field(default_factory=list)

    def row(self, case: Case, seconds: float) -> str:
        """Return the command's row of the table."""
        kills = " / ".join(str(self.stopped[victim]) for victim in ("client", "worker", "rank"))
        codes = ", ".join(f"{event} {code} (×{count})" for (event, code), count in sorted(self.codes.items()))
        cells = [case.name, f"{seconds:.1f} s", kills, self.stopped["SIGTERM"], self.stopped["Ctrl-C"]]
        return " | ".join(map(str, ["", *cells, self.same, self.differing, codes, ""])).strip()


class Run:
    """A command as a process that leads a group of its own."""

    def __init__(self, case: Case, inputs: Path, work: Path, *, resume: bool) -> None:
        self.case, self.work = case, work
        self.below: list[int] = []
        self.messages = tempfile.TemporaryFile("w+")  # noqa: SIM115 - open as long as the process
        self.process = subprocess.Popen(
            case.call(inputs, resume=resume), cwd=work, env=ENVIRONMENT, stderr=self.messages,
            stdout=subprocess.DEVNULL, start_new_session=True, preexec_fn=hear_interrupts,
        )  # fmt: skip

    def watch(self, until: int | None = None) -> dict[int, float]:
        """Wait until there are so many notes, or the end; return the seconds at which each count was first seen."""
        start, seen = time.monotonic(), dict[int, float]()
        while self.process.poll() is None and time.monotonic() - start < TIMEOUT:
            asked = time.monotonic()
            count = progress(self.case, self.work)
            if seen and count > max(seen):
                seen[count] = time.monotonic() - start
            seen = seen or {count: 0.0}
            if until is not None and count >= until:
                break
            time.sleep(max(0.02, 10 * (time.monotonic() - asked)))
        return seen

    def stop(self, event: str, rng: random.Random) -> bool:
        """Send what ``event`` says, to a worker or a rank once there is one; return whether the command still ran."""
        victims: list[int] = []
        while event in MARKS and not victims and self.process.poll() is None:
            victims = [pid for pid in descendants(self.process.pid) if MARKS[event] in command_line(pid)]
            time.sleep(0.05)
        self.below = descendants(self.process.pid)
        if self.process.poll() is not None:
            return False
        if event == "Ctrl-C":
            os.killpg(self.process.pid, signal.SIGINT)
        elif event == "SIGTERM":
            self.process.terminate()
        else:
            with suppress(ProcessLookupError):
                os.kill(rng.choice(victims) if victims else self.process.pid, signal.SIGKILL)
        return True

    def end(self) -> list[str]:
        """Wait for the end of the command and of the processes below it; return what is wrong with it."""
        found, below = [], self.below
        try:
            self.process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            found.append(f"did not end within {TIMEOUT} s")
            below = [self.process.pid, *descendants(self.process.pid), *below]
        patience = TIMEOUT if self.case.ranks > 1 else 60  # ranks whose torchrun was killed may train to their end
        deadline = time.monotonic() + (0 if found else patience)
        while any(is_ours(pid) for pid in below) and time.monotonic() < deadline:
            time.sleep(0.05)
        for pid in filter(is_ours, below):
            found.append(f"process {pid} outlived it: {command_line(pid)[-80:]!r}")
            os.kill(pid, signal.SIGKILL)
        self.process.wait()
        return found

    def said(self) -> str:
        """Return what it has written to standard error."""
        self.messages.seek(0)
        return self.messages.read()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="SIGKILLs per command")
    parser.add_argument("--command", nargs="+", choices=[case.name for case in CASES], metavar="NAME")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(machine("distributed", "torch"))
    wrong = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "inputs").mkdir()
        write_inputs(folder / "inputs", ENVIRONMENT)
        print(f"| {HEAD} |\n|{' --- |' * len(HEAD.split(' | '))}", flush=True)
        for case in CASES:
            if given.command is None or case.name in given.command:
                tally = try_case(case, folder, given.kills, random.Random(f"{given.seed} {case.name}"))
                wrong += bool(tally.differing or tally.problems)
    sys.exit(bool(wrong))


def try_case(case: Case, folder: Path, kills: int, rng: random.Random) -> Tally:
    """Stop and resume one command until all is spent and a last run has got through; print its row."""
    inputs, work, tally = folder / "inputs", folder / "work", Tally()
    renew(case, inputs, work)
    undisturbed = run_undisturbed(case, inputs, work)
    victims = (
        ("client", "rank") if case.ranks > 1 else ("client", "worker") if "--workers 2" in case.words else ("client",)
    )
    events = [victims[number % len(victims)] for number in range(kills)] + ["SIGTERM", "Ctrl-C"] * NUM_SIGNALS
    rng.shuffle(events)
    renew(case, inputs, work)
    in_a_row = 0
    while events or in_a_row:
        event = events[-1] if events and in_a_row < MOST_IN_A_ROW and rng.random() < 0.85 else None
        stopped, ended = one_trial(case, inputs, work, event, undisturbed, rng, tally, resume=in_a_row > 0)
        if stopped:
            events.pop()
        in_a_row = 0 if ended else in_a_row + 1
        if ended:
            compare(undisturbed.contents, contents(work), tally)
            renew(case, inputs, work)
    print(tally.row(case, undisturbed.seconds), *(f"    {text}" for text in tally.problems), sep="\n", flush=True)
    return tally


def renew(case: Case, inputs: Path, work: Path) -> None:
    """Make the folder of a run as it is before the command."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    if case.brings is not None:
        shutil.copytree(inputs / case.brings, work / "tiles")


def run_undisturbed(case: Case, inputs: Path, work: Path) -> Undisturbed:
    """Run the command to its end."""
    start = time.monotonic()
    run = Run(case, inputs, work, resume=False)
    reached = run.watch()
    if run.process.wait(TIMEOUT) != 0:
        sys.exit(f"{case.name} fails undisturbed: {run.said()[-2000:]}")
    return Undisturbed(contents(work), time.monotonic() - start, reached)


def one_trial(
    case: Case, inputs: Path, work: Path, event: str | None, undisturbed: Undisturbed, rng: random.Random,
    tally: Tally, *, resume: bool,
) -> tuple[bool, bool]:  # fmt: skip
    """Start the command and let ``event`` happen to it; return whether it did, and whether the command got through."""
    now, run = progress(case, work), Run(case, inputs, work, resume=resume)
    if event is not None:
        count = rng.randint(now, max(now, *undisturbed.reached))
        run.watch(count)
        time.sleep(rng.uniform(0, undisturbed.pause(count)))
    stopped = event is not None and run.stop(event, rng)
    problems = run.end()
    code = run.process.returncode
    if code == 0 and event != "worker":  # it had ended before the signal came
        stopped = False
    note(case, event if stopped else None, code, run, problems, tally)
    return stopped, code == 0


def note(case: Case, event: str | None, code: int, run: Run, problems: list[str], tally: Tally) -> None:
    """Write down how a run has ended, and what is wrong with that."""
    codes, said = TORCHRUN_CODES if case.ranks > 1 else CODES, run.said()
    expected = codes[event] if event is not None else (0,)
    if event is not None:
        tally.stopped[event] += 1
        tally.codes[event, code] += 1
    if code not in expected:
        problems.append(f"exit code {code} in place of {expected[0]}: {said[-1500:]}")
    elif "Traceback" in said and ", in main\n" in said and case.ranks == 1:  # else Python itself had not yet begun
        problems.append(f"a traceback: {said[-1500:]}")
    tally.problems += [f"after {event or 'no signal'}: {text}" for text in problems]


def compare(expected: dict[str, str], found: dict[str, str], tally: Tally) -> None:
    """Count a run that got through, and name the files that differ from the undisturbed run's."""
    odd = [name for name in sorted(expected.keys() | found.keys()) if expected.get(name) != found.get(name)]
    tally.same, tally.differing = tally.same + (not odd), tally.differing + bool(odd)
    if odd:
        tally.problems.append(f"{len(odd)} files differ from the undisturbed run's: {', '.join(odd[:5])}")


def progress(case: Case, work: Path) -> int:
    """Return how many notes, files and journal rows there are."""
    count = 0
    for pattern in case.progress:
        for path in work.glob(pattern):
            try:
                count += path.read_bytes().count(b"\n") if path.suffix == ".jsonl" else 1
            except FileNotFoundError:
                continue
    return count


def contents(work: Path) -> dict[str, str]:
    """Return the hash of every file, but of pages that say how long it took."""
    return {
        str(path.relative_to(work)): hashlib.sha256(timeless(path)).hexdigest()
        for path in work.rglob("*")
        if path.is_file() and not (path.name == "report.html" and path.with_suffix(".json").exists())
    }


def timeless(path: Path) -> bytes:
    """Return the bytes of a file; of a record of a run, what it says but for how long it took."""
    if path.name not in TIMED_FILES:
        return path.read_bytes()

    def without(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without(inner) for key, inner in value.items() if key not in TIMED_KEYS}
        if isinstance(value, list):
            return [without(inner) for inner in value]
        return TIMED_WORDS.sub("… s", value) if isinstance(value, str) else value

    return json.dumps(without(json.loads(path.read_text()))).encode()


def hear_interrupts() -> None:
    """As a terminal's child does; one that was started in the background inherits that they are ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def descendants(pid: int) -> list[int]:
    """Return the children of a process, and theirs (Linux)."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, todo = [], [pid]
    while todo:
        children = parents.get(todo.pop(), [])
        found += children
        todo += children
    return found


def command_line(pid: int) -> bytes:
    """Return the command line of a process, empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def is_ours(pid: int) -> bool:
    """Whether a process that a run had started is still there."""
    return any(mark in command_line(pid) for mark in (b"spawn_main", b"histogen", b"resource_tracker"))


if __name__ == "__main__":
    main()

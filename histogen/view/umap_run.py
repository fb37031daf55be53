"""One UMAP, in a process beside the server: begun once, followed by its progress, kept in a file."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histogen.errors import HistogenError, StoreError

LAST_WORDS = 300
"""Letters of what a failed process has said."""


class UmapRun:
    """``path`` is where the map lies, or will: float32 [N, 2] as .npy."""

    def __init__(self, path: Path, *, seed: int) -> None:
        self.path, self.seed = path, seed
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._done, self._of = 0, 0
        self._is_running = False
        self._error = ""
        self._kept: NDArray[np.float32] | None = None

    def state(self) -> dict[str, Any]:
        """Return ``state`` (absent, running, done, failed), how many epochs are done ``of`` how many, and an error."""
        with self._lock:
            if self._kept is not None or self.path.is_file():
                return {"state": "done", "error": self._error}
            if self._is_running:
                return {"state": "running", "done": self._done, "epochs": self._of}
            return {"state": "failed" if self._error else "absent", "error": self._error}

    def places(self) -> NDArray[np.float32]:
        """Return the map.

        Raises:
            StoreError: its file is damaged.
        """
        if self._kept is None:
            try:
                # mapped first: what says that it is larger than its file is refused before memory is asked for
                found = np.load(self.path, mmap_mode="r", allow_pickle=False)
                if not isinstance(found, np.ndarray):  # of a ZIP file
                    raise ValueError("it holds no array")
                self._kept = np.array(found)
            except (OSError, ValueError, OverflowError) as error:
                raise StoreError(f"map '{self.path}' cannot be read ({error}); delete it, and make it again") from error
        return self._kept

    def start(self, read: Callable[[], NDArray[np.float32]]) -> None:
        """Begin, unless it is done or under way; ``read`` gives the embeddings [N, D]."""
        with self._lock:
            if self._is_running or self.path.is_file() or self._kept is not None:
                return
            self._is_running, self._error, self._done, self._of = True, "", 0, 0
        threading.Thread(target=self._work, args=(read,), daemon=True).start()

    def close(self) -> None:
        """End the process, if there is one."""
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                self._process.kill()

    def _work(self, read: Callable[[], NDArray[np.float32]]) -> None:
        folder = Path(tempfile.mkdtemp(prefix="histogen-umap-"))
        try:
            np.save(folder / "vectors.npy", read(), allow_pickle=False)
            self._follow(folder)
            self._kept = np.load(folder / "places.npy", allow_pickle=False)
            self._keep()
        except (HistogenError, OSError, ValueError) as error:
            self._error = f"UMAP did not end ({error}); begin it again"
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            self._is_running = False

    def _follow(self, folder: Path) -> None:
        command = [sys.executable, "-m", "histogen.view.umap_job", "vectors.npy", "places.npy", str(self.seed)]
        with (folder / "errors").open("w+") as errors:
            with self._lock:
                self._process = subprocess.Popen(  # noqa: S603
                    command, cwd=folder, stdout=subprocess.PIPE, stderr=errors, text=True
                )
            assert self._process.stdout is not None
            for line in self._process.stdout:
                words = line.split()
                if len(words) == 2 and all(word.isdecimal() for word in words):
                    self._done, self._of = int(words[0]), int(words[1])
            if self._process.wait():
                errors.seek(0)
                raise StoreError(errors.read().strip()[-LAST_WORDS:] or "its process was ended")

    def _keep(self) -> None:
        """Write the map beside the embeddings; where that is not allowed it lasts as long as the server."""
        assert self._kept is not None
        try:
            self.path.parent.mkdir(exist_ok=True)
            temporary = self.path.with_suffix(".tmp.npy")
            np.save(temporary, self._kept, allow_pickle=False)
            temporary.replace(self.path)
        except OSError as error:
            self._error = f"the map is not kept: '{self.path.parent}' cannot be written ({error.strerror})"

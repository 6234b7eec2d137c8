"""Starts actors quickly, as real processes, and ends them by pid.

``Crew`` talks with one process of its own (this file, run as a module), which has imported
everything and forks: a new worker costs milliseconds and not a second of imports.
"""

import faulthandler
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

from tests.faults.actors import LIFE_S, SubmitterPlan, WorkerPlan, submit, work

ROOT = Path(__file__).parents[2]

END_S = 25.0
"""An actor that was asked to end has so long."""

Plan: TypeAlias = WorkerPlan | SubmitterPlan


class Crew:
    """The actors of a test. Their words go to ``actors.log`` in the folder."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "actors.log"
        with self.log.open("ab") as log:
            self._foreman = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.crew"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )

    def start(self, plan: Plan) -> int:
        """The pid of a new actor."""
        pid: int = self._ask("start", type(plan).__name__, asdict(plan))
        return pid

    def kill(self, pid: int) -> None:
        """End it at once (-9). Nothing happens if it has ended."""
        self._ask("end", pid, signal.SIGKILL)

    def stop(self, pid: int) -> int:
        """Ask it to end, and wait for its exit code; that of before if it has ended.

        After ``END_S`` it is killed, and the log says where it was.
        """
        code: int = self._ask("end", pid, signal.SIGTERM)
        return code

    def kill_all(self) -> None:
        """End all at once."""
        self._ask("end_all")

    def freeze(self, pid: int) -> None:
        # One that has just ended by itself stays ended.
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)

    def thaw(self, pid: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    def gone(self) -> list[int]:
        """Those that have ended by themselves since this was asked."""
        pids: list[int] = self._ask("gone")
        return pids

    def words(self) -> str:
        """The last of what the actors said."""
        return self.log.read_text(errors="replace")[-8000:]

    def close(self) -> None:
        """End all."""
        assert self._foreman.stdin is not None
        assert self._foreman.stdout is not None
        self._foreman.stdin.close()
        self._foreman.wait(20)
        self._foreman.stdout.close()

    def _ask(self, *what: object) -> Any:  # noqa: ANN401  # JSON
        assert self._foreman.stdin is not None
        assert self._foreman.stdout is not None
        self._foreman.stdin.write(json.dumps(what).encode() + b"\n")
        self._foreman.stdin.flush()
        answer = self._foreman.stdout.readline()
        assert answer, self.words()
        return json.loads(answer)


@contextmanager
def hired(folder: Path) -> Iterator[Crew]:
    """A crew that is ended when the block is left."""
    crew = Crew(folder)
    try:
        yield crew
    finally:
        crew.close()


class _Foreman:
    """The other side of ``Crew``."""

    def __init__(self) -> None:
        self._pids: set[int] = set()
        self._codes: dict[int, int] = {}

    def start(self, kind: str, plan: dict[str, Any]) -> int:
        pid = os.fork()
        if pid == 0:
            _act(kind, plan)
        self._pids.add(pid)
        return pid

    def end(self, pid: int, number: int) -> int:
        if pid in self._pids:
            os.kill(pid, number)
            self._wait(pid)
        return self._codes[pid]

    def end_all(self) -> None:
        for pid in list(self._pids):
            self.end(pid, signal.SIGKILL)

    def _wait(self, pid: int) -> None:
        give_up_at = time.monotonic() + END_S
        while not self._bury(pid, os.WNOHANG):
            time.sleep(0.002)
            if time.monotonic() > give_up_at:
                # It says where it hangs.
                os.kill(pid, signal.SIGUSR1)
                time.sleep(0.2)
                os.kill(pid, signal.SIGKILL)
                self._bury(pid, 0)
                return

    def gone(self) -> list[int]:
        return [pid for pid in list(self._pids) if self._bury(pid, os.WNOHANG)]

    def _bury(self, pid: int, options: int) -> bool:
        found, status = os.waitpid(pid, options)
        if found:
            self._pids.discard(pid)
            self._codes[pid] = os.waitstatus_to_exitcode(status)
        return bool(found)

    def serve(self) -> None:
        # Actors unblock it when they can heed it: one that is just starting must not die of it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            for line in sys.stdin:
                name, *arguments = json.loads(line)
                print(json.dumps(getattr(self, name)(*arguments)), flush=True)
        finally:
            self.end_all()


def _act(kind: str, plan: dict[str, Any]) -> None:
    """Be an actor. Never returns."""
    import traceback

    import anyio

    code = 1
    try:
        signal.alarm(LIFE_S)
        faulthandler.register(signal.SIGUSR1)
        # The foreman's own.
        for number in (0, 1):
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
        plan["steps"] = tuple(map(tuple, plan.get("steps", ())))
        if kind == "WorkerPlan":
            anyio.run(work, WorkerPlan(**plan))
        else:
            plan.pop("steps")
            anyio.run(submit, SubmitterPlan(**plan))
        code = 0
    except BaseException:  # noqa: BLE001  # whatever it is, nothing of the foreman may run on
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    # Imported before the first fork, as the rest is.
    import capturekit.database
    import capturekit.queue.sql  # noqa: F401

    _Foreman().serve()

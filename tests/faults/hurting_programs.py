"""Faults of programs: killed, restarted, standing still, with a wrong clock, or at a named point of the code."""

import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import timedelta
from pathlib import Path

import clocks
from failpoints import POINTS, Action, Failpoints, Fired
from hurting import Did, Hurting, Scene, within
from killing import Supervised, send, turns, wait_until

STARTS_WITHIN_S = 5.0


class Programs(Hurting):
    def child(self) -> Did:
        """SIGKILL to a pool process, most often one that works just now: an idle one has nothing to lose."""
        worker = self.scene.a_worker(self.chance)
        prefer_busy_until = time.monotonic() + self.chance.choice([0.0, 1.0, 1.0, 1.0])
        deadline = time.monotonic() + 10
        before: dict[int, int] = {}
        while time.monotonic() < deadline:
            now = {pid: turns(pid) for pid in worker.children}
            busy = [pid for pid in now if now[pid] > before.get(pid, now[pid])]
            before = now
            if worker.is_up and (busy or (now and time.monotonic() > prefer_busy_until)):
                time.sleep(self.chance.uniform(0, 0.03) if busy else 0)
                at = time.time()
                if send(self.chance.choice(busy or list(now)), signal.SIGKILL):
                    self.scene.killed_at_work += bool(busy)
                    return Did(at, at, note=f"{worker.name}{' at work' if busy else ''}")
            time.sleep(0.004)
        return Did(time.time(), time.time(), 0, "no pool process for 10 s")

    def worker(self) -> Did:
        """SIGKILL to a whole worker; half the time to its main process only: its children must end by themselves."""
        worker = self.scene.a_worker(self.chance)
        main, children, starts = worker.process.pid, worker.children, worker.starts
        worker.means_to_end(within_s=5)
        at = time.time()
        send(main, signal.SIGKILL)
        if self.chance.random() < 0.5:
            for pid in children:
                send(pid, signal.SIGKILL)
        else:
            self.scene.after(15, lambda: self._require_gone(children, worker.name))
        wait_until(lambda: worker.starts > starts, timeout_s=10, what="the worker is started again")
        return Did(at, at, note=worker.name, lasts_s=STARTS_WITHIN_S)

    def _require_gone(self, pids: list[int], name: str) -> None:
        for pid in pids:
            with suppress(OSError):
                if name.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    self.scene.findings.append(f"pool process {pid} of {name} lives 15 s after its worker was killed")

    def api(self) -> Did:
        """SIGKILL to the API server and its processes."""
        api = self.system.programs["api"]
        children, starts = api.children, api.starts
        api.means_to_end(within_s=5)
        at = time.time()
        for pid in (api.process.pid, *children):
            send(pid, signal.SIGKILL)
        wait_until(lambda: api.starts > starts, timeout_s=10, what="the API is started again")
        return Did(at, time.time())

    def sweeper(self) -> Did:
        """SIGKILL to the maintenance worker or to beat."""
        program = self.system.programs[self.chance.choice(["maintenance", "beat"])]
        program.means_to_end(within_s=5)
        at = time.time()
        for pid in (program.process.pid, *program.children):
            send(pid, signal.SIGKILL)
        return Did(at, at, note=program.name)

    def rolling_restart(self) -> Did:
        """SIGTERM to one worker after the other; each must end by itself, with success, within the grace of 30 s."""
        with self.scene.alone():
            at = time.time()
            for worker in self.system.posting:
                self._restart(worker)
        return Did(at, at, len(self.system.posting), lasts_s=time.time() - at)

    def clock(self) -> Did:
        """A worker restarted with a clock two hours ahead or behind; some seconds later again, with the true one."""
        worker = self.scene.a_worker(self.chance)
        if not clocks.is_available():
            return Did(time.time(), time.time(), 0, "no libfaketime here")
        by = self.chance.choice([timedelta(hours=2), timedelta(hours=-2)])
        true = worker.environment
        with self.scene.alone():
            at = time.time()
            try:
                worker.environment = true | clocks.shifted(by)
                self._restart(worker)
                time.sleep(self.chance.uniform(4, 8))
            finally:
                worker.environment = true
                self._restart(worker)
        return Did(at, at, note=f"{worker.name} by {by}", lasts_s=time.time() - at)

    def _restart(self, worker: Supervised) -> None:
        within(20, lambda: worker.is_up)
        self.scene.standing.add(worker.name)  # nobody else kills its children now
        starts, before = worker.starts, len(worker.exits)
        at = time.time()
        try:
            send(worker.process.pid, signal.SIGTERM)
            if not within(40, lambda: worker.starts > starts):
                self.scene.findings.append(f"{worker.name} did not end within 40 s of SIGTERM")
                return
            worker.means_to_end(since=at, within_s=time.time() - at)
            if code := worker.exits[before].code:
                self.scene.findings.append(f"{worker.name} ended with {code} after SIGTERM")
            within(30, lambda: worker.is_up)
        finally:
            self.scene.standing.discard(worker.name)

    def standstill(self) -> Did:
        """SIGSTOP to a worker with its children for longer than its lease, then SIGCONT: it must commit nothing stale."""
        worker = self.scene.a_worker(self.chance)
        pids = [*worker.children, worker.process.pid]
        for_s = self.scene.lease_s + self.chance.uniform(1, 6)
        worker.means_to_end(within_s=for_s + 20)  # it may find that it was replaced, and end
        at = time.time()
        for pid in pids:
            send(pid, signal.SIGSTOP)
        self.scene.stand(worker, for_s=for_s, then=lambda: [send(pid, signal.SIGCONT) for pid in reversed(pids)])
        return Did(at, at, note=f"{worker.name} for {for_s:.0f} s")


class Points(Hurting):
    """A process dies, fails, sleeps or stands still at a named point of the code."""

    def __init__(self, scene: Scene, chance: random.Random, points: Failpoints) -> None:
        super().__init__(scene, chance)
        self.points = points

    def at(self, name: str) -> Did:
        """Nothing, where nobody comes there within 8 s; most often a kill."""
        point = POINTS[name]
        actions: list[Action] = [*point.actions, *(["kill"] * 3 if "kill" in point.actions else [])]
        action = self.chance.choice(actions)
        with self.scene.together:
            armed_at = time.time()
            nth = 1 if point.traffic == "sweep" else self.chance.choice([1, 1, 2, 3])  # every 3 s there is a sweep
            self.points.arm(name, action=action, nth=nth)
            with self._rings_unheard() if point.traffic == "sweep" else nullcontext():
                fired = self.points.wait(timeout_s=8)
            at = time.time()
            self.points.disarm()
            if fired is None:
                return Did(armed_at, at, 0, f"{action}: nobody came")
            if point.programs == ("api",) and action == "kill":
                self.system.programs["api"].means_to_end(since=armed_at, within_s=at - armed_at + 5)
            if not fired.stopped:
                return Did(at, at, note=action)
            return self._standing(fired, at)

    @contextmanager
    def _rings_unheard(self) -> Iterator[None]:
        """The workers stand still meanwhile: else they are faster than the sweep, and it finds nothing to ring for."""
        workers = [worker for worker in self.system.posting if worker.name not in self.scene.standing]
        pids = [pid for worker in workers for pid in (worker.process.pid, *worker.children)]
        for pid in pids:
            send(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                send(pid, signal.SIGCONT)

    def _standing(self, fired: Fired, at: float) -> Did:
        for_s = self.chance.choice([1.0, 3.0, self.scene.lease_s + 2])
        program = next((one for one in self.system.programs.values() if one.process.pid in fired.stopped), None)
        if program is None:  # killed by another fault this moment
            self.points.resume(fired)
            return Did(at, at, note="stop")
        program.means_to_end(since=at, within_s=for_s + 20)  # it may find that it was replaced, and end
        self.scene.stand(program, for_s=for_s, then=lambda: self.points.resume(fired))
        back_at = at + for_s if program.name == "api" else at
        return Did(at, back_at, note="stop")

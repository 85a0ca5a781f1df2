"""Faults of connections: those of the API and of one worker, which go by way of the proxies."""

import time

from hurting import Did, Hurting, within


class Connections(Hurting):
    def commit_unanswered(self) -> Did:
        """The answer to a COMMIT of that worker is lost; every third time that to an acceptance by the API."""
        proxy = self.system.postgres_proxy
        before = proxy.counts["swallowed"]
        accepts = self.chance.random() < 0.33
        proxy.swallow_answer("SELECT * FROM ledgermill_api.accept_jobs" if accepts else "COMMIT")
        found = within(6, lambda: proxy.counts["swallowed"] > before)
        at = time.time()
        if not found:
            proxy.calm()
        return Did(at, at, int(found), "acceptance" if accepts else "COMMIT")

    def connections_reset(self) -> Did:
        """RST on all connections of the API and that worker to PostgreSQL, or of the worker to Redis."""
        proxy = self.chance.choice([self.system.postgres_proxy, self.system.redis_proxy])
        at = time.time()
        return Did(at, at, proxy.reset())

    def cut_in_message(self) -> Did:
        """RST in the middle of what a client sends."""
        proxy = self.chance.choice([self.system.postgres_proxy, self.system.redis_proxy])
        before = proxy.counts["cut_after"]
        proxy.cut_after(self.chance.randint(1, 6_000))
        found = within(5, lambda: proxy.counts["cut_after"] > before)
        at = time.time()
        if not found:
            proxy.calm()
        return Did(at, at, int(found))

    def silence(self) -> Did:
        """Nothing goes through to PostgreSQL or Redis for some seconds, and nothing is closed."""
        proxy = self.chance.choice([self.system.postgres_proxy, self.system.redis_proxy])
        for_s = self.chance.uniform(2, 12)
        at = time.time()
        proxy.blackhole(for_s)
        time.sleep(for_s)
        return Did(at, time.time(), note=f"{for_s:.0f} s")

    def half_open(self) -> Did:
        """The open connections hang for ever; new ones work."""
        proxy = self.chance.choice([self.system.postgres_proxy, self.system.redis_proxy])
        at = time.time()
        return Did(at, at, proxy.half_open())

    def slow(self) -> Did:
        """Every answer takes 0.2 s longer for some seconds."""
        proxy = self.chance.choice([self.system.postgres_proxy, self.system.redis_proxy])
        at = time.time()
        proxy.delay(0.1)
        time.sleep(self.chance.uniform(2, 6))
        proxy.delay(0)
        return Did(at, time.time())

    def error_answered(self) -> Did:
        """PostgreSQL says that it is full, or busy: statements of that worker fail that never ran.

        No deadlock is made up: a real one is a finding.
        """
        proxy = self.system.postgres_proxy
        before = proxy.counts["refused"]
        proxy.answer_error(
            self.chance.choice(["COMMIT", "COPY", "SELECT"]),
            sqlstate=self.chance.choice(["53100", "53300", "40001", "57P03", "55P03"]),
            times=self.chance.choice([1, 3]),
        )
        found = within(5, lambda: proxy.counts["refused"] > before)
        at = time.time()
        if not found:
            proxy.calm()
        return Did(at, at, int(found))

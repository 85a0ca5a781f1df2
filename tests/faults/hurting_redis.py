"""Faults of Redis: killed, wiped, read-only, full."""

import time
from contextlib import suppress

import redis as redis_library
from hurting import Did, Hurting
from killing import wait_until

from ledgermill.embedded import ports, redis

PORT_FREE_WITHIN_S = 10.0


class Redis(Hurting):
    def redis_killed(self) -> Did:
        """SIGKILL; it starts again from its append-only file, which lacks up to a second."""
        at = time.time()
        redis.stop(self.system.home, save=False)
        return self._redis_again(at)

    def redis_shut_down(self) -> Did:
        """SHUTDOWN NOSAVE, and all data deleted before it starts again."""
        at = time.time()
        with self._redis() as client, suppress(redis_library.ConnectionError):
            client.shutdown(nosave=True)
        redis.wipe(self.system.home)
        return self._redis_again(at)

    def redis_flushed(self) -> Did:
        """FLUSHALL."""
        with self._redis() as client:
            at = time.time()
            client.flushall()
        return Did(at, at)

    def redis_read_only(self) -> Did:
        """It refuses all writes for some seconds, as a replica after a fail-over."""
        with self._redis() as client:
            at = time.time()
            client.replicaof("127.0.0.1", 9)
            time.sleep(self.chance.uniform(1, 4))
            client.replicaof("NO", "ONE")
        return Did(at, time.time())

    def redis_full(self) -> Did:
        """maxmemory is reached for some seconds: it refuses whatever needs memory."""
        with self._redis() as client:
            at = time.time()
            client.config_set("maxmemory", 1)
            time.sleep(self.chance.uniform(1, 4))
            client.config_set("maxmemory", 0)
        return Did(at, time.time())

    def _redis(self) -> redis_library.Redis:
        return redis_library.Redis.from_url(self.system.broker_url, socket_timeout=5)

    def _redis_again(self, at: float) -> Did:
        port = self.system.redis.port
        wait_until(lambda: ports.is_free(port), timeout_s=PORT_FREE_WITHIN_S, what="Redis' port is free again")
        time.sleep(self.chance.choice([0.0, 0.0, 1.0, 3.0]))
        assert redis.start(self.system.home).port == port
        return Did(at, time.time())

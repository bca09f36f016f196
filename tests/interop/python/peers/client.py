"""The client: calls a target through one channel."""

import collections
import itertools
import math
import threading
import time

import grpc

from .calls import METHODS, Calls
from .events import Flags, refuse, say, terminated
from .stubs import UNLIMITED, admin


def flags(arguments):
    parser = Flags()
    parser.add_argument("--target", required=True)
    parser.value("n", 10, int)
    parser.value("duration-ms", 0, int)
    parser.value("concurrency", 1, int)
    parser.value("qps", 0, float)
    parser.choice("method", *METHODS)
    parser.value("stream-messages", 3, int)
    parser.value("payload-size", 0, int)
    parser.value("timeout-ms", 10000, int)
    parser.switch("wait-for-ready")
    parser.choice("creds", "insecure", "xds")
    parser.pairs("metadata", ":")
    parser.switch("cookie-jar")
    parser.switch("print-metadata")
    parser.value("admin", "")
    parser.value("linger-ms", 0, int)
    parser.value("authority", "")
    parsed = parser.parse_args(arguments)
    if not 0 <= parsed.qps < math.inf:
        refuse("--qps: neither negative nor infinite rates can be kept")
    return parsed


def open_channel(parsed):
    options = list(UNLIMITED)
    if parsed.authority:
        options.append(("grpc.default_authority", parsed.authority))
    if parsed.creds == "insecure":
        return grpc.insecure_channel(parsed.target, options)
    from grpc.experimental import insecure_channel_credentials

    security = grpc.xds_channel_credentials(insecure_channel_credentials())
    return grpc.secure_channel(parsed.target, security, options)


class Run:
    """The calls of one process."""

    def __init__(self, parsed, calls, told):
        self.flags, self.calls, self.told = parsed, calls, told
        self.start = time.monotonic()
        self.next = itertools.count()
        self.lock = threading.Lock()
        self.codes, self.servers = collections.Counter(), collections.Counter()
        self.latencies = []

    def all(self):
        """Makes the calls, some of them at the same time."""
        count = max(self.flags.concurrency, 1)
        workers = [threading.Thread(target=self.work, daemon=True) for _ in range(count)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    def work(self):
        while True:
            i = next(self.next)
            start = time.monotonic() - self.start
            if self.flags.qps:
                start = max(start, i / self.flags.qps)
            is_late = 0 < self.flags.duration_ms < start * 1000
            if 0 < self.flags.n <= i or is_late:
                return
            if self.told.wait(max(self.start + start - time.monotonic(), 0)):
                return
            begun, start_ms = time.monotonic(), time.time() * 1000
            outcome = self.calls.call(i)
            self.record(i, outcome, start_ms, (time.monotonic() - begun) * 1000)

    def record(self, i, outcome, start_ms, latency):
        more = {"method": self.flags.method, "latency_ms": latency, "start_ms": start_ms}
        say("rpc", i=i, **more, **outcome)
        with self.lock:
            self.codes[outcome["code"]] += 1
            if outcome["code"] == "OK":
                self.servers[outcome["server"]] += 1
            self.latencies.append(latency)

    def summary(self):
        latencies = sorted(self.latencies)

        def at(share):
            found = min(len(latencies) * share // 100, len(latencies) - 1)
            return latencies[found] if latencies else None

        shares = {"p50": at(50), "p90": at(90), "p99": at(99), "max": at(100)}
        return {
            "total": len(latencies),
            "ok": self.codes["OK"],
            "codes": {code: n for code, n in self.codes.items() if n},
            "servers": self.servers,
            "latency_ms": shares,
            "elapsed_ms": (time.monotonic() - self.start) * 1000,
        }


def main(arguments):
    parsed = flags(arguments)
    told = terminated()
    channel = open_channel(parsed)
    say("ready", **admin(parsed.admin))
    run = Run(parsed, Calls(parsed, channel), told)
    run.all()
    say("summary", **run.summary())
    told.wait(parsed.linger_ms / 1000)
    channel.close()
    return 0

"""How the server treats calls before it answers them, and what it says about its load."""

import random
import threading

import grpc
from xds.data.orca.v3 import orca_load_report_pb2
from xds.service.orca.v3 import orca_pb2

from .events import say

CODES = {code.name: code for code in grpc.StatusCode}
NUMBERS = {code.value[0]: code for code in grpc.StatusCode}


class Behaviour:
    """What flags and request metadata ask for, applied to each call of the test service."""

    def __init__(self, flags):
        self.flags = flags
        self.count = 0
        self.lock = threading.Lock()

    def begin(self, method, context):
        """Delays or fails the call, then sends the response headers."""
        call = Call(context)
        with self.lock:
            self.count += 1
            n = self.count
        if self.flags.log_rpcs:
            say("rpc", n=n, method=method, **call.event())
        if self.flags.orca in ("per-request", "both"):
            call.trailers.append(("endpoint-load-metrics-bin", load(self.flags, named=True)))
        wait(context, self.flags.delay_ms / 1000)
        unlucky = random.uniform(0, 100) < self.flags.fail_percent
        if n <= self.flags.fail_first or call.attempts < self.flags.fail_attempts_below or unlucky:
            self.fail(call, CODES[self.flags.fail_code], "fails on purpose")
        for value in call.all("rpc-behavior"):
            if any(self.step(call, step.strip()) for step in value.split(",")):
                break
        context.set_trailing_metadata(tuple(call.trailers))
        context.send_initial_metadata((("hostname", self.flags.id), *call.echoes()))
        return call

    def step(self, call, step):
        """Does one of rpc-behavior; true: what follows is left out."""
        if step.startswith("hostname="):
            host, _, step = step.removeprefix("hostname=").partition(" ")
            if host != self.flags.id:
                return False
            step = step.strip()
        if step == "keep-open":
            while call.context.is_active():
                wait(call.context, 3600)
        name, _, number = step.rpartition("-")
        if name == "sleep":
            wait(call.context, int(number))
        elif name == "error-code":
            self.fail(call, NUMBERS[int(number)], "fails as rpc-behavior asks")
        elif name == "succeed-on-retry-attempt":
            return call.attempts == int(number)
        else:
            self.fail(call, grpc.StatusCode.INVALID_ARGUMENT, f"does not know {step!r}")
        return False

    def fail(self, call, code, why):
        call.context.set_trailing_metadata((("hostname", self.flags.id), *call.trailers))
        call.context.abort(code, f"{self.flags.id} {why}")


def wait(context, seconds):
    """Waits, but no longer than for the end of the call."""
    if seconds <= 0:
        return
    over = threading.Event()
    if context.add_callback(over.set):
        over.wait(seconds)


class Call:
    """What a request says about itself."""

    def __init__(self, context):
        self.context = context
        self.metadata = [(key, value) for key, value in context.invocation_metadata()]
        attempts = self.all("grpc-previous-rpc-attempts")
        self.attempts = int(attempts[0]) if attempts else 0
        left = context.time_remaining()
        # No deadline is one in a far future.
        self.deadline = str(int(left * 1000)) if left is not None and left < 1e8 else None
        # There is no public way to it.
        details = getattr(getattr(context, "_rpc_event", None), "call_details", None)
        self.authority = getattr(details, "host", b"").decode()
        peer = context.auth_context()
        names = [*peer.get("peer_uri", ()), *peer.get("x509_subject_alternative_name", ())]
        self.peer_san = names[0].decode() if names else None
        self.trailers = []

    def all(self, wanted):
        return [value for key, value in self.metadata if key == wanted]

    def event(self):
        event = {"attempts": self.attempts, "authority": self.authority}
        if self.deadline is not None:
            event["deadline_ms"] = self.deadline
        if self.peer_san is not None:
            event["peer_san"] = self.peer_san
        return event

    def echoes(self):
        """The response headers that x-echo asks for; what did not come is not echoed."""
        special = {
            ":authority": self.authority,
            ":deadline-ms": self.deadline,
            ":attempts": str(self.attempts),
            ":peer-san": self.peer_san,
        }
        for keys in self.all("x-echo"):
            for key in keys.split(","):
                key = key.strip().lower()
                values = [special[key]] if key in special else self.all(key)
                for value in values:
                    if value is not None:
                        yield f"echo-{key.removeprefix(':')}", value


def load(flags, named):
    report = orca_load_report_pb2.OrcaLoadReport(
        cpu_utilization=flags.orca_cpu,
        application_utilization=flags.orca_app,
        rps_fractional=flags.orca_qps,
        eps=flags.orca_eps,
    )
    if named:
        report.named_metrics.update({name: float(value) for name, value in flags.orca_named})
    return report.SerializeToString()


def out_of_band(flags):
    """The service that reports load without being called for anything else."""

    def stream(request, context):
        wanted = request.report_interval.ToTimedelta().total_seconds()
        pause = max(wanted, flags.orca_oob_ms / 1000, 0.001)
        while context.is_active():
            yield load(flags, named=False)
            wait(context, pause)

    parse = orca_pb2.OrcaLoadReportRequest.FromString
    method = grpc.unary_stream_rpc_method_handler(stream, request_deserializer=parse)
    service = "xds.service.orca.v3.OpenRcaService"
    return grpc.method_handlers_generic_handler(service, {"StreamCoreMetrics": method})

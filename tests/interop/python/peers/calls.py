"""What the client is asked to call, and the calls."""

import base64
import re
import threading

import grpc

from .stubs import messages, services

METHODS = ("UnaryCall", "EmptyCall", "StreamingOutputCall")


class Calls:
    """What is the same for every call of a run."""

    def __init__(self, flags, channel):
        self.flags = flags
        self.stub = services.TestServiceStub(channel)
        self.cookies = {}
        self.lock = threading.Lock()

    def call(self, i):
        """Makes call i; the fields of its event that the call itself decides."""
        outcome = {"code": "OK", "server": "", "messages": 0}
        options = {
            "metadata": self.metadata(i),
            "timeout": self.flags.timeout_ms / 1000 or None,
            "wait_for_ready": self.flags.wait_for_ready,
        }
        headers, trailers = (), ()
        try:
            call = self.start(options)
            for answer in call:
                outcome["messages"] += 1
                outcome["server"] = getattr(answer, "server_id", "")
        except grpc.RpcError as error:
            call = error
            outcome["code"] = error.code().name
            outcome["message"] = error.details()
            del outcome["messages"]
        headers, trailers = call.initial_metadata() or (), call.trailing_metadata() or ()
        for key, value in (*headers, *trailers):
            if key == "hostname" and not outcome["server"]:
                outcome["server"] = value
        self.keep_cookies(headers)
        if self.flags.print_metadata:
            outcome["headers"], outcome["trailers"] = readable(headers), readable(trailers)
        return outcome

    def start(self, options):
        """Every method as a stream of answers."""
        size = self.flags.payload_size
        payload = messages.Payload(body=bytes(size)) if size else None
        if self.flags.method == "EmptyCall":
            return Single(self.stub.EmptyCall.with_call(messages.Empty(), **options))
        if self.flags.method == "UnaryCall":
            request = messages.SimpleRequest(
                fill_server_id=True, response_size=size, payload=payload
            )
            return Single(self.stub.UnaryCall.with_call(request, **options))
        wanted = [messages.ResponseParameters(size=size)] * self.flags.stream_messages
        request = messages.StreamingOutputCallRequest(response_parameters=wanted, payload=payload)
        return self.stub.StreamingOutputCall(request, **options)

    def metadata(self, i):
        """The request metadata of call i."""
        entries = []
        for key, template in self.flags.metadata:
            value, key = filled(template, i), key.lower()
            entries.append((key, value.encode() if key.endswith("-bin") else value))
        with self.lock:
            if self.cookies:
                entries.append(("cookie", "; ".join(f"{k}={v}" for k, v in self.cookies.items())))
        return entries

    def keep_cookies(self, headers):
        """Remembers names and values; paths and ages do not matter to one service."""
        if not self.flags.cookie_jar:
            return
        with self.lock:
            for key, cookie in headers:
                if key == "set-cookie":
                    name, _, value = cookie.partition(";")[0].partition("=")
                    self.cookies[name.strip()] = value


class Single:
    """One answer and its call, as a stream of one."""

    def __init__(self, answered):
        self.answer, self.call = answered

    def __iter__(self):
        yield self.answer

    def initial_metadata(self):
        return self.call.initial_metadata()

    def trailing_metadata(self):
        return self.call.trailing_metadata()


def filled(template, i):
    """Puts the call's index, {i}, or its remainder, {i%N}, into a value."""

    def index(found):
        n = found.group(2)
        if n is None:
            return str(i)
        return str(i % int(n)) if int(n) else found.group()

    return re.sub(r"\{i(%([0-9]+))?\}", index, template)


def readable(metadata):
    """Metadata as text; binary values in the base64 in which they travel."""
    text = {}
    for key, value in metadata:
        if isinstance(value, bytes):
            value = base64.b64encode(value).decode().rstrip("=")
        text[key] = f"{text[key]},{value}" if key in text else value
    return text

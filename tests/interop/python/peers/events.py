"""Events on standard output, and the flags that are answered with one."""

import argparse
import json
import os
import signal
import sys
import threading
import time

_lock = threading.Lock()


def say(kind, **fields):
    """Prints one event as one line."""
    line = json.dumps({"event": kind, "t_ms": time.time() * 1000, **fields})
    with _lock:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def refuse(message):
    """Ends the process over what it was asked; at once, whatever its threads do."""
    say("error", message=message)
    os._exit(2)


class Flags(argparse.ArgumentParser):
    """Flags; what is wrong with them becomes an event."""

    def __init__(self):
        super().__init__(allow_abbrev=False, add_help=False)

    def error(self, message):
        refuse(message)

    def value(self, name, default, of=str):
        """A flag with a value."""
        self.add_argument(f"--{name}", default=default, type=of)

    def switch(self, name):
        """A flag without a value."""
        self.add_argument(f"--{name}", action="store_true")

    def choice(self, name, *values):
        """A flag with one of these values; the first is the default."""
        self.add_argument(f"--{name}", choices=values, default=values[0])

    def pairs(self, name, separator):
        """A repeatable flag of two texts; only the first separator splits."""

        def pair(text):
            key, found, value = text.partition(separator)
            if not found:
                raise argparse.ArgumentTypeError(f"{text!r} has no {separator!r}")
            return key, value

        self.add_argument(f"--{name}", action="append", default=[], type=pair)


def terminated():
    """Is set at SIGTERM and SIGINT."""
    told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())
    return told

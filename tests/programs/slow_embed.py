"""The command line with a model that takes a minute per call."""

import signal
import time

import fastmnv2
from fastmnv2.cli import main

# A background shell may ignore Ctrl-C, nohup ignores SIGHUP, and their children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def slow(self, images, **options):
    print("started", flush=True)
    for _ in range(600):
        time.sleep(0.1)


fastmnv2.Model.embed = slow
main()

"""Embed pictures until Ctrl-C."""

import itertools
import signal
import sys
import threading

import fastmnv2

signal.signal(signal.SIGINT, signal.default_int_handler)
model = fastmnv2.load(sys.argv[1])
try:
    for place, _ in enumerate(model.iter_embed_images(itertools.cycle(sys.argv[2:]), threads=2)):
        if place == 50:
            print("started", flush=True)
except KeyboardInterrupt:
    print(f"stopped, {threading.active_count()} thread", flush=True)
    sys.exit(3)

"""The command line, which waits where it would write to the disk what is complete, before it renames it."""

import os
import time

from fastmnv2.cli import main


def fsync(_):
    print("written", flush=True)
    time.sleep(60)


os.fsync = fsync
main()

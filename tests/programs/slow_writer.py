"""The command line, with a pause between writing the temporary file and renaming it."""

import os
import time

from fastmnv2.cli import main


def fsync(_):
    print("written", flush=True)
    time.sleep(60)


os.fsync = fsync
main()

"""The command line where a file may have 3000 bytes: to a writer the same as a full disk."""

import resource
import signal

from fastmnv2.cli import main

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
main()

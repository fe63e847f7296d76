"""The command line with a limit of 3000 bytes per file, which a writer sees as a full disk."""

import resource
import signal

from fastmnv2.cli import main

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
main()

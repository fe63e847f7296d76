"""The command line. Commands import what they need when they run."""

import io
import os
import signal
import sys
import warnings
from typing import Any

try:
    import click
except ImportError:  # print one line instead of a traceback
    raise SystemExit("fastmnv2: the command line needs click: pip install 'fastmnv2[cli]'") from None

from fastmnv2._version import __version__
from fastmnv2.cli.common import Commands, examples
from fastmnv2.cli.measure import bench, demo
from fastmnv2.cli.pictures import classify, embed
from fastmnv2.cli.train import train
from fastmnv2.cli.weights import convert, info, quantize

_EXAMPLES = examples(
    "fastmnv2 embed photos/ -o features.npz",
    "fastmnv2 classify photos/ --labels labels.txt",
    "fastmnv2 train flowers/ -o flowers.safetensors",
    "fastmnv2 demo",
)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EXAMPLES)
@click.version_option(__version__, prog_name="fastmnv2")
def cli() -> None:
    """MobileNet V2 image feature vectors on the CPU.

    "fastmnv2 COMMAND --help" explains a command and all its options.
    """


for _command in (embed, classify, convert, quantize, train, info, demo, bench):
    cli.add_command(_command)


def _open_streams() -> None:
    """Open the standard streams that the caller closed, so that no other file gets their numbers and the output."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 -- for as long as the process runs


def main() -> None:
    """Run the command line and exit."""

    def stop(number: int, _frame: Any) -> None:
        sys.exit(128 + number)  # unwinds the stack, so that temporary files are removed

    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number and signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, stop)
    _open_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(
            stream, io.TextIOWrapper
        ):  # escape characters that the terminal's encoding, such as cp1252, lacks
            stream.reconfigure(errors="backslashreplace")
    warnings.filterwarnings("ignore", module=r"PIL\.")  # Pillow warns about broken metadata of pictures that it decodes
    try:
        cli(prog_name="fastmnv2")
    except KeyboardInterrupt:
        sys.exit(130)

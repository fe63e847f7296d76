"""Put weights into the package before a wheel is built, so that ``embed`` needs no network.

    python wheels/embed_weights.py            # the official file; its hash must be known, or given by --sha256
    python wheels/embed_weights.py SOURCE     # any form that fastmnv2.load takes
    python wheels/embed_weights.py --remove

It writes fastmnv2/data/imagenet.safetensors, which is not in git. The weights are folded, and the logits layer is left
out because it would double the size of the wheel. fastmnv2 must be installed.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

TARGET = Path(__file__).resolve().parents[1] / "fastmnv2" / "data" / "imagenet.safetensors"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", help="a path; by default the official file")
    parser.add_argument("--remove", action="store_true", help="remove the weights from the package again")
    parser.add_argument("--sha256", metavar="HASH", help="expected sha256 of the downloaded file")
    parser.add_argument("--target", type=Path, default=TARGET, help="the file to write")
    options = parser.parse_args()
    if options.remove:
        options.target.unlink(missing_ok=True)
        return

    from fastmnv2.weights import download
    from fastmnv2.weights.forms import native
    from fastmnv2.weights.resolve import resolve

    if options.source:
        folded = resolve(options.source)
    else:
        remotes = download.remotes()
        if options.sha256:
            remotes = tuple(dataclasses.replace(remote, sha256=options.sha256) for remote in remotes)
        unknown = [remote.url for remote in remotes if remote.sha256 is None]
        if unknown:
            sys.exit(
                f"refused: the sha256 of {' and '.join(unknown)} is unknown; fill it into REMOTES in "
                "fastmnv2/weights/download.py, or pass --sha256"
            )
        fetched, failures = download.fetch(remotes)
        if fetched is None:
            sys.exit("the weights could not be downloaded: " + "; ".join(failures))
        folded = fetched
    options.target.parent.mkdir(exist_ok=True)
    native.write(options.target, folded.without_logits())
    size = options.target.stat().st_size
    print(f"{options.target}: {size:,} bytes from {folded.form} {folded.origin}, sha256 {folded.sha256}")


if __name__ == "__main__":
    main()

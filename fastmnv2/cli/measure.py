"""``fastmnv2 demo`` and ``fastmnv2 bench``."""

from typing import Any

import click

from fastmnv2.cli.common import (
    DECODING,
    FOLLOW_LINKS,
    PRECISION,
    THREADS,
    WEIGHTS,
    check_some,
    examples,
    find_pictures,
    with_options,
)

_DEMO_PICTURES = 12  # as many as fit into the table


@click.command(epilog=examples("fastmnv2 demo", "fastmnv2 demo photos/ --threads 1"))
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@with_options(*DECODING, FOLLOW_LINKS, WEIGHTS, PRECISION, THREADS)
def demo(paths: tuple[str, ...], weights: str | None, threads: int | None, precision: Any, **find: Any) -> None:
    """Embed a few sample pictures, or the first dozen of yours, and print similarities and timings.

    It downloads nothing; without weights it uses random ones.
    """
    from fastmnv2.cli import demonstration

    chosen = demonstration.samples
    if paths:
        pictures = find_pictures(paths, **find)
        # A folder may hold thousands; the first dozen is enough.
        del pictures.found[_DEMO_PICTURES:]

        def chosen(size: tuple[int, int]) -> "demonstration.Named":
            found = demonstration.decoded(pictures, size)
            check_some(pictures)
            return found

    demonstration.run(weights, threads, chosen, click.echo, precision)


@click.command(epilog=examples("fastmnv2 bench", "fastmnv2 bench --layers", "fastmnv2 bench -n 8 --threads 2"))
@click.option("--layers", is_flag=True, help="Time each layer on one thread, instead of calls.")
@click.option(
    "--networks", is_flag=True, help="Time each of the 22 published networks in both precisions, instead of calls."
)
@click.option("-n", "n", type=click.IntRange(1, 4096), metavar="N", help="Images per call.  [default: 1, 8 and 32]")
@THREADS
@PRECISION
@click.option(
    "--weights",
    default="untrained",
    show_default=True,
    metavar="W",
    help="File or folder with weights. Their values don't affect the timings.",
)
def bench(layers: bool, networks: bool, n: int | None, threads: int | None, weights: str, precision: Any) -> None:
    """Time calls, layers or networks. Calls and layers are compared with this processor's peak of multiply-adds."""
    if networks:
        if layers or n or threads or precision or weights != "untrained":
            raise click.UsageError("--networks times all networks with untrained weights and takes no other option")
        from fastmnv2.cli.networks import table

        for row in table():
            click.echo(row)
        return
    import fastmnv2
    from fastmnv2.core import profile
    from fastmnv2.core import threads as _threads

    model = fastmnv2.load(weights, precision=precision)
    if not layers:
        click.echo(f"{'images':>6} {'threads':>7} {'median ms':>10} {'p99 ms':>8} {'images/s':>9} {'of peak':>8}")
        for batch in (n,) if n else (1, 8, 32):
            for count in sorted({threads} if threads else {1, _threads.available()}):
                call = profile.calls(model, batch, count)
                click.echo(
                    f"{batch:>6} {count:>7} {call.median * 1e3:>10.3f} {call.p99 * 1e3:>8.3f} "
                    f"{batch / call.median:>9,.0f} {call.share:>8.0%}"
                )
        if line := profile.ping():
            click.echo(f"a cache line takes {line * 1e9:.0f} ns from core to core")
        return
    if threads not in (None, 1):
        raise click.UsageError(f"--layers measures one thread, not {threads}")
    timed = profile.layers(model, n=n or 1)
    click.echo(f"{'layer':<27} {'kind':<9} {'MMACs':>8} {'KB':>7} {'us':>8} {'of peak':>8}")
    kinds = dict.fromkeys(row.kind for row in timed)
    totals = [("all " + kind, "", [row for row in timed if row.kind == kind]) for kind in kinds]
    for name, kind, part in [*((row.name, row.kind, [row]) for row in timed), *totals, ("all layers", "", timed)]:
        amount, seconds = sum(row.macs for row in part), sum(row.seconds for row in part)
        click.echo(
            f"{name:<27} {kind:<9} {amount / 1e6:>8.3f} {sum(row.bytes for row in part) / 1024:>7.0f} "
            f"{seconds * 1e6:>8.1f} {amount / seconds / timed[0].peak:>8.0%}"
        )

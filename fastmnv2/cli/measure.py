"""``fastmnv2 demo`` and ``fastmnv2 bench``."""

import click

from fastmnv2.cli.common import PRECISION, THREADS, WEIGHTS, check_some, find_pictures, with_options

_DEMO_PICTURES = 12  # the table's width


@click.command()
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@with_options(WEIGHTS, THREADS, PRECISION)
def demo(paths: tuple[str, ...], weights: str | None, threads: int | None, precision: str) -> None:
    """Embed a few sample pictures, or yours, and print similarities and timings. Uses no network."""
    from fastmnv2.cli import demonstration

    chosen = demonstration.samples
    if paths:
        pictures = find_pictures(paths)
        # In a folder of thousands the first dozen will do.
        del pictures.found[_DEMO_PICTURES:]

        def chosen(size: tuple[int, int]) -> "demonstration.Named":
            found = demonstration.decoded(pictures, size)
            check_some(pictures)
            return found

    demonstration.run(weights, threads, chosen, click.echo, precision)


@click.command()
@click.option("--layers", is_flag=True, help="Each layer's time, on one thread.")
@click.option("-n", "n", type=click.IntRange(1, 4096), help="Images a call.  [default: 1, and 8 and 32]")
@THREADS
@PRECISION
@click.option("--weights", default="untrained", show_default=True, metavar="W", help="Times don't depend on them.")
def bench(layers: bool, n: int | None, threads: int | None, weights: str, precision: str) -> None:
    """Time calls, or layers, against this processor's multiply-add peak."""
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
        raise click.UsageError(f"--layers counts on one thread, not {threads}")
    rows = profile.layers(model, n=n or 1)
    click.echo(f"{'layer':<27} {'kind':<9} {'MMACs':>8} {'KB':>7} {'us':>8} {'of peak':>8}")
    kinds = dict.fromkeys(row.kind for row in rows)
    totals = [("all " + kind, "", [row for row in rows if row.kind == kind]) for kind in kinds]
    for name, kind, part in [*((row.name, row.kind, [row]) for row in rows), *totals, ("all layers", "", rows)]:
        amount, seconds = sum(row.macs for row in part), sum(row.seconds for row in part)
        click.echo(
            f"{name:<27} {kind:<9} {amount / 1e6:>8.3f} {sum(row.bytes for row in part) / 1024:>7.0f} "
            f"{seconds * 1e6:>8.1f} {amount / seconds / rows[0].peak:>8.0%}"
        )

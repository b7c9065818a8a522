"""What the subcommands of `python -m bundle` do: each yields the lines that it prints."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from bundle import describe, diff, retention
from bundle.errors import BundleError
from bundle.schema import schema_text
from bundle.store import Bundle, Store
from bundle.verify import verify as verify_bundle


def open_named(store: Store, text: str) -> Bundle:
    """Open `name` (its champion) or `name/version`. Raises `BundleMissing` naming what there is."""
    name, _, version = text.partition("/")
    if version and not version.isdecimal():
        raise BundleError(f"{text!r} should be NAME or NAME/VERSION, where VERSION is a whole number")
    return store.open(name, int(version) if version else None)


def list_(options: argparse.Namespace) -> Iterator[str]:
    """List every version of every model."""
    lines = list(describe.listing(Store(options.store)))
    yield from lines or [f"no bundles in {options.store}"]


def inspect(options: argparse.Namespace) -> Iterator[str]:
    """Show what a bundle holds."""
    yield from describe.inspection(open_named(Store(options.store), options.bundle))


def verify(options: argparse.Namespace) -> Iterator[str]:
    """Verify the named bundles, or all."""
    store = Store(options.store)
    if options.bundles:
        chosen = [open_named(store, text) for text in options.bundles]
    else:
        chosen = [store.open(name, version) for name in store.names() for version in store.versions(name)]
    if not chosen:
        raise BundleError(f"no bundles in {options.store}")
    for bundle in chosen:
        for replay in verify_bundle(store, bundle):
            yield (
                f"{bundle.manifest.name}/{bundle.manifest.version} {replay.variant}: {replay.images} golden images"
                f" within {replay.difference:.2g} (tolerance {replay.tolerance:g})"
            )


def promote(options: argparse.Namespace) -> Iterator[str]:
    """Verify a version and make it champion, canary or shadow."""
    if (options.channel == "canary") != (options.weight is not None):
        raise BundleError("--channel canary and --weight go together: --weight 0.05 is 5 % of the requests")
    if options.weight is not None and not 0 < options.weight < 1:
        raise BundleError(f"--weight must be above 0 and below 1, not {options.weight:g}")
    store = Store(options.store)
    bundle = open_named(store, options.bundle)
    name, version = bundle.manifest.name, bundle.manifest.version
    verify_bundle(store, bundle)
    if options.channel != "champion":
        store.set_channels(name, lambda channels: channels.assigned(options.channel, version, options.weight))
        share = f" for {options.weight:.3g} of the requests" if options.weight else ""
        yield f"{name}: {options.channel} {version}{share}"
        return
    before = store.channels(name).champion
    store.promote(name, version)
    yield f"{name}: champion {before} -> {version}"


def withdraw(options: argparse.Namespace) -> Iterator[str]:
    """Let a model have no canary or no shadow."""
    Store(options.store).set_channels(options.name, lambda channels: channels.assigned(options.channel, None))
    yield f"{options.name}: no {options.channel}"


def rollback(options: argparse.Namespace) -> Iterator[str]:
    """Make the champion before the present one champion again."""
    store = Store(options.store)
    before = store.channels(options.name).champion
    yield f"{options.name}: champion {before} -> {store.rollback(options.name).champion}"


def compare(options: argparse.Namespace) -> Iterator[str]:
    """Show what changed between two bundles, and write a page with thumbnails where asked for."""
    store = Store(options.store)
    first, second = open_named(store, options.first), open_named(store, options.second)
    lines = list(diff.differences(first.manifest, second.manifest))
    found = list(diff.disagreements(first, second, diff.images_of(first, second, options.images)))
    yield from lines
    for d in found:
        yield f"{d.name}: {d.first[0]} {d.first[1]:.3f} -> {d.second[0]} {d.second[1]:.3f}"
    yield f"{len(found)} disagreements"
    if options.html:
        Path(options.html).write_text(diff.page(first.manifest, second.manifest, lines, found))
        yield f"written: {options.html}"


def collect(options: argparse.Namespace) -> Iterator[str]:
    """Delete versions that nothing needs, and what killed publishers left."""
    store = Store(options.store)
    names = [options.name] if options.name else store.names()
    for name in names:
        for version in retention.expendable(store, name, options.keep):
            if not options.dry_run:
                store.remove(name, version)
            yield f"{name}/{version} {'would be deleted' if options.dry_run else 'deleted'}"
        for _ in [] if options.dry_run else store.clear_stale(name):
            yield f"{name}: an unfinished publication was cleared away"


def schema(options: argparse.Namespace) -> Iterator[str]:
    """Show the JSON Schema of `bundle.json`."""
    yield schema_text().rstrip("\n")

"""Which versions of a model may go: neither in use, nor a champion to roll back to, nor among the newest."""

from __future__ import annotations

from bundle.store import Store


def expendable(store: Store, name: str, keep: int) -> list[int]:
    """List the versions to delete, oldest first: not in a channel, not the champion before, not the newest `keep`."""
    channels = store.channels(name)
    used = {channels.champion, channels.shadow, channels.canary.version if channels.canary else None}
    used |= set(channels.history[-1:])
    versions = store.versions(name)
    newest = set(versions[max(0, len(versions) - keep) :])
    return [version for version in versions if version not in used | newest]

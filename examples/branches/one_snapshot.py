#!/usr/bin/env python3
"""Wrong: holds one snapshot at a time; the next one takes the place of the one in progress."""
from branch import Branch, main


class Wrong(Branch):
    newest = 0

    def record(self, snapshot_id):
        if snapshot_id > self.newest:
            self.newest = snapshot_id
            self.snapshots.clear()
            super().record(snapshot_id)

    def marker(self, peer, snapshot_id):
        self.record(snapshot_id)
        if snapshot_id in self.snapshots:
            self.snapshots[snapshot_id].recording.discard(peer)


main(Wrong)

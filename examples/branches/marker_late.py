#!/usr/bin/env python3
"""Wrong: after the recording the lock is let go, and payments slip out ahead of the markers."""
from branch import Branch, main


class Wrong(Branch):
    def send_markers(self, snapshot_id):
        self.changed.wait(timeout=0.02)
        money = self.amount()
        if money <= self.balance:
            self.transfer(list(self.peers)[-1], money)
        super().send_markers(snapshot_id)


main(Wrong)

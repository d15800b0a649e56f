#!/usr/bin/env python3
"""Wrong: money that arrives while a channel is recorded is added to the recorded balance too."""
from branch import Branch, main


class Wrong(Branch):
    def receive(self, peer, money):
        super().receive(peer, money)
        for snapshot in self.snapshots.values():
            if peer in snapshot.recording:
                snapshot.balance += money


main(Wrong)

#!/usr/bin/env python3
"""Wrong: pays whomever it has dialled, without waiting until that one is initialised."""
import socket

from branch import HELLO, Branch, main, nested


class Wrong(Branch):
    def dial(self, peer, address):
        self.peers[peer] = self.stream(socket.create_connection(address))
        self.peers[peer].send(HELLO, nested(3, self.name.encode()))
        self.start(self.peers[peer], dialled=True)

    def ready(self):
        return bool(self.peers)


main(Wrong)

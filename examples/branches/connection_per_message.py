#!/usr/bin/env python3
"""Wrong: a new connection for every message, so that nothing orders two of them."""
import socket

from branch import HELLO, Branch, Stream, main, nested, parse


class PerMessage:
    """Sends each message on a connection of its own, behind the name of the sender."""

    def __init__(self, name, address):
        self.name, self.address = name, address

    def send(self, field, body):
        stream = Stream(socket.create_connection(self.address))
        stream.send(HELLO, nested(3, self.name.encode()))
        stream.send(field, body)
        stream.connection.close()
        stream.file.close()


class Wrong(Branch):
    def init(self, fields):
        super().init(fields)
        for branch in (dict(parse(value)) for field, value in fields if field == 2):
            if branch[1].decode() != self.name:
                self.dial(branch[1].decode(), (branch[2].decode(), branch[3]))

    def dial(self, peer, address):
        self.peers[peer] = PerMessage(self.name, address)

    def hello(self, stream, peer, dialled):
        self.changed.wait_for(self.ready)


main(Wrong)

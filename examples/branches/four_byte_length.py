#!/usr/bin/env python3
"""Wrong here: a length of four bytes in front of messages, in place of a varint."""
import struct

from branch import Branch, Stream, main, nested, parse


class FourBytes(Stream):
    def send(self, field, body):
        message = nested(field, body)
        self.connection.sendall(struct.pack("!I", len(message)) + message)

    def messages(self):
        while head := self.file.read(4):
            yield next(parse(self.file.read(struct.unpack("!I", head)[0])))


class Wrong(Branch):
    stream = FourBytes


main(Wrong)

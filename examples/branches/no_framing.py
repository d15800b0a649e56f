#!/usr/bin/env python3
"""Wrong: no length in front of messages; whatever one recv brings is taken for one message."""
from branch import Branch, Stream, main, nested, parse


class Unframed(Stream):
    def send(self, field, body):
        self.connection.sendall(nested(field, body))

    def messages(self):
        while data := self.connection.recv(4096):
            yield next(parse(data))


class Wrong(Branch):
    stream = Unframed


main(Wrong)

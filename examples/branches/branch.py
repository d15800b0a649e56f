#!/usr/bin/env python3
"""A branch of the assignment that keeps all its rules, with Python's standard library alone.

    python3 branch.py <name> <port> [interval_ms]

Each message is behind its length, a varint. Each branch dials those that come after it in the file.
Whoever dials says its name first, and is answered with the other's name once that one is initialised:
Hello is a message of our own, field 16 of BranchMessage; numbers from 16 up are free for that.
"""
import random
import socket
import sys
import threading
import time

INIT_BRANCH, TRANSFER, INIT_SNAPSHOT, MARKER, RETRIEVE_SNAPSHOT, RETURN_SNAPSHOT, HELLO = 1, 2, 3, 4, 5, 6, 16


# ---- protobuf: a message is a row of fields, each a varint (number << 3 | type) and its value ----

def varint(n):
    out = bytearray()
    while n >= 0x80:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    return bytes(out + bytes([n]))


def number(field, n):
    return varint(field << 3 | 0) + varint(n)


def nested(field, data):
    return varint(field << 3 | 2) + varint(len(data)) + data


def parse_varint(data, at):
    n = shift = 0
    while True:
        byte = data[at]
        at += 1
        n |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return n, at


def parse(data):
    """Yields (field number, value): an int, or bytes for nested messages and strings."""
    at = 0
    while at < len(data):
        key, at = parse_varint(data, at)
        value, at = parse_varint(data, at)
        if key & 7 == 2:
            value, at = data[at:at + value], at + value
        yield key >> 3, value


# ---- a connection ----

class Stream:
    def __init__(self, connection):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection = connection
        self.file = connection.makefile("rb")

    def send(self, field, body):
        message = nested(field, body)
        self.connection.sendall(varint(len(message)) + message)

    def messages(self):
        while True:
            size = shift = 0
            while True:
                byte = self.file.read(1)
                if not byte:
                    return
                size |= (byte[0] & 0x7F) << shift
                shift += 7
                if byte[0] < 0x80:
                    break
            yield next(parse(self.file.read(size)))


class Snapshot:
    def __init__(self, balance, senders):
        self.balance = balance
        self.channels = dict.fromkeys(senders, 0)  # file order
        self.recording = set(senders)


# ---- the branch ----

class Branch:
    stream = Stream

    def __init__(self, name, port, interval_ms=5000):
        self.name, self.interval = name, int(interval_ms) / 1000
        self.changed = threading.Condition()  # its lock is held for every step
        self.balance = self.initial = 0
        self.others = None  # names in file order, itself left out; None: not initialised
        self.peers = {}     # name: stream, of those that have said hello
        self.snapshots = {}
        self.server = socket.create_server(("", int(port)), backlog=128)

    def run(self):
        threading.Thread(target=self.pay, daemon=True).start()
        while True:
            connection, _ = self.server.accept()
            self.start(self.stream(connection), dialled=False)

    def start(self, stream, dialled):
        threading.Thread(target=self.serve, args=(stream, dialled), daemon=True).start()

    def serve(self, stream, dialled):
        """All that comes on one connection: a controller's, or a peer's once it has said hello."""
        peer = None
        for kind, body in stream.messages():
            value = next(parse(body))[1]
            with self.changed:
                if kind in (MARKER, INIT_SNAPSHOT):
                    self.changed.wait_for(self.ready)  # all channels belong to a snapshot
                if kind == HELLO:
                    peer = value.decode()
                    self.hello(stream, peer, dialled)
                elif kind == TRANSFER:
                    self.receive(peer, value)
                elif kind == MARKER:
                    self.marker(peer, value)
                elif kind == INIT_BRANCH:
                    self.init(list(parse(body)))
                elif kind == INIT_SNAPSHOT:
                    self.record(value)
                elif kind == RETRIEVE_SNAPSHOT:
                    self.answer(stream, value)
                self.changed.notify_all()

    # ---- connections ----

    def init(self, fields):
        self.balance = self.initial = next(value for field, value in fields if field == 1)
        roster = [dict(parse(value)) for field, value in fields if field == 2]
        names = [branch[1].decode() for branch in roster]
        self.others = [name for name in names if name != self.name]
        for branch in roster[names.index(self.name) + 1:]:
            self.dial(branch[1].decode(), (branch[2].decode(), branch[3]))

    def dial(self, peer, address):
        stream = self.stream(socket.create_connection(address))
        stream.send(HELLO, nested(3, self.name.encode()))
        self.start(stream, dialled=True)

    def hello(self, stream, peer, dialled):
        self.changed.wait_for(lambda: self.others is not None)
        if not dialled:
            stream.send(HELLO, nested(3, self.name.encode()))
        self.peers[peer] = stream

    # ---- money ----

    def ready(self):
        return self.others is not None and len(self.peers) == len(self.others)

    def pay(self):
        while True:
            time.sleep(random.uniform(0, self.interval))
            with self.changed:
                self.changed.wait_for(self.ready)
                money = self.amount()
                if money <= self.balance:
                    self.transfer(random.choice(list(self.peers)), money)

    def amount(self):
        return max(1, int(self.initial * random.uniform(0.01, 0.05)))

    def transfer(self, peer, money):
        self.balance -= money
        self.peers[peer].send(TRANSFER, number(1, money))

    def receive(self, peer, money):
        self.balance += money
        for snapshot in self.snapshots.values():
            if peer in snapshot.recording:
                snapshot.channels[peer] += money

    # ---- snapshots ----

    def record(self, snapshot_id):
        self.snapshots[snapshot_id] = Snapshot(self.balance, self.others)
        self.send_markers(snapshot_id)

    def send_markers(self, snapshot_id):
        for stream in self.peers.values():
            stream.send(MARKER, number(1, snapshot_id))

    def marker(self, peer, snapshot_id):
        if snapshot_id not in self.snapshots:
            self.record(snapshot_id)
        self.snapshots[snapshot_id].recording.discard(peer)

    def answer(self, stream, snapshot_id):
        self.changed.wait_for(lambda: snapshot_id in self.snapshots and not self.snapshots[snapshot_id].recording)
        snapshot = self.snapshots[snapshot_id]
        states = b"".join(varint(money) for money in self.states(snapshot))
        stream.send(RETURN_SNAPSHOT, nested(
            1, number(1, snapshot_id) + number(2, snapshot.balance) + nested(3, states)))

    def states(self, snapshot):
        return snapshot.channels.values()


def main(branch_class):
    if not 3 <= len(sys.argv) <= 4:
        sys.exit("usage: <name> <port> [interval_ms]")
    branch_class(*sys.argv[1:]).run()


if __name__ == "__main__":
    main(Branch)

#!/usr/bin/env python3
"""A controller of the assignment, written with bank.proto and a varint, nothing else.

    python3 client.py <total> <file> [snapshots [seconds_between]]

It opens the bank (InitBranch), starts snapshots at random branches (InitSnapshot), and asks all
branches for each (RetrieveSnapshot, answered by ReturnSnapshot once the snapshot is complete).
"""
import random
import socket
import sys
import time

# BranchMessage's fields.
INIT_BRANCH, INIT_SNAPSHOT, RETRIEVE_SNAPSHOT, RETURN_SNAPSHOT = 1, 3, 5, 6


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
    """Yields (field number, value): an int, or bytes for nested messages, strings, packed lists."""
    at = 0
    while at < len(data):
        key, at = parse_varint(data, at)
        if key & 7 == 0:
            value, at = parse_varint(data, at)
        else:
            size = {1: 8, 5: 4}.get(key & 7)
            if size is None:
                size, at = parse_varint(data, at)
            value, at = data[at:at + size], at + size
        yield key >> 3, value


# ---- a connection: each message behind its length, as a varint ----

class Branch:
    def __init__(self, name, ip, port):
        self.name, self.ip, self.port = name, ip, int(port)
        self.stream = socket.create_connection((ip, self.port), timeout=30).makefile("rwb")

    def send(self, field, body):
        message = nested(field, body)
        self.stream.write(varint(len(message)) + message)
        self.stream.flush()

    def receive(self):
        size = shift = 0
        while True:
            byte = self.stream.read(1)
            if not byte:
                sys.exit(f"{self.name} closed the connection")
            size |= (byte[0] & 0x7F) << shift
            shift += 7
            if byte[0] < 0x80:
                break
        return next(parse(self.stream.read(size)))


def open_bank(branches, total):
    share, rest = divmod(total, len(branches))
    roster = b"".join(
        nested(2, nested(1, b.name.encode()) + nested(2, b.ip.encode()) + number(3, b.port)) for b in branches)
    for i, branch in enumerate(branches):
        branch.send(INIT_BRANCH, number(1, share + (i < rest)) + roster)


def snapshot(branches, snapshot_id):
    """Takes one snapshot, prints it, and returns the sum of all the money in it."""
    random.choice(branches).send(INIT_SNAPSHOT, number(1, snapshot_id))
    for branch in branches:
        branch.send(RETRIEVE_SNAPSHOT, number(1, snapshot_id))
    lines, money = [f"snapshot_id: {snapshot_id}"], 0
    for branch in branches:
        field, body = branch.receive()
        if field != RETURN_SNAPSHOT:
            sys.exit(f"{branch.name} answered {body!r}")
        balance, channels = 0, []
        for field, value in parse(next(parse(body))[1]):  # the LocalSnapshot
            if field == 2:
                balance = value
            elif field == 3:
                at = 0
                while at < len(value):
                    amount, at = parse_varint(value, at)
                    channels.append(amount)
        senders = [b.name for b in branches if b is not branch]
        lines.append(", ".join([f"{branch.name}: {balance}"] + [
            f"{sender}->{branch.name}: {amount}" for sender, amount in zip(senders, channels)]))
        money += balance + sum(channels)
    print("\n".join(lines), end="\n\n", flush=True)
    return money


def main(total, file, snapshots="5", seconds="2"):
    with open(file) as lines:
        entries = [line.split() for line in lines if line.strip() and not line.startswith("#")]
    branches = [Branch(*entry) for entry in entries]
    open_bank(branches, int(total))
    for snapshot_id in range(1, int(snapshots) + 1):
        time.sleep(float(seconds))
        money = snapshot(branches, snapshot_id)
        if money != int(total):
            sys.exit(f"snapshot {snapshot_id} sums to {money}, not to {total}")


if __name__ == "__main__":
    if not 3 <= len(sys.argv) <= 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])

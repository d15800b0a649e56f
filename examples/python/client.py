#!/usr/bin/env python3
"""A controller of the assignment: bank.proto, the standard protobuf package, and nothing of cutbank's own.

    python3 client.py <total> <file> [snapshots [seconds_between]]

It opens the bank (InitBranch), starts snapshots at random branches (InitSnapshot), and asks all
branches for each (RetrieveSnapshot, answered by ReturnSnapshot once the snapshot is complete).
Needs protobuf 3.20 or later (Debian: python3-protobuf). bank_pb2.py is made from proto/bank.proto.
"""
import random
import socket
import sys
import time

from bank_pb2 import BranchMessage


class Branch:
    """A connection to a branch: each message behind its length, as a varint."""

    def __init__(self, name, ip, port):
        self.name, self.ip, self.port = name, ip, int(port)
        self.stream = socket.create_connection((ip, self.port), timeout=30).makefile("rwb")

    def send(self, **kind):
        body = BranchMessage(**kind).SerializeToString()
        length, size = bytearray(), len(body)
        while size >= 0x80:
            length.append(size & 0x7F | 0x80)
            size >>= 7
        self.stream.write(bytes(length) + bytes([size]) + body)
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
                return BranchMessage.FromString(self.stream.read(size))


def open_bank(branches, total):
    share, rest = divmod(total, len(branches))
    roster = [dict(name=b.name, ip=b.ip, port=b.port) for b in branches]
    for i, branch in enumerate(branches):
        branch.send(init_branch=dict(balance=share + (i < rest), all_branches=roster))


def snapshot(branches, snapshot_id):
    """Takes one snapshot, prints it, and returns the sum of all the money in it."""
    random.choice(branches).send(init_snapshot=dict(snapshot_id=snapshot_id))
    for branch in branches:
        branch.send(retrieve_snapshot=dict(snapshot_id=snapshot_id))
    print(f"snapshot_id: {snapshot_id}")
    money = 0
    for branch in branches:
        answer = branch.receive()
        if not answer.HasField("return_snapshot"):
            sys.exit(f"{branch.name} answered {answer}")
        local = answer.return_snapshot.local_snapshot
        senders = [b.name for b in branches if b is not branch]
        print(", ".join([f"{branch.name}: {local.balance}"] + [
            f"{sender}->{branch.name}: {amount}" for sender, amount in zip(senders, local.channel_state)]))
        money += local.balance + sum(local.channel_state)
    print(flush=True)
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

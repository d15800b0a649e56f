#!/usr/bin/env python3
"""Wrong: each message is sent by a thread of its own, so that they leave in any order."""
import random
import threading
import time

from branch import MARKER, TRANSFER, Branch, Stream, main


class Unordered(Stream):
    def send(self, field, body):
        if field not in (TRANSFER, MARKER):
            return super().send(field, body)
        threading.Thread(target=self.later, args=(field, body), daemon=True).start()

    def later(self, field, body):
        time.sleep(random.uniform(0, 0.02))
        super().send(field, body)


class Wrong(Branch):
    stream = Unordered


main(Wrong)

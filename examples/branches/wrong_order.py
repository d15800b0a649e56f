#!/usr/bin/env python3
"""Wrong: the channels are told in another order than the file's."""
from branch import Branch, main


class Wrong(Branch):
    def states(self, snapshot):
        return list(snapshot.channels.values())[::-1]


main(Wrong)

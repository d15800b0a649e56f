#!/usr/bin/env python3
"""Wrong: channels without money are left out, so that nobody knows whose the others are."""
from branch import Branch, main


class Wrong(Branch):
    def states(self, snapshot):
        return [money for money in snapshot.channels.values() if money]


main(Wrong)

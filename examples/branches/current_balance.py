#!/usr/bin/env python3
"""Wrong: amounts are a share of the present balance, not of the initial one."""
import random

from branch import Branch, main


class Wrong(Branch):
    def amount(self):
        return max(1, int(self.balance * random.uniform(0.01, 0.05)))


main(Wrong)

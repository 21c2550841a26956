"""Mirrors measured: what each brings over how many connections, whether its object is the others', and why.

`run.py` is the whole: rounds of short slices, all mirrors in each, in an order that is shuffled anew, and
never two at the same time, for they would share the path from here. A slice is one mirror at one number of
connections, over random ranges of the object; its first part is warm-up and left out. What remains is one
sample of that mirror's rate; the interval comes from the rounds' samples by bootstrap. `slices.py` and
`looking.py` ask, over the engine of all transfers, `counting.py` makes the report of what they found; the
rest is pure, but for what draws and writes.
"""

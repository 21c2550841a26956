"""A whole data set, kept the same here as at its source: what it has (`listing`), what of that is here
already (`ledger`, `compare`), and so what there is to do (`planning`).
"""

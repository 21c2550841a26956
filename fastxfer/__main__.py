"""`python -m fastxfer` is the command `fastxfer`."""

import sys

from fastxfer.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

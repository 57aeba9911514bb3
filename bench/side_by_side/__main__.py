"""python -m gla_tune.bench"""

import signal
import sys

from .cli import main

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that `timeout` leaves no child on the GPU
    sys.exit(main(sys.argv[1:]))

"""`python -m openrs.training STAGE.json`."""

import os
import sys

from openrs.training.entry import main

code = main(sys.argv[1:])
sys.stdout.flush()
sys.stderr.flush()
# Not sys.exit: all that matters is on the disk by now, and exit handlers may wait for what is busy or gone (the client
# of the generation server says good-bye to it, NCCL waits for the other ranks).
os._exit(code)

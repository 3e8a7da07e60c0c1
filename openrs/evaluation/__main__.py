"""`python -m openrs.evaluation STAGE.json --task I`."""

import os
import sys

from openrs.evaluation.entry import main

code = main(sys.argv[1:])
sys.stdout.flush()
sys.stderr.flush()
# Not sys.exit: every result is on the disk by now, and unloading torch takes a second.
os._exit(code)

"""The broker of mirai: it matches tasks to daemons and never looks inside a payload.

``messages`` says what peers may tell each other, ``wire`` turns that into frames and back,
``core`` decides (no socket, no clock), ``server`` obeys the core's commands, ``lines`` and
``router`` are the ways on which peers come, ``nursery`` keeps the local daemons alive, and
``security`` says who may connect.  Nothing here imports the client.
"""

# Before msgspec, which imports it in C and does not look whether that worked: Ctrl-C at that
# moment would be swallowed, and end in a segmentation fault later.
import datetime as _datetime  # noqa: F401
import sys as _sys

__version__ = "0.1.0"
PYTHON = "{}.{}".format(*_sys.version_info)
"""This version of Python, which all peers must have: what one pickles, another must read."""

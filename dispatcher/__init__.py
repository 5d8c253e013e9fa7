"""The broker of mirai: it matches tasks to daemons and never looks inside a payload.

``messages`` says what peers may tell each other, ``wire`` turns that into frames and back,
``core`` decides (no socket, no clock), ``server`` obeys the core's commands, ``processes``
keeps the local daemons alive, and ``security`` holds the keys.  Nothing here imports the client.
"""

__version__ = "0.1.0"

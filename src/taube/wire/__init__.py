"""The floor both sides stand on: frames, their codec, errors and the connection's state machine, without I/O."""
